/* Property kinds: what they take, what they refuse, and in which words. */
#include "src/base/options.h"
#include "src/object/object.h"
#include "tests/test.h"

typedef struct Gadget {
    Object obj;
    bool flag;
    uint8_t u8;
    uint16_t u16;
    uint32_t u32, bits, size32;
    uint64_t u64, bits64, size;
    int32_t i32;
    int64_t i64;
    char *text;
    int color;
    OnOffAuto mode;
    uint8_t uuid[16], mac[6];
    Object *link;
    unsigned changes;
} Gadget;

static json_object *get_twice(Object *obj, const Property *prop)
{
    return json_object_new_int(2 * ((Gadget *)obj)->u8);
}

static void count_change(Object *obj)
{
    ((Gadget *)obj)->changes++;
}

static const char *const colors[] = { "red", "green", "blue", NULL };

static const Property gadget_props[] = {
    PROP("flag", Gadget, flag, .def.b = true),
    PROP("u8", Gadget, u8),
    PROP("u16", Gadget, u16, .min = 2, .max = 1024, .def.u = 256),
    PROP("queue-size", Gadget, u32),
    PROP("u64", Gadget, u64, .runtime = true, .changed = count_change),
    PROP("i32", Gadget, i32, .def.i = -1, .min = (uint64_t)-5, .max = 5),
    PROP("i64", Gadget, i64),
    PROP_BIT("bit3", Gadget, bits, 3, true),
    PROP_BIT("bit40", Gadget, bits64, 40, false),
    PROP_OF("size", Gadget, size, prop_size),
    PROP_OF("size32", Gadget, size32, prop_size32),
    PROP("text", Gadget, text),
    PROP_OF("color", Gadget, color, prop_enum, .words = colors, .def.i = 1),
    PROP_OF("mode", Gadget, mode, prop_on_off_auto),
    PROP_OF("uuid", Gadget, uuid, prop_uuid),
    PROP_OF("mac", Gadget, mac, prop_mac, .def.s = "52:54:00:12:34:56"),
    PROP_LINK("link", Gadget, link, "gadget"),
    PROP_FN("twice", get_twice, NULL),
    {}
};
static const Type gadget_type = {
    .name = "gadget", .size = sizeof(Gadget), .props = gadget_props,
};
TYPE_REGISTER(gadget_type)

/* Forwards what it has not to a gadget, as a transport does. */
static const Type carrier_type = { .name = "gadget-pci" };
TYPE_REGISTER(carrier_type)

static Object *obj;

static void setup(void)
{
    obj = object_new(&gadget_type);
}

static void teardown(void)
{
    object_unref(obj);
}

static bool set_json(Object *to, const char *name, const char *json, GError **error)
{
    g_autoptr(json_object) value = json_parse(json, strlen(json), NULL);

    return object_set(to, name, value, error);
}

static void expect_value(const char *name, const char *json)
{
    GError *error = NULL;
    g_autoptr(json_object) value = object_get(obj, name, &error);

    ck_no_error(error);
    ck_assert_str_eq(json_object_to_json_string_ext(value, JSON_C_TO_STRING_NOSLASHESCAPE), json);
}

static const struct {
    const char *name, *json, *value;
} good[] = {
    { "flag", "false", "false" },         { "flag", "\"off\"", "false" },
    { "u8", "255", "255" },               { "u8", "\"0x10\"", "16" },
    { "u16", "\"1024\"", "1024" },        { "queue-size", "4294967295", "4294967295" },
    { "u64", "18446744073709551615", "18446744073709551615" },
    { "i32", "-5", "-5" },                { "i32", "\"-3\"", "-3" },
    { "i64", "-9223372036854775808", "-9223372036854775808" },
    { "bit3", "\"off\"", "false" },       { "bit40", "true", "true" },
    { "size", "\"64K\"", "65536" },       { "size", "\"1.5G\"", "1610612736" },
    { "size32", "\"1M\"", "1048576" },    { "text", "\"x,y\"", "\"x,y\"" },
    { "color", "\"blue\"", "\"blue\"" },  { "mode", "\"on\"", "\"on\"" },
    { "mode", "false", "\"off\"" },       { "mode", "\"auto\"", "\"auto\"" },
    { "uuid", "\"00112233-4455-6677-8899-aAbBcCdDeEfF\"",
      "\"00112233-4455-6677-8899-aabbccddeeff\"" },
    { "mac", "\"02:00:00:00:00:0a\"", "\"02:00:00:00:00:0a\"" },
    { "mac", "\"02-00-00-00-00-0b\"", "\"02:00:00:00:00:0b\"" },
};

START_TEST(good_values)
{
    GError *error = NULL;

    ck_assert(set_json(obj, good[_i].name, good[_i].json, &error));
    ck_no_error(error);
    expect_value(good[_i].name, good[_i].value);
    ck_assert(object_was_set(obj, good[_i].name));
}
END_TEST

static const struct {
    const char *name, *json, *text;
    ErrorCode code;
} bad[] = {
    { "queue-size", "\"abc\"", "property 'queue-size' of 'gadget': 'abc' is not a number",
      ERR_INVALID_PARAMETER },
    { "queue-size", "[]", "property 'queue-size' of 'gadget': a number is expected, not array",
      ERR_WRONG_TYPE },
    { "queue-size", "true", "a number is expected, not boolean", ERR_WRONG_TYPE },
    { "queue-size", "4294967296", "4294967296 is not between 0 and 4294967295",
      ERR_INVALID_PARAMETER },
    { "queue-size", "-1", "-1 is not between 0 and 4294967295", ERR_INVALID_PARAMETER },
    { "queue-size", "\"-1\"", "-1 is not between 0 and", ERR_INVALID_PARAMETER },
    { "queue-size", "\"\"", "'' is not a number", ERR_INVALID_PARAMETER },
    { "queue-size", "null", "a number is expected, not null", ERR_WRONG_TYPE },
    { "u16", "1", "1 is not between 2 and 1024", ERR_INVALID_PARAMETER },
    { "i32", "6", "6 is not between -5 and 5", ERR_INVALID_PARAMETER },
    { "flag", "\"maybe\"", "'maybe' is not 'on' or 'off'", ERR_INVALID_PARAMETER },
    { "flag", "1", "'on' or 'off' is expected, not int", ERR_WRONG_TYPE },
    { "size", "\"64Q\"", "'64Q' is not a size", ERR_INVALID_PARAMETER },
    { "size32", "\"8G\"", "8G is not between 0 and 4294967295", ERR_INVALID_PARAMETER },
    { "text", "5", "a string is expected, not int", ERR_WRONG_TYPE },
    { "color", "\"blu\"", "'blu' is not one of: red, green, blue", ERR_INVALID_PARAMETER },
    { "uuid", "\"00112233\"", "'00112233' is not a UUID", ERR_INVALID_PARAMETER },
    { "mac", "\"02:00:00:00:00\"", "'02:00:00:00:00' is not a MAC address",
      ERR_INVALID_PARAMETER },
    { "link", "\"nobody\"", "there is no object 'nobody'", ERR_NOT_FOUND },
    { "twice", "4", "it is read-only", ERR_PERMISSION },
    { "type", "\"x\"", "it is read-only", ERR_PERMISSION },
};

START_TEST(bad_values)
{
    GError *error = NULL;

    ck_assert(!set_json(obj, bad[_i].name, bad[_i].json, &error));
    ck_assert_int_eq(error_get_code(error), bad[_i].code);
    ck_error(error, bad[_i].text);
    ck_assert(!object_was_set(obj, bad[_i].name));
}
END_TEST

START_TEST(defaults)
{
    expect_value("flag", "true");
    expect_value("u16", "256");
    expect_value("i32", "-1");
    expect_value("bit3", "true");
    expect_value("bit40", "false");
    expect_value("text", "\"\"");
    expect_value("color", "\"green\"");
    expect_value("mac", "\"52:54:00:12:34:56\"");
    expect_value("link", "\"\"");
    expect_value("twice", "0");
    expect_value("type", "\"gadget\"");
    ck_assert(!object_was_set(obj, "u16"));
}
END_TEST

START_TEST(unknown_names_give_the_nearest)
{
    GError *error = NULL;

    ck_assert(!object_set_u64(obj, "queue-sizes", 1, &error));
    ck_assert_int_eq(error_get_code(error), ERR_UNKNOWN_PARAMETER);
    ck_assert_str_eq(error_get_hint(error), "did you mean 'queue-size'?");
    ck_error(error, "'gadget.queue-sizes' not found");
    ck_assert_ptr_null(object_get(obj, "nothing-like-it", &error));
    ck_assert_ptr_null(error_get_hint(error));
    g_clear_error(&error);
}
END_TEST

START_TEST(after_realize_only_runtime_ones)
{
    GError *error = NULL;

    ck_assert(object_set_u64(obj, "u64", 1, NULL));
    ck_assert_uint_eq(((Gadget *)obj)->changes, 0);
    ck_assert(object_realize(obj, NULL));
    ck_assert(object_set_u64(obj, "u64", 2, NULL));
    ck_assert_uint_eq(((Gadget *)obj)->changes, 1);
    ck_assert(!object_set_u64(obj, "u8", 2, &error));
    ck_assert_int_eq(error_get_code(error), ERR_BAD_STATE);
    ck_error(error, "property 'u8' of 'gadget': it cannot be changed now");
    expect_value("u8", "0");
}
END_TEST

START_TEST(forwarded_ones_name_what_the_user_knows)
{
    g_autoptr(Object) carrier = object_new(&carrier_type);
    g_autoptr(json_object) value = NULL;
    GError *error = NULL;

    object_set_forward(carrier, obj);
    ck_assert(object_set_u64(carrier, "queue-size", 64, NULL));
    value = object_get(carrier, "queue-size", NULL);
    ck_assert_int_eq(json_object_get_int(value), 64);
    ck_assert(object_was_set(carrier, "queue-size"));
    ck_assert(!object_set_str(carrier, "queue-size", "abc", &error));
    ck_error(error, "property 'queue-size' of 'gadget-pci': 'abc' is not a number");
    ck_assert(!object_set_str(carrier, "queue-siz", "abc", &error));
    ck_assert_str_eq(error_get_hint(error), "did you mean 'queue-size'?");
    ck_error(error, "'gadget-pci.queue-siz' not found");
}
END_TEST

START_TEST(links_count_and_check_types)
{
    g_autoptr(Object) root = object_new(type_find("container"));
    g_autoptr(Object) target = object_new(&gadget_type), wrong = object_new(&carrier_type);
    GError *error = NULL;

    object_add_child(root, "me", obj, NULL);
    object_add_child(object_container(root, "objects"), "t", target, NULL);
    object_add_child(root, "w", wrong, NULL);
    ck_assert(object_set_str(obj, "link", "t", NULL));
    ck_assert_int_eq(target->refs, 3);
    expect_value("link", "\"/objects/t\"");
    ck_assert(object_set_str(obj, "link", "/me", NULL));
    ck_assert_int_eq(target->refs, 2);
    ck_assert(object_set_str(obj, "link", "", NULL));
    ck_assert(!object_set_str(obj, "link", "w", &error));
    ck_error(error, "'w' is a 'gadget-pci', but a 'gadget' is needed");
    ck_assert(!object_set_link(obj, "link", wrong, &error));
    ck_error(error, "a 'gadget-pci' was given, but a 'gadget' is needed");
    ck_assert(object_set_link(obj, "link", target, NULL));
    ck_assert(!object_set_link(obj, "u8", target, &error));
    ck_error(error, "it is not a link");
    object_unparent(obj);
}
END_TEST

START_TEST(uuid_auto_is_random)
{
    uint8_t first[16];

    ck_assert(object_set_str(obj, "uuid", "auto", NULL));
    memcpy(first, ((Gadget *)obj)->uuid, 16);
    ck_assert(object_set_str(obj, "uuid", "auto", NULL));
    ck_assert_mem_ne(first, ((Gadget *)obj)->uuid, 16);
}
END_TEST

START_TEST(all_options_or_the_first_bad_one)
{
    g_autoptr(json_object) options = options_parse("u8=7,text=hello,color=blue", NULL, NULL);
    g_autoptr(json_object) wrong = options_parse("u8=9,txt=hello", NULL, NULL);
    GError *error = NULL;

    ck_assert(object_set_all(obj, options, NULL));
    expect_value("text", "\"hello\"");
    expect_value("twice", "14");
    ck_assert(!object_set_all(obj, wrong, &error));
    ck_error(error, "'gadget.txt' not found");
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, good_values, 0, G_N_ELEMENTS(good));
    tcase_add_loop_test(tests, bad_values, 0, G_N_ELEMENTS(bad));
    tcase_add_test(tests, defaults);
    tcase_add_test(tests, unknown_names_give_the_nearest);
    tcase_add_test(tests, after_realize_only_runtime_ones);
    tcase_add_test(tests, forwarded_ones_name_what_the_user_knows);
    tcase_add_test(tests, links_count_and_check_types);
    tcase_add_test(tests, uuid_auto_is_random);
    tcase_add_test(tests, all_options_or_the_first_bad_one);
}

int main(void)
{
    return run_tests("property", add);
}
