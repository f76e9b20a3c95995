/*
 * -drive: the older, shorter way to say what -blockdev says, and a little of the device as well.
 * Its options become the options of a format node on a protocol node; the result has a name (id=)
 * by which -device drive= finds it.
 */
#include "block/bucket.h"
#include "block/chain.h"
#include "block/image.h"
#include "block/node.h"
#include "src/base/util.h"
#include <string.h>

static const char *const iface_words[] = { "none", "ide", "scsi", "floppy", "pflash", "mtd", "sd",
                                           "virtio", "xen", NULL };
static const char *const media_words[] = { "disk", "cdrom", NULL };
static const char *const cache_words[] = { "none", "off", "writeback", "writethrough",
                                           "directsync", "unsafe", NULL };
enum { CACHE_NONE, CACHE_OFF, CACHE_WRITEBACK, CACHE_WRITETHROUGH, CACHE_DIRECTSYNC, CACHE_UNSAFE };

typedef struct DriveOptions {
    const char *id, *iface, *media, *format, *serial, *filename;
    json_object *file;                     /* file= as an object; NULL: a name */
    int64_t index, bus, unit;
    bool writeback, direct, no_flush, read_only, copy_on_read, snapshot;
    int on_error[2];                       /* [is_read]; -1: not given */
    ThrottleConfig limits;
    const char *throttle_group;            /* NULL: the drive's id */
} DriveOptions;

/* Parsing. */

static void set_cache_mode(DriveOptions *d, int mode)
{
    d->direct = mode == CACHE_NONE || mode == CACHE_OFF || mode == CACHE_DIRECTSYNC;
    d->writeback = mode != CACHE_WRITETHROUGH && mode != CACHE_DIRECTSYNC;
    d->no_flush = mode == CACHE_UNSAFE;
}

/* cache=MODE, or cache.direct=, cache.no-flush=, cache.writeback=. */
static bool parse_cache(json_object *options, DriveOptions *d, GError **error)
{
    static const char *const known[] = { "direct", "no-flush", "writeback", NULL };
    g_autoptr(json_object) cache = NULL;
    int mode = CACHE_WRITEBACK;

    d->writeback = true;
    cache = options_take(options, "cache");
    if (!cache)
        return true;
    if (!json_object_is_type(cache, json_type_object)) {
        g_autoptr(json_object) words = json_object_new_object();

        json_object_object_add(words, "cache", json_object_get(cache));
        if (!options_get_enum(words, "cache", cache_words, &mode, error))
            return false;
        set_cache_mode(d, mode);
        return true;
    }
    if (!options_get_bool(cache, "direct", &d->direct, error) ||
        !options_get_bool(cache, "no-flush", &d->no_flush, error) ||
        !options_get_bool(cache, "writeback", &d->writeback, error))
        return false;
    for (unsigned i = 0; known[i]; i++)
        json_object_object_del(cache, known[i]);
    return options_check_empty(cache, "'cache'", known, error);
}

static bool parse_on_error(json_object *options, DriveOptions *d, GError **error)
{
    d->on_error[0] = d->on_error[1] = -1;
    if (!options_get_enum(options, "werror", block_on_error_words, &d->on_error[false], error) ||
        !options_get_enum(options, "rerror", block_on_error_words, &d->on_error[true], error))
        return false;
    if (d->on_error[true] == BLOCK_ON_ERROR_ENOSPC)
        return fail(error, ERR_INVALID_PARAMETER, "'enospc' is not a valid value for rerror: reading "
                                                  "takes no space");
    return true;
}

/* throttling.bps-total=, or bps=: moved to one object, whose members are then taken. */
static bool parse_limits(json_object *options, DriveOptions *d, GError **error)
{
    static const char *const ends[] = { "", "max", "max-length" };
    g_autoptr(json_object) limits = options_take(options, "throttling");

    if (limits && !json_object_is_type(limits, json_type_object))
        return fail(error, ERR_WRONG_TYPE, "'throttling' must have members");
    if (!limits)
        limits = json_object_new_object();
    for (unsigned i = 0; i < THROTTLE__COUNT; i++) {
        for (unsigned end = 0; end < G_N_ELEMENTS(ends); end++) {
            g_autofree char *old = g_strconcat(throttle_short_words[i], *ends[end] ? "_" : "",
                                               ends[end], NULL);
            g_autofree char *name = g_strconcat(throttle_words[i], *ends[end] ? "-" : "", ends[end],
                                                NULL);
            json_object *value = options_take(options, g_strdelimit(old, "-", '_'));

            if (value)
                json_object_object_add(limits, name, value);
        }
    }
    if (json_object_object_get_ex(options, "iops_size", NULL))
        json_object_object_add(limits, "iops-size", options_take(options, "iops_size"));
    throttle_config_init(&d->limits);
    if (!options_get_str(options, "group", &d->throttle_group, error) ||
        !options_get_str(limits, "group", &d->throttle_group, error))
        return false;
    d->throttle_group = g_intern_string(d->throttle_group);
    json_object_object_del(limits, "group");
    return throttle_config_take(&d->limits, limits, error) &&
           options_check_empty(limits, "'throttling'", NULL, error) &&
           throttle_config_check(&d->limits, error);
}

static bool parse_place(json_object *options, DriveOptions *d, GError **error)
{
    int iface = -1, media = 0;

    d->index = d->bus = d->unit = -1;
    if (!options_get_enum(options, "if", iface_words, &iface, error) ||
        !options_get_enum(options, "media", media_words, &media, error) ||
        !options_get_i64(options, "index", &d->index, error) ||
        !options_get_i64(options, "bus", &d->bus, error) ||
        !options_get_i64(options, "unit", &d->unit, error))
        return false;
    if (d->index != -1 && (d->bus != -1 || d->unit != -1))
        return fail(error, ERR_INVALID_PARAMETER, "index cannot be used with bus and unit");
    if (d->index < -1 || d->bus < -1 || d->unit < -1 || MAX(MAX(d->index, d->bus), d->unit) > 1023)
        return fail(error, ERR_INVALID_PARAMETER, "index, bus and unit are numbers from 0 to 1023");
    d->iface = iface < 0 ? NULL : iface_words[iface];
    d->media = media_words[media];
    return true;
}

static bool parse_format(json_object *options, DriveOptions *d, GError **error)
{
    const char *driver = NULL;

    if (!options_get_str(options, "format", &d->format, error) ||
        !options_get_str(options, "driver", &driver, error))
        return false;
    if (d->format && driver)
        return fail(error, ERR_INVALID_PARAMETER, "Cannot specify both 'driver' and 'format'");
    d->format = d->format ? d->format : driver;
    return true;
}

static bool parse_read_only(json_object *options, DriveOptions *d, GError **error)
{
    const char *const keys[] = { "readonly", "read-only" };

    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++)
        if (!options_get_bool(options, keys[i], &d->read_only, error))
            return false;
    if (!strcmp(d->media, "cdrom"))
        d->read_only = true;
    return true;
}

static bool parse_file(json_object *options, DriveOptions *d, GError **error)
{
    json_object *file;

    if (!json_object_object_get_ex(options, "file", &file)) {
        if (d->format)
            return true;
        fail(error, ERR_MISSING_PARAMETER, "a drive needs file= or driver=: none without a medium is "
                                           "offered");
        return error_hint(error, "write file=PATH,format=raw,if=virtio");
    }
    if (json_object_is_type(file, json_type_object))
        d->file = file;
    else
        return options_get_str(options, "file", &d->filename, error);
    return true;
}

static bool parse(json_object *options, DriveOptions *d, GError **error)
{
    return parse_place(options, d, error) &&
           parse_format(options, d, error) && parse_read_only(options, d, error) &&
           parse_cache(options, d, error) && parse_on_error(options, d, error) &&
           parse_limits(options, d, error) &&
           options_get_bool(options, "copy-on-read", &d->copy_on_read, error) &&
           options_get_bool(options, "snapshot", &d->snapshot, error) &&
           options_get_str(options, "id", &d->id, error) &&
           options_get_str(options, "serial", &d->serial, error) && parse_file(options, d, error);
}

/* The protocol node's options. */

static void move_member(json_object *from, json_object *to, const char *key)
{
    json_object *value = options_take(from, key);

    if (value)
        json_object_object_add(to, key, value);
}

static json_object *co_fn protocol_options(const DriveOptions *d, json_object *options,
                                           GError **error)
{
    json_object *protocol = d->file ? block_file_options(d->file, error)
                                    : block_filename_options(d->filename, NULL, error);

    if (!protocol)
        return NULL;
    move_member(options, block_options_protocol(protocol), "aio");
    return protocol;
}

/* Which format. */

static void warn_of_guess(const char *filename)
{
    warn_report("'%s' is taken for a raw image: no format= was given.  The guest may not write what "
                "looks like another format's header to its first block; format=raw allows it",
                filename);
}

/* The drive itself. */

static const char *iface_name(const DriveOptions *d)
{
    return d->iface ? d->iface : "virtio";
}

BlockNode *block_drive_find(BlockGraph *graph, const char *id)
{
    for (unsigned i = 0; i < graph->nodes->len; i++) {
        BlockNode *node = graph->nodes->pdata[i];

        if (node->drive && !strcmp(node->drive->id, id))
            return node;
    }
    return NULL;
}

static bool place_is_taken(BlockGraph *graph, const char *iface, int index)
{
    for (unsigned i = 0; i < graph->nodes->len; i++) {
        const BlockDrive *drive = ((BlockNode *)graph->nodes->pdata[i])->drive;

        if (drive && drive->index == index && !strcmp(drive->iface, iface))
            return true;
    }
    return false;
}

static bool choose_place(BlockGraph *graph, DriveOptions *d, GError **error)
{
    const char *iface = iface_name(d);

    if (d->index < 0 && d->unit >= 0)
        d->index = d->unit;
    if (d->index >= 0 && strcmp(iface, "none") && place_is_taken(graph, iface, d->index))
        return fail(error, ERR_EXISTS, "drive with if=%s, index=%d exists", iface, (int)d->index);
    for (int index = 0; d->index < 0; index++)
        if (!place_is_taken(graph, iface, index))
            d->index = index;
    return true;
}

static char *choose_id(BlockGraph *graph, const DriveOptions *d, GError **error)
{
    if (!d->id)
        return g_strdup_printf("%s%d", iface_name(d), (int)d->index);
    if (!block_drive_find(graph, d->id) && !block_node_find(graph, d->id))
        return g_strdup(d->id);
    fail(error, ERR_EXISTS, "there is a drive '%s' already", d->id);
    error_object(error, "%s", d->id);
    return NULL;
}

/* The node's cache options and read-only, which its protocol child inherits. */
static void put_common(json_object *options, const DriveOptions *d)
{
    json_object *cache = json_object_new_object();

    json_add_bool(cache, "direct", d->direct);
    json_add_bool(cache, "no-flush", d->no_flush);
    json_object_object_add(options, "cache", cache);
    json_add_bool(options, "read-only", d->read_only || d->snapshot);
    if (!json_object_object_get_ex(options, "auto-read-only", NULL))
        json_add_bool(options, "auto-read-only", true);
}

static const char *const own[] = { "id", "if", "media", "index", "bus", "unit", "format", "driver",
                                   "readonly", "read-only", "werror", "rerror", "serial", "file",
                                   "group", "copy-on-read", "snapshot", NULL };

/* The driver has heard of a word that it does not know: perhaps one of the drive's was meant. */
static void suggest_own_word(json_object *options, GError **error)
{
    if (!error || !*error || error_get_code(*error) != ERR_UNKNOWN_PARAMETER ||
        error_get_hint(*error))
        return;
    json_object_object_foreach(options, key, value)
    {
        const char *near = value ? nearest_word(key, own) : NULL;

        if (near && strcmp(near, key)) {
            error_hint(error, "did you mean '%s'?", near);
            return;
        }
    }
}

/* The format node's options: those of the drive that are not the drive's own. */
static json_object *co_fn format_options(const DriveOptions *d, json_object *parsed,
                                         GError **error)
{
    json_object *options = NULL, *protocol;

    json_object_deep_copy(parsed, &options, NULL);
    protocol = d->file || d->filename ? protocol_options(d, options, error) : NULL;
    if ((d->file || d->filename) && !protocol) {
        json_object_put(options);
        return NULL;
    }
    for (unsigned i = 0; own[i]; i++)
        json_object_object_del(options, own[i]);
    put_common(options, d);
    if (protocol && d->filename && block_options_say_format(protocol)) { /* json: */
        json_object_object_foreach(protocol, key, value)
            json_object_object_add(options, key, json_object_get(value));
        json_object_put(protocol);
    } else if (protocol) {
        json_object_object_add(options, "file", protocol);
    }
    if (d->format)
        json_add_str(options, "driver", d->format);
    return options;
}

/* Opens the protocol node alone, to look what is in it; then the format on top of it. */
static BlockNode *co_fn open_guessed(BlockGraph *graph, json_object *options, GError **error)
{
    g_autoptr(json_object) protocol = options_take(options, "file"), common = NULL;
    const char *format;
    BlockNode *file, *node = NULL;
    BlockNodeConfig above;

    if (json_object_deep_copy(options, &common, NULL) < 0 ||
        !block_options_common(common, NULL, &above, error))
        return NULL;
    file = block_node_open_with(graph, protocol, &above, error);
    if (!file)
        return NULL;
    format = block_node_probe_format(file, error);
    if (format) {
        json_add_str(options, "driver", format);
        json_add_str(options, "file", file->name);
        node = block_node_open_with(graph, options, NULL, error);
    }
    if (node && !strcmp(format, "raw") && !node->config.read_only) {
        warn_of_guess(block_node_filename(node));
        node->restricted = true;
        node->write_target = node;
    }
    block_node_release(file);              /* the format node holds it */
    return node;
}

static BlockDrive *drive_new(const DriveOptions *d, char *id)
{
    BlockDrive *drive = g_new0(BlockDrive, 1);

    *drive = (BlockDrive){ .id = id, .iface = g_intern_string(iface_name(d)),
                           .serial = g_strdup(d->serial), .is_cdrom = !strcmp(d->media, "cdrom"),
                           .index = d->index, .bus = d->bus, .unit = d->unit,
                           .on_read_error = d->on_error[true],
                           .on_write_error = d->on_error[false] };
    if (throttle_config_is_set(&d->limits))
        drive->limits = g_memdup2(&d->limits, sizeof(d->limits));
    drive->throttle_group = g_strdup(d->throttle_group ? d->throttle_group : id);
    return drive;
}

/* Ends at the next `,` that is not doubled. */
static const char *end_of_element(const char *s)
{
    while (*s && (*s != ',' || s[1] == ','))
        s += *s == ',' ? 2 : 1;
    return s;
}

/* Elsewhere a key is either a value or has members; here the first is short for file.filename. */
json_object *block_drive_parse(const char *text, GError **error)
{
    g_autoptr(GString) out = g_string_new(NULL);
    bool has_members = *text != '{' && (g_str_has_prefix(text, "file.") || strstr(text, ",file."));

    for (const char *s = text; *s && has_members;) {
        const char *end = end_of_element(s);

        if (g_str_has_prefix(s, "file=")) {
            g_string_append(out, "file.filename=");
            s += strlen("file=");
        }
        end += *end == ',';
        g_string_append_len(out, s, end - s);
        s = end;
    }
    return options_parse(has_members ? out->str : text, NULL, error);
}

/* What the drive asks for beside its format. */
static BlockNode *co_fn add_filters(BlockGraph *graph, BlockNode *node, const DriveOptions *d,
                                    GError **error)
{
    g_autoptr(json_object) options = NULL;

    BlockNode *below;

    if (d->snapshot)
        node = block_node_add_temporary(graph, node, NULL, error);
    if (!node || !d->copy_on_read)
        return node;
    options = json_object_new_object();
    json_add_str(options, "driver", "copy-on-read");
    json_add_str(options, "file", node->name);
    json_add_bool(options, "read-only", d->read_only);
    below = node;
    node = block_node_open_with(graph, options, NULL, error);
    block_node_release(below);             /* the filter holds it */
    return node;
}

static BlockNode *co_fn drive_open(BlockGraph *graph, json_object *options, const char **ret_iface,
                                   GError **error)
{
    g_autoptr(json_object) parsed = NULL, node_options = NULL;
    g_autofree char *id = NULL;
    DriveOptions d = { 0 };                /* its strings are in parsed */
    BlockNode *node;

    if (json_object_deep_copy(options, &parsed, NULL) < 0) {
        fail(error, ERR_LIMIT, "the options of a drive are too large");
        return NULL;
    }
    if (!parse(parsed, &d, error) || !choose_place(graph, &d, error))
        return NULL;
    id = choose_id(graph, &d, error);
    node_options = id ? format_options(&d, parsed, error) : NULL;
    if (!node_options)
        return NULL;
    node = json_object_object_get_ex(node_options, "driver", NULL)
               ? block_node_open_with(graph, node_options, NULL, error)
               : open_guessed(graph, node_options, error);
    if (node)
        node = add_filters(graph, node, &d, error);
    else
        suggest_own_word(options, error);
    if (!node)
        return NULL;
    node->monitor_owned = true;
    node->write_cache = d.writeback;
    node->drive = drive_new(&d, g_steal_pointer(&id));
    if (ret_iface)
        *ret_iface = d.iface;
    return node;
}

typedef struct DriveRun {
    BlockGraph *graph;
    json_object *options;
    const char **ret_iface;
    GError **error;
    BlockNode *node;
} DriveRun;

static void co_fn drive_run(void *opaque)
{
    DriveRun *run = opaque;

    block_graph_begin(run->graph);
    run->node = drive_open(run->graph, run->options, run->ret_iface, run->error);
    block_graph_end(run->graph);
}

BlockNode *block_drive_open(BlockGraph *graph, json_object *options, const char **ret_iface,
                            GError **error)
{
    DriveRun run = { graph, options, ret_iface, error, NULL };

    co_run_sync(drive_run, &run);
    return run.node;
}
