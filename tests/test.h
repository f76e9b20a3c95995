/* What every test program includes: Check, without the macros of its oldest interface (fail() is
 * ours), and a main() that runs one case. */
#pragma once
#ifdef FUZZING
#include "tests/fuzz/no-check.h"
#else
#include <check.h>
#include <glib.h>
#include <string.h>
#undef fail
#undef fail_if
#undef fail_unless

/* Check would write to its parent after each assertion, a system call for each, to be able to say where a
 * test was when it died.  It names the test without that. */
#define _mark_point(file, line) ((void)0)

enum { TEST_SECONDS = 60 };                /* what a test may take, unless it says otherwise */

/* Runs the tests that @add puts into a case; the program's exit status. */
static inline int run_tests(const char *name, void (*add)(TCase *tc))
{
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    tcase_set_timeout(tc, TEST_SECONDS);
    add(tc);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

/* The error is there, and its text has @part in it.  Frees it. */
#define ck_error(error, part)                                                                      \
    do {                                                                                           \
        ck_assert_msg((error) != NULL, "no error, \"%s\" was expected", part);                     \
        ck_assert_msg(strstr((error)->message, part) != NULL, "\"%s\" lacks \"%s\"",               \
                      (error)->message, part);                                                     \
        g_clear_error(&(error));                                                                   \
    } while (0)

#define ck_no_error(error) ck_assert_msg((error) == NULL, "%s", (error) ? (error)->message : "")
#endif
