/* The secret object: where its bytes come from, and that they do not come back. */
#include <string.h>
#include <unistd.h>
#include "src/base/options.h"
#include "src/object/secret.h"
#include "tests/test.h"

static Object *make(Object *root, const char *options, GError **error)
{
    g_autoptr(json_object) parsed = options_parse(options, "qom-type", error);
    ck_assert_ptr_nonnull(parsed);
    return object_create_user(root, parsed, error);
}

static void check_bytes(const char *options, const char *want, size_t length)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) root = object_new(type_find("container"));
    Object *secret = make(root, options, &error);
    ck_assert_msg(secret != NULL, "%s", error ? error->message : "");
    gsize n;
    const void *bytes = g_bytes_get_data(secret_data(secret), &n);
    ck_assert_uint_eq(n, length);
    ck_assert_mem_eq(bytes, want, length);
    json_object *back = object_get(secret, "data", &error);
    ck_assert_ptr_null(back);
}

static void check_refused(const char *options, const char *message)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) root = object_new(type_find("container"));
    ck_assert_ptr_null(make(root, options, &error));
    ck_assert_str_eq(error->message, message);
}

START_TEST(bytes)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("vireo-secret-XXXXXX", &path, NULL);
    ck_assert_int_eq(write(fd, "\0\1key", 5), 5);
    close(fd);
    g_autofree char *from_file = g_strdup_printf("secret,id=s0,format=raw,file=%s", path);
    check_bytes("secret,id=s0,data=letmein", "letmein", 7);
    check_bytes("secret,id=s0,data=AAFrZXk=,format=base64", "\0\1key", 5);
    check_bytes(from_file, "\0\1key", 5);
    unlink(path);
}
END_TEST

START_TEST(refusals)
{
    check_refused("secret,id=s0", "object 's0': secret 's0' needs either data= or file=");
    check_refused("secret,id=s0,data=x,file=y", "object 's0': secret 's0' needs either data= or file=");
    check_refused("secret,id=s0,data=a b,format=base64", "object 's0': secret 's0' is not base64");
    check_refused("secret,id=s0,data=x,keyid=other",
                  "object 's0': secret 's0': keyid=: encrypted secrets are not offered");
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, bytes);
    tcase_add_test(tc, refusals);
}

int main(void)
{
    return run_tests("secret", add_tests);
}
