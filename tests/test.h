/* What every test program includes: Check, without the macros of its oldest interface (fail() is
 * ours), and a main() that runs one case. */
#pragma once
#include <check.h>
#undef fail
#undef fail_if
#undef fail_unless

/* Runs the tests that @add puts into a case; the program's exit status. */
static inline int run_tests(const char *name, void (*add)(TCase *tc))
{
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    add(tc);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
