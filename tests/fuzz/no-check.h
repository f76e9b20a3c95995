/* Check's assertions for a program that does not run under Check: a failure aborts. */
#pragma once
#include <glib.h>
#include "tests/fuzz/fuzz.h"

#define ck_abort_msg(...) fuzz_fail(__VA_ARGS__)
#define ck_assert_msg(condition, ...)                                                              \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg(__VA_ARGS__);                                                             \
    } while (0)
#define ck_assert(condition) ck_assert_msg(condition, "%s", #condition)
#define ck_assert_int_eq(a, b) ck_assert((a) == (b))
#define ck_assert_uint_lt(a, b) ck_assert((a) < (b))
#define ck_no_error(error) ck_assert_msg(!(error), "%s", (error)->message)
