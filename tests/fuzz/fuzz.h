/* What fuzz targets share: numbers from the input, the CPU time an input may use, the clock. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

typedef struct Input {
    const uint8_t *p, *end;
} Input;

/* A number of @bytes bytes; at the end of the input every number is 0. */
static inline uint64_t take(Input *in, unsigned bytes)
{
    uint64_t value = 0;
    size_t left = in->end - in->p, n = bytes < left ? bytes : left;

    memcpy(&value, in->p, n);
    in->p += n;
    return value;
}

/* A finding: a message, and the end of the process (not by g_error, whose signal libFuzzer does not take for
 * a finding). */
#define fuzz_fail(...)                                                                             \
    do {                                                                                           \
        fprintf(stderr, "fuzz: " __VA_ARGS__);                                                     \
        fputc('\n', stderr);                                                                       \
        abort();                                                                                   \
    } while (0)

/*
 * At the start of an input: aborts if the process uses more than some seconds of CPU time from here
 * on.  libFuzzer's own -timeout counts the time on the wall, also while the process is stopped or
 * waits for its turn on a busy machine; it is left to find what sleeps for ever.
 */
void fuzz_limit_cpu(void);

/* fuzz-clock.c: what clocks show is this much ahead of the host's.  Only grows. */
void fuzz_clock_advance(uint64_t ns);
