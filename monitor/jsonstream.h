/*
 * Finding the JSON values in a stream of bytes that comes in pieces.  A value is collected until its
 * last bracket and then parsed as a whole.  What cannot become one (text between values, a wrong
 * bracket, a control character in a string, more depth or bytes than allowed) is reported once, and
 * the rest of the line is skipped: the next line starts afresh.  Memory is bounded by the limit, at
 * any input.
 */
#pragma once
#include <json-c/json.h>
#include <stdint.h>
#include "src/base/error.h"

#define JSON_STREAM_MAX_BYTES (64u << 20)
#define JSON_STREAM_MAX_DEPTH 1024

typedef struct JsonStream JsonStream;

typedef enum JsonStreamResult {
    JSON_STREAM_MORE,          /* everything was taken; the value is not complete yet */
    JSON_STREAM_VALUE,         /* *ret is a value (an object or an array) */
    JSON_STREAM_ERROR          /* *error says what is wrong; go on feeding */
} JsonStreamResult;

JsonStream *json_stream_new(size_t max_bytes);
void json_stream_free(JsonStream *stream);
void json_stream_reset(JsonStream *stream);
/* Takes bytes up to the end of a value, or all; *used is how many.  Feed the rest again. */
JsonStreamResult json_stream_feed(JsonStream *stream, const uint8_t *data, size_t length,
                                  size_t *used, json_object **ret, GError **error);
/* Bytes held for a value that is not complete. */
size_t json_stream_pending(const JsonStream *stream);
