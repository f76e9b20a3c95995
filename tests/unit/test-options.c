/* key=value text, strict JSON, typed values. */
#include <string.h>
#include "src/base/options.h"
#include "tests/test.h"

static void check_parse(const char *text, const char *implied, const char *want)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_object) got = options_parse(text, implied, &error);
    if (!got) {
        ck_assert_msg(!want, "%s: %s", text, error->message);
        ck_assert_int_eq(error_get_code(error), ERR_INVALID_SYNTAX);
        return;
    }
    ck_assert_msg(want != NULL, "%s was taken", text);
    ck_assert_str_eq(json_object_to_json_string_ext(got, JSON_C_TO_STRING_PLAIN |
                                                             JSON_C_TO_STRING_NOSLASHESCAPE), want);
}

START_TEST(key_value_text)
{
    check_parse("", NULL, "{}");
    check_parse("virtio-blk-pci,drive=d0,id=x", "driver",
                "{\"driver\":\"virtio-blk-pci\",\"drive\":\"d0\",\"id\":\"x\"}");
    check_parse("driver=x", "driver", "{\"driver\":\"x\"}");
    check_parse("a=1,b,noc", NULL, "{\"a\":\"1\",\"b\":\"on\",\"c\":\"off\"}");
    check_parse("socket,server,nowait", "backend",
                "{\"backend\":\"socket\",\"server\":\"on\",\"wait\":\"off\"}");
    check_parse("file=a,,b,,,,c=d,x=", NULL, "{\"file\":\"a,b,,c=d\",\"x\":\"\"}");
    check_parse("a=1,a=2", NULL, "{\"a\":\"2\"}");
    check_parse("file.driver=file,file.cache.direct=on", NULL,
                "{\"file\":{\"driver\":\"file\",\"cache\":{\"direct\":\"on\"}}}");
    check_parse("a.1=y,a.0=x", NULL, "{\"a\":[\"x\",\"y\"]}");
    check_parse("a.0.b=x,a.1.b=y", NULL, "{\"a\":[{\"b\":\"x\"},{\"b\":\"y\"}]}");
    check_parse("{\"a\": [1, true]}", NULL, "{\"a\":[1,true]}");
}
END_TEST

START_TEST(bad_key_value_text)
{
    check_parse("=x", NULL, NULL);
    check_parse("a=1,,b", NULL, "{\"a\":\"1,b\"}");
    check_parse("a=x,=y", NULL, NULL);
    check_parse("a..b=1", NULL, NULL);
    check_parse(".a=1", NULL, NULL);
    check_parse("a=1,a.b=2", NULL, NULL);
    check_parse("a.b=1,a=2", NULL, NULL);
    check_parse("a.0=x,a.2=y", NULL, NULL);
    check_parse("a.0=x,a.b=y", NULL, NULL);
    check_parse("{\"a\": 1", NULL, NULL);
}
END_TEST

static void check_json(const char *text, const char *want)
{
    g_autoptr(GError) error = NULL;
    json_object *got = NULL;
    bool ok = json_parse_value(text, strlen(text), &got, &error);
    ck_assert_msg(ok, "%s: %s", text, ok ? "" : error->message);
    ck_assert_str_eq(json_object_to_json_string_ext(got, JSON_C_TO_STRING_PLAIN |
                                                             JSON_C_TO_STRING_NOSLASHESCAPE), want);
    json_object_put(got);
}

START_TEST(json_is_read)
{
    check_json("null", "null");
    check_json(" [ ] ", "[]");
    check_json("{\"a\":{},\"b\":[1,-2,3.5,1e3]}", "{\"a\":{},\"b\":[1,-2,3.5,1e3]}");
    check_json("18446744073709551615", "18446744073709551615");
    check_json("-9223372036854775808", "-9223372036854775808");
    check_json("\"\\u00e4\\n\\ud83d\\ude00\\/\"", "\"ä\\n😀/\"");
    check_json("[true,false,null]", "[true,false,null]");
    check_json("{'a':['say \"x\"', \"it's\", 'it\\'s', '']}",
               "{\"a\":[\"say \\\"x\\\"\",\"it's\",\"it's\",\"\"]}");
}
END_TEST

static void refuse_json(const char *text, size_t length, ErrorCode code, const char *says)
{
    g_autoptr(GError) error = NULL;
    ck_assert_msg(!json_parse(text, length, &error), "%s was taken", text);
    ck_assert_int_eq(error_get_code(error), code);
    ck_assert_msg(strstr(error->message, says) != NULL, "%s: %s", text, error->message);
}

START_TEST(bad_json_is_refused)
{
    static const char *const cases[][2] = {
        { "", "too early" },
        { "{", "too early" },
        { "[1,2", "too early" },
        { "\"abc", "too early" },
        { "[1,]", "value expected at column 4" },
        { "{\"a\":1,}", "name in quotes" },
        { "{a:1}", "name in quotes expected at column 2" },
        { "{\"a\" 1}", "':' expected" },
        { "{\"a\":1 \"b\":2}", "',' or '}'" },
        { "[1 2]", "',' or ']'" },
        { "{\"a\":1}x", "after the value at column 8" },
        { "{\"a\":1,\n\"a\":2}", "member 'a' twice at line 2, column 1" },
        { "01", "number" },
        { "+1", "value expected" },
        { ".5", "value expected" },
        { "1.", "too early" },
        { "[1.]", "number" },
        { "[1e]", "number" },
        { "1e999", "too large" },
        { "[-]", "number" },
        { "TRUE", "word" },
        { "NaN", "word" },
        { "tru", "word" },
        { "'a", "too early" },
        { "'a\"", "too early" },
        { "{'a':1,\"a\":2}", "member 'a' twice" },
        { "\"\\x\"", "escape" },
        { "\"\\u12g4\"", "hexadecimal" },
        { "\"\\ud800\"", "surrogate" },
        { "\"\\udc00\"", "surrogate" },
        { "\"\\u0000\"", "u0000" },
        { "\"\t\"", "control" },
        { "\"\xff\"", "UTF-8" },
        { "\"\xc3\"", "UTF-8" },
        { "/* c */ 1", "value expected" },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++)
        refuse_json(cases[i][0], strlen(cases[i][0]), ERR_INVALID_SYNTAX, cases[i][1]);
    refuse_json("\"a\0b\"", 5, ERR_INVALID_SYNTAX, "control");
    refuse_json("null", 4, ERR_WRONG_TYPE, "null");
}
END_TEST

START_TEST(json_depth_is_limited)
{
    g_autofree char *deep = g_strnfill(1000000, '[');
    refuse_json(deep, 1000000, ERR_LIMIT, "too deeply");
    g_autoptr(GString) fits = g_string_new(NULL);
    for (int i = 0; i < 1024; i++)
        g_string_prepend_c(g_string_append_c(fits, ']'), '[');
    g_autoptr(json_object) value = json_parse(fits->str, fits->len, NULL);
    ck_assert_ptr_nonnull(value);
}
END_TEST

START_TEST(sizes)
{
    static const struct {
        const char *text;
        uint64_t want; /* UINT64_MAX: refused */
    } cases[] = {
        { "0", 0 }, { "512", 512 }, { "0x1000", 4096 }, { "64K", 65536 }, { "64k", 65536 },
        { "1M", 1 << 20 }, { "1.5G", 3ull << 29 }, { "2T", 2ull << 40 }, { "7b", 7 },
        { "15E", 15ull << 60 }, { "16E", UINT64_MAX }, { "", UINT64_MAX }, { "K", UINT64_MAX },
        { "-1", UINT64_MAX }, { "1KB", UINT64_MAX }, { "1.5", UINT64_MAX }, { "1 K", UINT64_MAX },
        { "0x", UINT64_MAX }, { "99999999999999999999", UINT64_MAX },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint64_t got = UINT64_MAX;
        g_autoptr(json_object) value = json_object_new_string(cases[i].text);
        bool ok = value_to_size(value, "Parameter 'x'", &got, NULL);
        ck_assert_msg(ok == (cases[i].want != UINT64_MAX), "'%s'", cases[i].text);
        if (ok)
            ck_assert_msg(got == cases[i].want, "'%s'", cases[i].text);
    }
}
END_TEST

START_TEST(typed_members)
{
    g_autoptr(GError) error = NULL;
    static const char text[] = "{\"b\":true,\"bt\":\"off\",\"n\":-5,\"nt\":\"0x10\",\"s\":\"text\","
                               "\"big\":18446744073709551615,\"min\":\"-9223372036854775808\"}";
    g_autoptr(json_object) o = json_parse(text, strlen(text), NULL);
    bool b = false, bt = true;
    uint64_t u = 1;
    int64_t i = 1;
    const char *s = NULL;
    ck_assert(options_get_bool(o, "b", &b, NULL) && b);
    ck_assert(options_get_bool(o, "bt", &bt, NULL) && !bt);
    ck_assert(options_get_i64(o, "n", &i, NULL) && i == -5);
    ck_assert(options_get_i64(o, "min", &i, NULL) && i == INT64_MIN);
    ck_assert(options_get_u64(o, "nt", &u, NULL) && u == 16);
    ck_assert(options_get_u64(o, "big", &u, NULL) && u == UINT64_MAX);
    ck_assert(options_get_str(o, "s", &s, NULL) && !strcmp(s, "text"));
    ck_assert(options_get_u64(o, "absent", &u, NULL) && u == UINT64_MAX);
    ck_assert(!options_get_u64(o, "n", &u, NULL));
    ck_assert(!options_get_i64(o, "big", &i, NULL));
    ck_assert(!options_get_str(o, "b", &s, NULL));
    ck_assert(!options_get_bool(o, "s", &b, &error));
    ck_assert_str_eq(error->message, "Parameter 's' expects 'on' or 'off', not 'text'");
    g_clear_error(&error);
    ck_assert(!options_get_bool(o, "n", &b, &error));
    ck_assert_int_eq(error_get_code(error), ERR_WRONG_TYPE);
}
END_TEST

START_TEST(enums_and_leftovers_name_the_nearest)
{
    static const char *const words[] = { "none", "native", "io_uring", "threads", NULL };
    g_autoptr(GError) error = NULL;
    g_autoptr(json_object) o = options_parse("aio=natve,cahce=x", NULL, NULL);
    int index = -1;
    ck_assert(!options_get_enum(o, "aio", words, &index, &error));
    ck_assert(strstr(error_get_hint(error), "'native'"));
    g_clear_error(&error);
    json_object_put(options_take(o, "aio"));
    ck_assert_ptr_null(options_take(o, "aio"));
    static const char *const known[] = { "aio", "cache", NULL };
    ck_assert(!options_check_empty(o, "-drive", known, &error));
    ck_assert_int_eq(error_get_code(error), ERR_UNKNOWN_PARAMETER);
    ck_assert(strstr(error->message, "'cahce'"));
    ck_assert(strstr(error_get_hint(error), "'cache'"));
    json_object_put(options_take(o, "cahce"));
    ck_assert(options_check_empty(o, "-drive", known, NULL));
    ck_assert_str_eq(nearest_word("threds", words), "threads");
    ck_assert_ptr_null(nearest_word("completely-else", words));
    ck_assert_ptr_null(nearest_word("x", words));
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, key_value_text);
    tcase_add_test(tc, bad_key_value_text);
    tcase_add_test(tc, json_is_read);
    tcase_add_test(tc, bad_json_is_refused);
    tcase_add_test(tc, json_depth_is_limited);
    tcase_add_test(tc, sizes);
    tcase_add_test(tc, typed_members);
    tcase_add_test(tc, enums_and_leftovers_name_the_nearest);
}

int main(void)
{
    return run_tests("options", add);
}
