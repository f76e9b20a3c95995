/* Small helpers that GLib 2.74 lacks. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#define KiB (1ull << 10)
#define MiB (1ull << 20)
#define GiB (1ull << 30)
#define TiB (1ull << 40)

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define ALIGN_DOWN(n, a) ((n) / (a) * (a))
#define ALIGN_UP(n, a) ALIGN_DOWN((n) + (a)-1, (a))
#define WARN_UNUSED __attribute__((warn_unused_result))

/* A descriptor closed at the end of its scope. */
static inline void auto_fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
#define auto_fd __attribute__((cleanup(auto_fd_close))) int

static inline int steal_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

static inline bool is_power_of_2(uint64_t n)
{
    return n && !(n & (n - 1));
}

/* Little-endian values at unaligned places (guest memory, images, tables). */
#define DEFINE_LE(bits)                                                                            \
    static inline uint##bits##_t ld_le##bits(const void *p)                                        \
    {                                                                                              \
        uint##bits##_t v;                                                                          \
        __builtin_memcpy(&v, p, sizeof(v));                                                        \
        return GUINT##bits##_FROM_LE(v);                                                           \
    }                                                                                              \
    static inline void st_le##bits(void *p, uint##bits##_t v)                                      \
    {                                                                                              \
        v = GUINT##bits##_TO_LE(v);                                                                \
        __builtin_memcpy(p, &v, sizeof(v));                                                        \
    }                                                                                              \
    static inline uint##bits##_t ld_be##bits(const void *p)                                        \
    {                                                                                              \
        uint##bits##_t v;                                                                          \
        __builtin_memcpy(&v, p, sizeof(v));                                                        \
        return GUINT##bits##_FROM_BE(v);                                                           \
    }                                                                                              \
    static inline void st_be##bits(void *p, uint##bits##_t v)                                      \
    {                                                                                              \
        v = GUINT##bits##_TO_BE(v);                                                                \
        __builtin_memcpy(p, &v, sizeof(v));                                                        \
    }
DEFINE_LE(16)
DEFINE_LE(32)
DEFINE_LE(64)
#undef DEFINE_LE
