/* Values of the schema's types: parsing with exact errors, building, freeing. */
#include <string.h>
#include "schema/types.h"
#include "src/base/options.h"
#include "tests/test.h"

static json_object *json(const char *text)
{
    g_autofree char *quoted = g_strdelimit(g_strdup(text), "'", '"');
    g_autoptr(GError) error = NULL;
    json_object *value = json_parse(quoted, strlen(quoted), &error);
    ck_assert_msg(value != NULL, "%s: %s", text, value ? "" : error->message);
    return value;
}

static void check_error(const QmpType *type, const char *text, ErrorCode code, const char *message,
                        const char *hint)
{
    g_autoptr(json_object) value = json(text);
    g_autoptr(GError) error = NULL;
    void *place = NULL;
    ck_assert_msg(!qmp_parse(type, value, "argument", &place, &error), "%s was taken", text);
    ck_assert_ptr_null(place);
    ck_assert_str_eq(error->message, message);
    ck_assert_int_eq(error_get_code(error), code);
    ck_assert_pstr_eq(error_get_hint(error), hint);
}

/* Parses, builds, and compares: what is there comes back, and nothing else. */
static void check_round_trip(const QmpType *type, const char *text)
{
    g_autoptr(json_object) value = json(text);
    g_autoptr(GError) error = NULL;
    void *place = NULL;
    ck_assert_msg(qmp_parse(type, value, "argument", &place, &error), "%s: %s", text,
                  error ? error->message : "");
    g_autoptr(json_object) back = qmp_build(type, &place);
    ck_assert_msg(json_object_equal(value, back), "%s came back as %s", text,
                  json_object_to_json_string(back));
    qmp_clear(type, &place);
    ck_assert_ptr_null(place);
}

START_TEST(round_trips)
{
    check_round_trip(&qmp_type_version_info,
                     "{'qemu': {'major': 1, 'minor': -2, 'micro': 9007199254740993}, 'package': 'p'}");
    check_round_trip(&qmp_type_blockdev_options,
                     "{'driver': 'raw', 'node-name': 'n', 'read-only': true, 'offset': 512,"
                     " 'size': 18446744073709551615,"
                     " 'file': {'driver': 'file', 'filename': '/x', 'aio': 'io_uring',"
                     " 'cache': {'direct': true}}}");
    check_round_trip(&qmp_type_blockdev_options, "{'driver': 'raw', 'file': 'other'}");
    check_round_trip(&qmp_type_chardev_backend,
                     "{'type': 'socket', 'data': {'addr': {'type': 'unix', 'data': {'path': '/s'}},"
                     " 'server': false}}");
    check_round_trip(&qmp_type_schema_info,
                     "{'name': 'x', 'meta-type': 'enum', 'members': [{'name': 'a'}],"
                     " 'values': ['a'], 'features': []}");
    check_round_trip(&qmp_type_cpu_model_info, "{'name': 'x', 'props': {'a': [1, 2.5, null, {}]}}");
}
END_TEST

START_TEST(missing_members)
{
    check_error(&qmp_type_version_info, "{'qemu': {'major': 1, 'minor': 2}, 'package': 'p'}",
                ERR_MISSING_PARAMETER, "argument 'qemu.micro' is missing", NULL);
    check_error(&qmp_type_version_info, "{}", ERR_MISSING_PARAMETER, "argument 'qemu' is missing",
                NULL);
    check_error(&qmp_type_blockdev_options, "{'driver': 'file'}", ERR_MISSING_PARAMETER,
                "argument 'filename' is missing", NULL);
}
END_TEST

START_TEST(unknown_members)
{
    check_error(&qmp_type_version_triple, "{'major': 1, 'minor': 2, 'micro': 3, 'nano': 4}",
                ERR_UNKNOWN_PARAMETER, "unknown argument 'nano'", NULL);
    check_error(&qmp_type_blockdev_options, "{'driver': 'file', 'filname': 'x', 'filename': 'x'}",
                ERR_UNKNOWN_PARAMETER, "unknown argument 'filname'", "did you mean 'filename'?");
    check_error(&qmp_type_blockdev_options,
                "{'driver': 'raw', 'file': {'driver': 'file', 'filename': 'x', 'offset': 1}}",
                ERR_UNKNOWN_PARAMETER, "unknown argument 'file.offset'", NULL);
}
END_TEST

START_TEST(wrong_types)
{
    check_error(&qmp_type_version_triple, "{'major': '1', 'minor': 2, 'micro': 3}", ERR_WRONG_TYPE,
                "argument 'major': expected an integer, found a string", NULL);
    check_error(&qmp_type_version_triple, "{'major': 1.5, 'minor': 2, 'micro': 3}", ERR_WRONG_TYPE,
                "argument 'major': expected an integer, found a number with a fraction", NULL);
    check_error(&qmp_type_version_triple, "{'major': null, 'minor': 2, 'micro': 3}", ERR_WRONG_TYPE,
                "argument 'major': expected an integer, found null", NULL);
    check_error(&qmp_type_version_triple, "[]", ERR_WRONG_TYPE,
                "arguments: expected an object, found an array", NULL);
    check_error(&qmp_type_blockdev_options, "{'driver': 'raw', 'file': 7}", ERR_WRONG_TYPE,
                "argument 'file': expected an object or a string, found an integer", NULL);
    check_error(&qmp_type_schema_info,
                "{'name': 'x', 'meta-type': 'enum', 'members': [{'name': 'a'}, {'name': true}],"
                " 'values': []}", ERR_WRONG_TYPE,
                "argument 'members[1].name': expected a string, found a boolean", NULL);
    check_error(&qmp_type_blockdev_options, "{'driver': 'file', 'filename': 'x', 'read-only': 1}",
                ERR_WRONG_TYPE, "argument 'read-only': expected a boolean, found an integer", NULL);
}
END_TEST

START_TEST(strings_have_no_nul)
{
    g_autoptr(json_object) value = json_object_new_string_len("a\0b", 3);
    g_autoptr(GError) error = NULL;
    char *text = NULL;
    ck_assert(!qmp_parse(&qmp_type_str, value, "argument", &text, &error));
    ck_assert_str_eq(error->message, "arguments: the string contains a NUL character");
    ck_assert_ptr_null(text);
}
END_TEST

START_TEST(ranges)
{
    check_error(&qmp_type_blockdev_options,
                "{'driver': 'file', 'filename': 'x', 'aio-max-batch': 4294967296}",
                ERR_INVALID_PARAMETER,
                "argument 'aio-max-batch': 4294967296 is not in the range 0 to 4294967295", NULL);
    check_error(&qmp_type_blockdev_options, "{'driver': 'null-co', 'size': -1}",
                ERR_INVALID_PARAMETER,
                "argument 'size': -1 is not in the range 0 to 18446744073709551615", NULL);
    check_error(&qmp_type_version_triple,
                "{'major': 9223372036854775808, 'minor': 2, 'micro': 3}", ERR_INVALID_PARAMETER,
                "argument 'major': 9223372036854775808 is not in the range "
                "-9223372036854775808 to 9223372036854775807", NULL);
}
END_TEST

START_TEST(enum_words)
{
    check_error(&qmp_type_migration_capability_status, "{'capability': 'event', 'state': true}",
                ERR_INVALID_PARAMETER, "argument 'capability': 'event' is not one of: events",
                "did you mean 'events'?");
    check_error(&qmp_type_blockdev_options, "{'driver': 'raw', 'detect-zeroes': 'sometimes'}",
                ERR_INVALID_PARAMETER,
                "argument 'detect-zeroes': 'sometimes' is not one of: off, on, unmap", NULL);
}
END_TEST

START_TEST(text_of_the_host_becomes_utf8)
{
    QmpNameInfo info = { .name = (char *)"a\xff" "b" };
    g_autoptr(json_object) built = qmp_build_struct(&qmp_type_name_info, &info);
    json_object *name;
    ck_assert(json_object_object_get_ex(built, "name", &name));
    ck_assert_str_eq(json_object_get_string(name), "a\xef\xbf\xbd" "b");
}
END_TEST

START_TEST(enums_have_their_words)
{
    ck_assert_str_eq(qmp_run_state_words[QMP_RUN_STATE_GUEST_PANICKED], "guest-panicked");
    ck_assert_str_eq(qmp_run_state_words[QMP_RUN_STATE_DEBUG], "debug");
    ck_assert_ptr_null(qmp_run_state_words[QMP_RUN_STATE__COUNT]);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, round_trips);
    tcase_add_test(tc, missing_members);
    tcase_add_test(tc, unknown_members);
    tcase_add_test(tc, wrong_types);
    tcase_add_test(tc, strings_have_no_nul);
    tcase_add_test(tc, ranges);
    tcase_add_test(tc, enum_words);
    tcase_add_test(tc, text_of_the_host_becomes_utf8);
    tcase_add_test(tc, enums_have_their_words);
}

int main(void)
{
    return run_tests("qmp-marshal", add_tests);
}
