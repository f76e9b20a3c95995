/* Entropy sources (-object rng-random, rng-builtin): what virtio-rng reads from.  Main loop. */
#pragma once
#include "src/object/object.h"

typedef struct RngBackend RngBackend;

/* Type.ops of a type that is_a "rng-backend". */
typedef struct RngBackendOps {
    /* Fills up to @length bytes now: how many, 0 if none are there yet (rng_when_ready tells), or
     * -errno. */
    ssize_t (*read)(RngBackend *rng, void *buffer, size_t length);
    /* Calls @fn once, from the main loop, when there is something again.  NULL: read never returns
     * 0.
     * @fn NULL: not any more. */
    void (*when_ready)(RngBackend *rng, void (*fn)(void *opaque), void *opaque);
} RngBackendOps;

struct RngBackend {
    Object obj;
};
#define RNG_BACKEND(ptr) ((RngBackend *)(ptr))

ssize_t rng_read(RngBackend *rng, void *buffer, size_t length);
void rng_when_ready(RngBackend *rng, void (*fn)(void *opaque), void *opaque);
