/* Errors: codes, classes, objects, hints. */
#include <errno.h>
#include <string.h>
#include "src/base/error.h"
#include "tests/test.h"

static bool deep(GError **error)
{
    fail(error, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", "disk9");
    error_object(error, "/machine/peripheral/%s", "disk9");
    return error_hint(error, "did you mean '%s'?", "disk0");
}

START_TEST(an_error_carries_its_parts)
{
    g_autoptr(GError) error = NULL;
    ck_assert(!deep(&error));
    ck_assert(!error_prefix(&error, "device_del: "));
    ck_assert_str_eq(error->message, "device_del: Device 'disk9' not found");
    ck_assert_int_eq(error_get_code(error), ERR_DEVICE_NOT_FOUND);
    ck_assert_str_eq(error_get_object(error), "/machine/peripheral/disk9");
    ck_assert_str_eq(error_get_hint(error), "did you mean 'disk0'?");
    g_autoptr(GError) copy = g_error_copy(error);
    ck_assert_str_eq(error_get_hint(copy), "did you mean 'disk0'?");
    ck_assert_ptr_ne(error_get_hint(copy), error_get_hint(error));
}
END_TEST

START_TEST(nobody_need_look)
{
    ck_assert(!deep(NULL));
    ck_assert(!fail_errno(NULL, ENOENT, "x"));
    GError *none = NULL;
    ck_assert(!error_hint(&none, "h"));
    ck_assert(!error_prefix(&none, "p"));
    ck_assert_ptr_null(none);
}
END_TEST

START_TEST(errno_gives_words_and_code)
{
    static const struct {
        int err;
        ErrorCode code;
    } cases[] = {
        { ENOENT, ERR_NOT_FOUND }, { EACCES, ERR_PERMISSION }, { EPERM, ERR_PERMISSION },
        { ENOSPC, ERR_NO_SPACE },  { EBUSY, ERR_IN_USE },      { EEXIST, ERR_EXISTS },
        { EIO, ERR_IO },           { ETIMEDOUT, ERR_TIMEOUT }, { EBADF, ERR_HOST },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        ck_assert(!fail_errno(&error, cases[i].err, "cannot open '%s'", "f"));
        ck_assert_int_eq(error_get_code(error), cases[i].code);
        ck_assert(g_str_has_prefix(error->message, "cannot open 'f': "));
        ck_assert(g_str_has_suffix(error->message, g_strerror(cases[i].err)));
    }
}
END_TEST

START_TEST(every_code_has_a_name)
{
    for (int a = 0; a < ERR__COUNT; a++) {
        ck_assert_ptr_nonnull(error_code_name(a));
        for (int b = 0; b < a; b++)
            ck_assert_str_ne(error_code_name(a), error_code_name(b));
    }
    ck_assert_str_eq(error_code_class(ERR_LIMIT), "GenericError");
    ck_assert_str_eq(error_code_class(ERR_COMMAND_NOT_FOUND), "CommandNotFound");
    ck_assert_str_eq(error_code_class(ERR_DEVICE_NOT_ACTIVE), "DeviceNotActive");
}
END_TEST

START_TEST(foreign_errors_are_generic)
{
    g_autoptr(GError) error = g_error_new(G_FILE_ERROR, G_FILE_ERROR_NOENT, "gone");
    ck_assert_int_eq(error_get_code(error), ERR_GENERIC);
    ck_assert_ptr_null(error_get_hint(error));
    ck_assert_ptr_null(error_get_object(error));
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, an_error_carries_its_parts);
    tcase_add_test(tc, nobody_need_look);
    tcase_add_test(tc, errno_gives_words_and_code);
    tcase_add_test(tc, every_code_has_a_name);
    tcase_add_test(tc, foreign_errors_are_generic);
}

int main(void)
{
    return run_tests("error", add);
}
