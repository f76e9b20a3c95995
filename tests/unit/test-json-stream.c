/* Finding JSON values in a stream that comes in pieces, and going on after nonsense. */
#include <string.h>
#include "monitor/jsonstream.h"
#include "tests/test.h"

/* What came of a stream, one letter or value after the other: "{...}" and "!message". */
static char *feed_in_pieces(JsonStream *s, const char *data, size_t length, size_t piece)
{
    GString *got = g_string_new(NULL);
    for (size_t at = 0; at < length;) {
        json_object *value = NULL;
        g_autoptr(GError) error = NULL;
        size_t used = 0, n = MIN(piece, length - at);
        JsonStreamResult result =
            json_stream_feed(s, (const uint8_t *)data + at, n, &used, &value, &error);
        ck_assert_uint_gt(used, 0);
        ck_assert_uint_le(used, n);
        at += used;
        if (result == JSON_STREAM_VALUE)
            g_string_append(got, json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN));
        if (result == JSON_STREAM_ERROR)
            g_string_append_printf(got, "!%s\n", error->message);
        json_object_put(value);
    }
    return g_string_free(got, FALSE);
}

static void check(const char *text, const char *want)
{
    for (size_t piece = 1; piece <= 64; piece *= 4) {
        JsonStream *s = json_stream_new(1000);
        g_autofree char *got = feed_in_pieces(s, text, strlen(text), piece);
        ck_assert_str_eq(got, want);
        json_stream_free(s);
    }
}

START_TEST(values_one_after_the_other)
{
    check("", "");
    check("{}", "{}");
    check(" {\"a\":[1,{\"b\":\"}\"}]}\r\n{}{}[]", "{\"a\":[1,{\"b\":\"}\"}]}{}{}[]");
    check("{\"a\n\":1}", "!Invalid JSON: control character 0x0a in a string\n"
                         "!Invalid JSON: expected an object, found '\"'\n");
    check("{'a':'}\"]'}{\"b\":\"'}\"}{'c':'\\'}'}", "{\"a\":\"}\\\"]\"}{\"b\":\"'}\"}{\"c\":\"'}\"}");
    check("{\n  \"a\"\n: \"\\\"{\\\\\"\n}\n", "{\"a\":\"\\\"{\\\\\"}");
}
END_TEST

START_TEST(nonsense_costs_its_line)
{
    check("hello {}\n{}", "!Invalid JSON: expected an object, found 'h'\n{}");
    check("\x01\n{}", "!Invalid JSON: expected an object, found byte 0x01\n{}");
    check("{]}\n{}", "!Invalid JSON: ']' where '}' was expected\n{}");
    check("[}\n{}", "!Invalid JSON: '}' where ']' was expected\n{}");
    check("}\n{}", "!Invalid JSON: expected an object, found '}'\n{}");
}
END_TEST

START_TEST(a_value_that_is_none)
{
    JsonStream *s = json_stream_new(1000);
    const char *text = "{\"a\": foo}{}";
    g_autofree char *got = feed_in_pieces(s, text, strlen(text), 3);
    ck_assert(g_str_has_prefix(got, "!Invalid JSON: "));
    ck_assert(g_str_has_suffix(got, "\n{}"));
    json_stream_free(s);
}
END_TEST

START_TEST(resync_byte_drops_what_is_open)
{
    check("{\"a\": \"xyz\xff{}", "!Invalid JSON: the value is not complete\n{}");
    check("\xff\xff{}", "{}");
}
END_TEST

START_TEST(a_message_that_is_too_long)
{
    g_autofree char *spaces = g_strnfill(990, ' ');
    g_autofree char *fits = g_strdup_printf("{%s}{}", spaces);
    g_autofree char *more = g_strdup_printf("{%s           }\n{}", spaces);
    check(fits, "{}{}");
    check(more, "!Invalid JSON: a message is longer than 1000 bytes\n{}");
}
END_TEST

START_TEST(depth)
{
    g_autofree char *open = g_strnfill(1024, '['), *close = g_strnfill(1024, ']');
    g_autofree char *deep = g_strconcat(open, close, NULL);
    g_autofree char *deeper = g_strconcat("[", deep, "]\n{}", NULL);
    JsonStream *s = json_stream_new(1 << 20);
    g_autofree char *got = feed_in_pieces(s, deeper, strlen(deeper), 100);
    ck_assert_str_eq(got, "!Invalid JSON: nested deeper than 1024 levels\n{}");
    g_autofree char *fits = feed_in_pieces(s, deep, strlen(deep), 100);
    ck_assert_str_eq(fits, deep);
    json_stream_free(s);
}
END_TEST

/* Memory stays where it is, however much comes. */
START_TEST(a_hundred_megabytes_of_brackets)
{
    JsonStream *s = json_stream_new(JSON_STREAM_MAX_BYTES);
    g_autofree char *brackets = g_strnfill(1 << 20, '[');
    GString *all = g_string_new(NULL);
    for (int i = 0; i < 100; i++) {
        g_autofree char *got = feed_in_pieces(s, brackets, 1 << 20, 1 << 16);
        g_string_append(all, got);
        ck_assert_uint_eq(json_stream_pending(s), 0);
    }
    ck_assert_str_eq(all->str, "!Invalid JSON: nested deeper than 1024 levels\n");
    g_autofree char *after = feed_in_pieces(s, "\n{}", 3, 1);
    ck_assert_str_eq(after, "{}");
    g_string_free(all, TRUE);
    json_stream_free(s);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, values_one_after_the_other);
    tcase_add_test(tc, nonsense_costs_its_line);
    tcase_add_test(tc, a_value_that_is_none);
    tcase_add_test(tc, resync_byte_drops_what_is_open);
    tcase_add_test(tc, a_message_that_is_too_long);
    tcase_add_test(tc, depth);
    tcase_add_test(tc, a_hundred_megabytes_of_brackets);
}

int main(void)
{
    return run_tests("json-stream", add_tests);
}
