/*
 * Libraries that are loaded when they are first needed.  GnuTLS and libnbd bring a dozen others
 * along; linking them would double the time until a guest's first instruction, for guests that use
 * neither.
 *
 * A library's table names the functions that are called.  LAZY_FUNCTION defines each as a jump
 * through a pointer, so that callers include the library's header and call as ever; the pointers
 * are filled in by lazy_library_load, which must have returned true before.
 */
#pragma once
#include <pthread.h>
#include "src/base/error.h"

typedef struct LazyFunction {
    const char *name;
    void **at;
} LazyFunction;

typedef struct LazyLibrary {
    const char *file;                      /* "libnbd.so.0" */
    const char *package;                   /* Debian's, for the hint */
    const LazyFunction *functions;         /* ended by a NULL name */
    pthread_mutex_t lock;
    bool loaded;                           /* lock */
} LazyLibrary;

/* Any thread; the first call takes milliseconds, the others nothing.  A library stays loaded. */
bool lazy_library_load(LazyLibrary *library, GError **error);

/* The jump keeps all argument registers, so that any function can stand behind it. */
#define LAZY_FUNCTION(name)                                                                        \
    static void *lazy_##name __attribute__((used));                                                \
    __asm__(".text\n"                                                                              \
            ".globl " #name "\n"                                                                   \
            ".hidden " #name "\n"                                                                  \
            ".type " #name ", @function\n" #name ":\n"                                             \
            "    jmp *lazy_" #name "(%rip)\n"                                                      \
            ".size " #name ", . - " #name "\n");
#define LAZY_ENTRY(name) { #name, &lazy_##name },
