/* What fuzz targets share: taking numbers from the input.  At its end every number is 0. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

typedef struct Input {
    const uint8_t *p, *end;
} Input;

static inline uint64_t take(Input *in, unsigned bytes)
{
    uint64_t value = 0;
    size_t left = in->end - in->p, n = bytes < left ? bytes : left;

    memcpy(&value, in->p, n);
    in->p += n;
    return value;
}
