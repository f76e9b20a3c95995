/* Trace events and the log. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "src/base/error.h"
#include "src/base/trace.h"
#include "tests/test.h"

static void first(int n)
{
    TRACE(test_first, "n %d", n);
}

static void second(void)
{
    TRACE(test_second, "nothing more");
}

static void second_again(void)
{
    TRACE(test_second, "elsewhere");
}

static char log_path[] = "/tmp/vireo-trace-XXXXXX";

static void open_log(void)
{
    int fd = mkstemp(log_path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert(trace_open_log(log_path, NULL));
}

static char *read_log(void)
{
    char *text = NULL;
    trace_open_log(NULL, NULL);
    ck_assert(g_file_get_contents(log_path, &text, NULL, NULL));
    unlink(log_path);
    return text;
}

START_TEST(only_what_is_on_is_written)
{
    open_log();
    first(1);
    ck_assert_uint_eq(trace_set("test_fir*", true), 1);
    first(2);
    second();
    ck_assert_uint_eq(trace_set("*", false) >= 3, 1);
    first(3);
    ck_assert_uint_eq(trace_set("no_such_*", true), 0);
    g_autofree char *text = read_log();
    ck_assert_ptr_nonnull(strstr(text, " test_first n 2\n"));
    ck_assert_ptr_null(strstr(text, "n 1"));
    ck_assert_ptr_null(strstr(text, "n 3"));
    ck_assert_ptr_null(strstr(text, "test_second"));
}
END_TEST

static void collect(const char *name, bool enabled, void *opaque)
{
    g_string_append_printf(opaque, "%s=%d ", name, enabled);
}

START_TEST(names_are_listed_once)
{
    g_autoptr(GString) list = g_string_new(NULL);
    second_again();
    ck_assert_uint_eq(trace_set("test_second", true), 2);
    trace_foreach("test_*", collect, list);
    ck_assert_str_eq(list->str, "test_first=0 test_second=1 ");
    trace_set("*", false);
}
END_TEST

START_TEST(log_categories)
{
    GError *error = NULL;
    ck_assert(!log_on(LOG_UNIMP));
    ck_assert(log_set_mask("unimp,guest_errors", NULL));
    ck_assert(log_on(LOG_UNIMP));
    ck_assert(!log_on(LOG_CPU_RESET));
    ck_assert(!log_set_mask("unimp,bogus", &error));
    ck_assert_int_eq(error_get_code(error), ERR_INVALID_PARAMETER);
    g_clear_error(&error);
    ck_assert(!trace_open_log("/no/such/place/log", &error));
    ck_assert_int_eq(error_get_code(error), ERR_NOT_FOUND);
    g_clear_error(&error);
}
END_TEST

START_TEST(guest_errors_are_limited)
{
    open_log();
    guest_error("dev", "silent %d", 1);
    log_set_mask("guest_errors", NULL);
    for (int i = 0; i < 100000; i++)
        guest_error("dev", "mistake %d", i);
    guest_error("dev", "another");
    g_autofree char *text = read_log();
    ck_assert_ptr_null(strstr(text, "silent"));
    ck_assert_ptr_nonnull(strstr(text, "guest-error dev: mistake 0\n"));
    ck_assert_ptr_nonnull(strstr(text, "dev: another\n"));
    ck_assert_uint_lt(strlen(text), 20000);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, only_what_is_on_is_written);
    tcase_add_test(tc, names_are_listed_once);
    tcase_add_test(tc, log_categories);
    tcase_add_test(tc, guest_errors_are_limited);
}

int main(void)
{
    return run_tests("trace", add);
}
