/*
 * Tests that are repeated with many seeds in one process.  However a test ends that fails, by an assertion, a
 * signal, a sanitizer or by hanging, it says with which seed.
 *
 * VIREO_TEST_SEEDS says how many there are, VIREO_TEST_SEED that there is only this one.
 */
#pragma once
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "tests/test.h"
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#include <sanitizer/common_interface_defs.h>
#define SEEDS_SANITIZED 1
#else
#define SEEDS_SANITIZED 0
#endif

enum { SEED_SECONDS = 60 };                /* no seed takes so long */

static unsigned seed_now;                  /* 0: none */

static inline void seed_tell(void)
{
    if (seed_now)
        fprintf(stderr, "failed with seed %u (VIREO_TEST_SEED=%u replays it)\n", seed_now, seed_now);
}

/* In every assertion from here on. */
#define _ck_assert_failed(...) (seed_tell(), _ck_assert_failed(__VA_ARGS__))

static inline void seed_died(int number)
{
    seed_tell();
    signal(number, SIG_DFL);
    raise(number);
}

static inline void seed_watch(void)
{
    signal(SIGABRT, seed_died);
    signal(SIGALRM, seed_died);
#if SEEDS_SANITIZED
    __sanitizer_set_death_callback(seed_tell);
#else
    signal(SIGSEGV, seed_died);
#endif
}

/* The one after *seed (0: the first) of @count, a tenth of them where sanitizers make everything slow.
 * False: there is none. */
static inline bool next_seed(unsigned *seed, unsigned count)
{
    const char *one = g_getenv("VIREO_TEST_SEED"), *many = g_getenv("VIREO_TEST_SEEDS");

    if (!*seed)
        seed_watch();
    if (many)
        count = atoi(many);
    else if (SEEDS_SANITIZED)
        count = MAX(count / 10, 1);
    if (one)
        *seed = *seed ? 0 : atoi(one);
    else
        *seed = *seed < count ? *seed + 1 : 0;
    seed_now = *seed;
    alarm(*seed ? SEED_SECONDS : 0);
    return *seed != 0;
}
