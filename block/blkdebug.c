/*
 * blkdebug: a filter whose requests fail by rules, for tests of what is above it.
 *
 * An inject-error rule waits for its event (a place that the format above tells of), or is in force from
 * the start if it has none; from then on requests that match it fail.  set-state rules lead from one
 * state to another, and rules may ask for a state.
 */
#include "block/chain.h"
#include "block/debug.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>
#include <string.h>

static const char *const events[] = {
    "l1_update", "l1_grow_alloc_table", "l1_grow_write_table", "l1_grow_activate_table", "l2_load",
    "l2_update", "l2_update_compressed", "l2_alloc_cow_read", "l2_alloc_write", "read_aio",
    "read_backing_aio", "read_compressed", "write_aio", "write_compressed", "vmstate_load",
    "vmstate_save", "cow_read", "cow_write", "reftable_load", "reftable_grow", "reftable_update",
    "refblock_load", "refblock_update", "refblock_update_part", "refblock_alloc",
    "refblock_alloc_hookup", "refblock_alloc_write", "refblock_alloc_write_blocks",
    "refblock_alloc_write_table", "refblock_alloc_switch_table", "cluster_alloc",
    "cluster_alloc_bytes", "cluster_free", "flush_to_os", "flush_to_disk", "pwritev_rmw_head",
    "pwritev_rmw_after_head", "pwritev_rmw_tail", "pwritev_rmw_after_tail", "pwritev",
    "pwritev_zero", "pwritev_done", "empty_image_prepare", "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters", "cor_write", "cluster_alloc_space", "none", NULL
};

static const char *const iotype_words[] = { "read", "write", "write-zeroes", "discard", "flush",
                                            "block-status", NULL };
typedef enum IoType { IO_READ, IO_WRITE, IO_ZERO, IO_DISCARD, IO_FLUSH, IO_STATUS } IoType;
#define IO_DEFAULT ((1u << IO_STATUS) - 1)         /* all but block-status */

typedef struct Rule {
    const char *event;                     /* of `events` */
    uint64_t state, new_state;             /* state 0: any */
    bool is_inject, once, immediately;
    bool active;                           /* inject: its event has come */
    bool spent;                            /* once: it was in force, whatever comes */
    unsigned iotypes;                      /* a bit each */
    int error;
    uint64_t sector;                       /* UINT64_MAX: any */
} Rule;

typedef struct Blkdebug {
    pthread_mutex_t lock;                  /* for states and rules */
    GArray *rules;                         /* of Rule */
    uint64_t state;
    uint64_t align, max_transfer, max_write_zeroes, max_discard, opt_discard, opt_write_zeroes;
} Blkdebug;

static const char *const blkdebug_options[] = {
    "image", "config", "align", "max-transfer", "opt-write-zero", "max-write-zero", "opt-discard",
    "max-discard", "inject-error", "set-state", NULL
};
static const BlockDriver blkdebug_driver;

bool block_debug_event_known(const char *event)
{
    return g_strv_contains(events, event);
}

/* ---- rules ---- */

static bool parse_event(json_object *options, Rule *rule, GError **error)
{
    int index = -1;

    if (!options_get_enum(options, "event", events, &index, error))
        return false;
    if (index < 0)
        return fail(error, ERR_MISSING_PARAMETER, "a rule needs an 'event'");
    rule->event = events[index];
    return options_get_u64(options, "state", &rule->state, error) &&
           options_get_u64(options, "new-state", &rule->new_state, error) &&
           options_get_u64(options, "new_state", &rule->new_state, error);
}

static bool parse_inject(json_object *options, Rule *rule, GError **error)
{
    uint64_t number = EIO;
    int iotype = -1;

    rule->sector = UINT64_MAX;
    if (!options_get_enum(options, "iotype", iotype_words, &iotype, error) ||
        !options_get_u64(options, "errno", &number, error) ||
        !options_get_u64(options, "sector", &rule->sector, error) ||
        !options_get_bool(options, "once", &rule->once, error) ||
        !options_get_bool(options, "immediately", &rule->immediately, error))
        return false;
    if (number < 1 || number > 4095)
        return fail(error, ERR_INVALID_PARAMETER, "'errno' must be an error number");
    rule->error = number;
    rule->iotypes = iotype < 0 ? IO_DEFAULT : 1u << iotype;
    rule->active = !strcmp(rule->event, "none");
    return true;
}

static bool add_rule(Blkdebug *b, json_object *options, bool is_inject, GError **error)
{
    static const char *const inject[] = { "event", "state", "iotype", "errno", "sector", "once",
                                          "immediately", NULL };
    static const char *const set[] = { "event", "state", "new_state", "new-state", NULL };
    const char *const *known = is_inject ? inject : set;
    g_autoptr(json_object) rest = NULL;
    Rule rule = { .is_inject = is_inject };

    if (!json_object_is_type(options, json_type_object))
        return fail(error, ERR_WRONG_TYPE, "a rule must be an object");
    json_object_deep_copy(options, &rest, NULL);
    if (!parse_event(rest, &rule, error) || (is_inject && !parse_inject(rest, &rule, error)))
        return false;
    for (unsigned i = 0; known[i]; i++)
        json_object_object_del(rest, known[i]);
    if (!options_check_empty(rest, is_inject ? "'inject-error'" : "'set-state'", known, error))
        return false;
    g_array_append_val(b->rules, rule);
    return true;
}

static bool take_rules(Blkdebug *b, json_object *options, const char *key, bool is_inject,
                       GError **error)
{
    g_autoptr(json_object) list = options_take(options, key);

    if (list && !json_object_is_type(list, json_type_array))
        return fail(error, ERR_WRONG_TYPE, "'%s' must be a list of rules", key);
    for (size_t i = 0; list && i < json_object_array_length(list); i++)
        if (!add_rule(b, json_object_array_get_idx(list, i), is_inject, error))
            return error_prefix(error, "%s.%zu: ", key, i);
    return true;
}

/* The file of config=: sections [inject-error] and [set-state], lines NAME = "VALUE". */

static bool end_section(Blkdebug *b, const char *section, json_object *members, GError **error)
{
    if (!section)
        return true;
    if (strcmp(section, "inject-error") && strcmp(section, "set-state"))
        return fail(error, ERR_INVALID_PARAMETER, "there is no section [%s]", section);
    return add_rule(b, members, *section == 'i', error);
}

static bool read_line(char *line, json_object *members, GError **error)
{
    char *equals = strchr(line, '=');
    g_autofree char *key = NULL, *value = NULL;

    if (!equals)
        return fail(error, ERR_INVALID_SYNTAX, "'%s' is no NAME = \"VALUE\"", line);
    key = g_strstrip(g_strndup(line, equals - line));
    value = g_strstrip(g_strdup(equals + 1));
    if (*value == '"' && strlen(value) > 1 && g_str_has_suffix(value, "\"")) {
        value[strlen(value) - 1] = '\0';
        memmove(value, value + 1, strlen(value));
    }
    json_object_object_add(members, key, json_object_new_string(value));
    return true;
}

static bool read_lines(Blkdebug *b, char **lines, GError **error)
{
    g_autoptr(json_object) members = json_object_new_object();
    const char *section = NULL;

    for (; *lines; lines++) {
        char *line = g_strstrip(*lines);
        size_t length = strlen(line);

        if (!*line || *line == '#')
            continue;
        if (*line != '[') {
            if (!read_line(line, members, error))
                return false;
            continue;
        }
        if (!end_section(b, section, members, error))
            return false;
        json_object_put(members);
        members = json_object_new_object();
        line[line[length - 1] == ']' ? length - 1 : length] = '\0';
        section = line + 1;
    }
    return end_section(b, section, members, error);
}

typedef struct ConfigRead {
    const char *filename;
    char *text;
    GError *cause;
} ConfigRead;

static int read_config_call(void *arg)
{
    ConfigRead *read = arg;

    return g_file_get_contents(read->filename, &read->text, NULL, &read->cause) ? 0 : -EIO;
}

static bool co_fn read_config(Blkdebug *b, json_object *options, GError **error)
{
    ConfigRead read = { 0 };
    g_auto(GStrv) lines = NULL;

    if (!options_get_str(options, "config", &read.filename, error))
        return false;
    if (!read.filename || !*read.filename)
        return true;
    if (co_worker_call(read_config_call, &read) < 0) {
        fail(error, ERR_NOT_FOUND, "Could not read blkdebug config file: %s", read.cause->message);
        g_error_free(read.cause);
        return false;
    }
    lines = g_strsplit(read.text, "\n", -1);
    g_free(read.text);
    return read_lines(b, lines, error) || error_prefix(error, "%s: ", read.filename);
}

/* ---- open and close ---- */

static bool check_limit(const char *name, uint64_t value, uint64_t align, GError **error)
{
    return value < INT_MAX && value % align == 0
               ? true
               : fail(error, ERR_INVALID_PARAMETER, "Cannot meet constraints with %s %" G_GUINT64_FORMAT,
                      name, value);
}

static bool take_limits(Blkdebug *b, json_object *options, GError **error)
{
    const struct {
        const char *name;
        uint64_t *value;
    } limits[] = {
        { "align", &b->align }, { "max-transfer", &b->max_transfer },
        { "opt-write-zero", &b->opt_write_zeroes }, { "max-write-zero", &b->max_write_zeroes },
        { "opt-discard", &b->opt_discard }, { "max-discard", &b->max_discard },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(limits); i++) {
        if (!options_get_size(options, limits[i].name, limits[i].value, error))
            return false;
        if (i == 0 && b->align && !is_power_of_2(b->align))
            return fail(error, ERR_INVALID_PARAMETER, "Cannot meet constraints with align %"
                        G_GUINT64_FORMAT, b->align);
        if (!check_limit(limits[i].name, *limits[i].value, MAX(b->align, 1), error))
            return false;
        json_object_object_del(options, limits[i].name);
    }
    return true;
}

static void free_rules(Blkdebug *b)
{
    g_array_free(b->rules, TRUE);
    pthread_mutex_destroy(&b->lock);
}

static bool co_fn open_all(BlockNode *node, Blkdebug *b, json_object *options, GError **error)
{
    json_object *image = options_take(options, "image");

    if (!read_config(b, options, error) || !take_rules(b, options, "set-state", false, error) ||
        !take_rules(b, options, "inject-error", true, error) || !take_limits(b, options, error)) {
        json_object_put(image);
        return false;
    }
    json_object_object_del(options, "config");
    if (!image)
        return fail(error, ERR_MISSING_PARAMETER,
                    "A block device must be specified for \"image\"");
    json_object_object_add(options, "file", image);
    return block_node_open_child(node, options, "file", true, error) != NULL;
}

static bool co_fn blkdebug_open(BlockNode *node, json_object *options, GError **error)
{
    Blkdebug *b = block_node_state(node);

    b->rules = g_array_new(FALSE, FALSE, sizeof(Rule));
    b->state = 1;
    pthread_mutex_init(&b->lock, NULL);
    if (open_all(node, b, options, error))
        return true;
    free_rules(b);
    return false;
}

static void co_fn blkdebug_close(BlockNode *node)
{
    free_rules(block_node_state(node));
}

static void blkdebug_limits(BlockNode *node, BlockLimits *limits)
{
    Blkdebug *b = block_node_state(node);

    if (b->align)
        limits->request_alignment = b->align;
    if (b->max_transfer)
        limits->max_transfer = b->max_transfer;
    if (b->opt_write_zeroes)
        limits->write_zeroes_granularity = b->opt_write_zeroes;
    if (b->max_write_zeroes)
        limits->max_write_zeroes = b->max_write_zeroes;
    if (b->opt_discard)
        limits->discard_granularity = b->opt_discard;
    if (b->max_discard)
        limits->max_discard = b->max_discard;
}

/* ---- events and errors ---- */

static void apply(Blkdebug *b, const char *event)
{
    uint64_t next = b->state;

    for (unsigned i = 0; i < b->rules->len; i++) {
        Rule *rule = &g_array_index(b->rules, Rule, i);

        if (strcmp(rule->event, event) || (rule->state && rule->state != b->state))
            continue;
        if (rule->is_inject)
            rule->active = !rule->spent;
        else
            next = rule->new_state;
    }
    b->state = next;
}

void block_debug_event(BlockNode *node, const char *event)
{
    Blkdebug *b;

    if (G_LIKELY(node->driver != &blkdebug_driver))
        return;
    b = block_node_state(node);
    pthread_mutex_lock(&b->lock);
    apply(b, event);
    pthread_mutex_unlock(&b->lock);
}

static bool matches(const Rule *rule, IoType type, uint64_t offset, uint64_t bytes)
{
    uint64_t at = rule->sector * 512;

    return rule->is_inject && rule->active && rule->iotypes >> type & 1 &&
           (rule->sector == UINT64_MAX || (bytes && offset <= at && at - offset < bytes));
}

static int co_fn check(BlockNode *node, IoType type, uint64_t offset, uint64_t bytes)
{
    Blkdebug *b = block_node_state(node);
    bool immediately = true;
    int error = 0;

    pthread_mutex_lock(&b->lock);
    for (unsigned i = 0; !error && i < b->rules->len; i++) {
        Rule *rule = &g_array_index(b->rules, Rule, i);

        if (!matches(rule, type, offset, bytes))
            continue;
        error = rule->error;
        immediately = rule->immediately;
        if (rule->once) {
            rule->active = false;
            rule->spent = true;
        }
    }
    pthread_mutex_unlock(&b->lock);
    if (error && !immediately)
        co_pause();                        /* as an error of a disk: later */
    return -error;
}

static int co_fn blkdebug_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                  int iovcnt, uint64_t bytes)
{
    int ret = check(node, IO_READ, offset, bytes);

    return ret < 0 ? ret : block_node_co_read(block_node_file(node), offset, iov, iovcnt, bytes);
}

static int co_fn blkdebug_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                   int iovcnt, uint64_t bytes, unsigned flags)
{
    int ret;

    block_debug_event(node, "pwritev");
    ret = check(node, IO_WRITE, offset, bytes);
    if (ret == 0)
        ret = block_node_co_write(block_node_file(node), offset, iov, iovcnt, bytes, flags);
    block_debug_event(node, "pwritev_done");
    return ret;
}

static int co_fn blkdebug_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int ret;

    block_debug_event(node, "pwritev_zero");
    ret = check(node, IO_ZERO, offset, bytes);
    if (ret == 0)
        ret = block_node_co_zero(block_node_file(node), offset, bytes, flags);
    block_debug_event(node, "pwritev_done");
    return ret;
}

static int co_fn blkdebug_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int ret = check(node, IO_DISCARD, offset, bytes);

    return ret < 0 ? ret : block_node_co_discard(block_node_file(node), offset, bytes);
}

static int co_fn blkdebug_co_flush(BlockNode *node)
{
    int ret = check(node, IO_FLUSH, 0, 0);

    return ret < 0 ? ret : block_node_co_flush(block_node_file(node));
}

static int co_fn blkdebug_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    int ret = check(node, IO_STATUS, offset, bytes);

    return ret < 0 ? ret : block_node_co_map(block_node_file(node), offset, bytes, map);
}

/* "blkdebug:CONFIG:FILE"; CONFIG may be empty. */
static json_object *blkdebug_parse_uri(const char *uri, GError **error)
{
    const char *config = uri + strlen("blkdebug:"), *file = strchr(config, ':');
    g_autofree char *name = file ? g_strndup(config, file - config) : NULL;
    json_object *options, *image;

    if (!file) {
        fail(error, ERR_INVALID_SYNTAX, "'%s' is no blkdebug:CONFIG:FILE", uri);
        return NULL;
    }
    image = block_filename_options(file + 1, NULL, error);
    if (!image)
        return NULL;
    options = json_object_new_object();
    json_object_object_add(options, "driver", json_object_new_string("blkdebug"));
    if (*name)
        json_object_object_add(options, "config", json_object_new_string(name));
    json_object_object_add(options, "image", image);
    return options;
}

static const char *const blkdebug_schemes[] = { "blkdebug", NULL };

static const BlockDriver blkdebug_driver = {
    .name = "blkdebug",
    .help = "lets requests fail by rules, for tests",
    .size = sizeof(Blkdebug),
    .options = blkdebug_options,
    .is_filter = true,
    .aligns = true,
    .grows = true,
    .write_flags = BLOCK_FUA,
    .open = blkdebug_open,
    .close = blkdebug_close,
    .limits = blkdebug_limits,
    .co_read = blkdebug_co_read,
    .co_write = blkdebug_co_write,
    .co_zero = blkdebug_co_zero,
    .co_discard = blkdebug_co_discard,
    .co_flush = blkdebug_co_flush,
    .co_map = blkdebug_co_map,
    .uri_schemes = blkdebug_schemes,
    .parse_uri = blkdebug_parse_uri,
};
BLOCK_DRIVER(blkdebug_driver)
