/* Descriptors that were passed in. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include "src/base/fdset.h"
#include "tests/test.h"

START_TEST(sets_open_as_files)
{
    g_autoptr(GError) error = NULL;
    char path[] = "/tmp/vireo-fdset-XXXXXX", name[64];
    int64_t id = -1;
    int rw = mkstemp(path);
    ck_assert(fdset_add(rw, -1, "image", &id, NULL));
    g_snprintf(name, sizeof(name), "/dev/fdset/%d", (int)id);
    ck_assert_int_eq(file_open(name, O_RDONLY, 0, &error), -1);
    ck_assert_int_eq(error_get_code(error), ERR_PERMISSION);
    g_clear_error(&error);
    ck_assert(fdset_add(open(path, O_RDONLY), id, NULL, NULL, NULL));
    int fd = file_open(name, O_RDWR, 0, NULL), ro = file_open(name, O_RDONLY, 0, NULL);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_ge(ro, 0);
    ck_assert(fdset_remove(id, -1, NULL));
    ck_assert_int_eq(write(fd, "x", 1), 1); /* the duplicate lives on */
    char c = 0;
    ck_assert_int_eq(read(ro, &c, 1), 1);
    ck_assert_int_eq(c, 'x');
    ck_assert_int_eq(file_open(name, O_RDWR, 0, &error), -1);
    ck_assert_int_eq(error_get_code(error), ERR_NOT_FOUND);
    close(fd);
    close(ro);
    unlink(path);
}
END_TEST

static void expect_query(const char *want)
{
    json_object *got = fdset_query();
    ck_assert_str_eq(json_object_to_json_string_ext(got, JSON_C_TO_STRING_PLAIN), want);
    json_object_put(got);
}

START_TEST(query_and_remove)
{
    g_autoptr(GError) error = NULL;
    expect_query("[]");
    int a = dup(0), b = dup(0), c = dup(0);
    g_autofree char *want = g_strdup_printf("[{\"fdset-id\":0,\"fds\":[{\"fd\":%d}]},{\"fdset-id\":7"
                                            ",\"fds\":[{\"fd\":%d,\"opaque\":\"me\"},{\"fd\":%d}]}]",
                                            c, a, b);
    ck_assert(fdset_add(a, 7, "me", NULL, NULL));
    ck_assert(fdset_add(b, 7, NULL, NULL, NULL));
    ck_assert(fdset_add(c, -1, NULL, NULL, NULL));
    expect_query(want);
    ck_assert(fdset_remove(0, c, NULL));
    ck_assert(!fdset_remove(0, c, &error));
    ck_assert_int_eq(fcntl(c, F_GETFD), -1);
    ck_assert(fdset_remove(7, -1, NULL));
    expect_query("[]");
    fdset_clear();
}
END_TEST

START_TEST(names_are_used_up)
{
    g_autoptr(GError) error = NULL;
    int a = dup(0), b = dup(0);
    ck_assert(fd_name_put("tap", a, NULL));
    ck_assert(fd_name_put("tap", b, NULL)); /* replaced: a is closed */
    ck_assert_int_eq(fcntl(a, F_GETFD), -1);
    ck_assert_int_eq(fd_name_take("tap", NULL), b);
    ck_assert_int_eq(fd_name_take("tap", &error), -1);
    ck_assert_str_eq(error->message, "File descriptor named 'tap' not found");
    g_clear_error(&error);
    ck_assert(!fd_name_put("7up", dup(0), &error));
    g_clear_error(&error);
    ck_assert_int_eq(fd_name_take("0", NULL), 0);
    ck_assert_int_eq(fd_name_take("999", &error), -1);
    g_clear_error(&error);
    ck_assert_int_eq(fd_name_take("1x", &error), -1);
    close(b);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, sets_open_as_files);
    tcase_add_test(tc, query_and_remove);
    tcase_add_test(tc, names_are_used_up);
}

int main(void)
{
    return run_tests("fdset", add);
}
