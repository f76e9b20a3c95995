/*
 * The options that every node takes: read-only, auto-read-only, cache.direct, cache.no-flush,
 * discard, detect-zeroes, force-share.  A node defined inside another one's options inherits what
 * it does not say itself.
 */
#include "block/node.h"

const char *const block_detect_zeroes_words[] = { "off", "on", "unmap", NULL };
static const char *const discard_words[] = { "ignore", "unmap", "off", "on", NULL };

const char *const block_common_options[] = { "driver", "node-name", "read-only", "auto-read-only",
                                             "cache", "discard", "detect-zeroes", "force-share",
                                             NULL };

static bool take_bool(json_object *options, const char *key, bool *ret, GError **error)
{
    if (!options_get_bool(options, key, ret, error))
        return false;
    json_object_object_del(options, key);
    return true;
}

static bool take_cache(json_object *options, BlockNodeConfig *config, GError **error)
{
    static const char *const known[] = { "direct", "no-flush", NULL };
    g_autoptr(json_object) cache = options_take(options, "cache");

    if (!cache)
        return true;
    if (!json_object_is_type(cache, json_type_object))
        return fail(error, ERR_WRONG_TYPE, "'cache' must be an object with 'direct' and 'no-flush'");
    return take_bool(cache, "direct", &config->direct, error) &&
           take_bool(cache, "no-flush", &config->no_flush, error) &&
           options_check_empty(cache, "'cache'", known, error);
}

static bool take_words(json_object *options, BlockNodeConfig *config, GError **error)
{
    int discard = config->discard, detect = config->detect_zeroes;

    if (!options_get_enum(options, "discard", discard_words, &discard, error) ||
        !options_get_enum(options, "detect-zeroes", block_detect_zeroes_words, &detect, error))
        return false;
    json_object_object_del(options, "discard");
    json_object_object_del(options, "detect-zeroes");
    config->discard = discard & 1;
    config->detect_zeroes = detect;
    if (detect == BLOCK_DETECT_UNMAP && !config->discard) {
        fail(error, ERR_INVALID_PARAMETER, "detect-zeroes=unmap needs discard=unmap");
        return error_hint(error, "add discard=unmap, or use detect-zeroes=on");
    }
    return true;
}

bool block_options_common(json_object *options, const BlockNodeConfig *above,
                          BlockNodeConfig *config, GError **error)
{
    *config = (BlockNodeConfig){ 0 };
    if (above) {
        /* A format sends discards only where its own option lets it: below, all may pass. */
        *config = *above;
        config->discard = true;
        config->detect_zeroes = BLOCK_DETECT_OFF;
        config->nesting = above->nesting + 1;
    }
    if (config->nesting > BLOCK_DEPTH_MAX)
        return fail(error, ERR_LIMIT, "more than %d block nodes on top of each other, or an image "
                                      "that backs itself", BLOCK_DEPTH_MAX);
    if (!take_bool(options, "read-only", &config->read_only, error) ||
        !take_bool(options, "auto-read-only", &config->auto_read_only, error) ||
        !take_bool(options, "force-share", &config->force_share, error) ||
        !take_cache(options, config, error) || !take_words(options, config, error))
        return false;
    if (config->force_share && !config->read_only) {
        fail(error, ERR_INVALID_PARAMETER, "force-share=on can only be used with read-only images");
        return error_hint(error, "add read-only=on");
    }
    return true;
}
