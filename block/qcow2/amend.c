/* Changing an image: its header's options, the width of its refcounts, the keys to it, and the backing
 * file's name. */
#include "block/qcow2/check.h"
#include "block/qcow2/checksums.h"
#include "block/qcow2/crypto.h"
#include "block/qcow2/image.h"
#include "block/qcow2/io.h"
#include "block/qcow2/options.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* The backing file's. */
typedef struct Names {
    char *file, *format;
} Names;

static Names names_new(const char *file, const char *format)
{
    return (Names){ g_strdup(file), g_strdup(file ? format : NULL) };
}

static void names_clear(Names *names)
{
    g_free(names->file);
    g_free(names->format);
}

static void swap_names(Qcow2 *s, Names *names)
{
    Names old = { s->header.backing_file, s->header.backing_format };

    s->header.backing_file = names->file;
    s->header.backing_format = names->format;
    *names = old;
}

/* Alone (@alone), or with requests under way.  The header is what it was when writing fails. */
static int co_fn change_names(Qcow2 *s, Names *names, bool alone, GError **error)
{
    int ret;

    if (!alone)
        qcow2_exclusive_reserve(s);
    swap_names(s, names);
    ret = alone ? qcow2_header_write(s, error) : qcow2_header_write_names(s, error);
    if (ret < 0)
        swap_names(s, names);
    if (!alone)
        qcow2_exclusive_release(s);
    return ret;
}

static bool check_backing(Qcow2 *s, const char *filename, GError **error)
{
    if (!filename)
        return true;
    if (s->data_file_raw)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Cannot set a backing file for an image with data-file-raw");
    return strlen(filename) <= QCOW2_BACKING_NAME_MAX ||
           fail(error, ERR_INVALID_PARAMETER, "Backing file name too long");
}

int co_fn qcow2_co_set_backing(BlockNode *node, const char *filename, const char *format,
                               GError **error)
{
    Qcow2 *s = qcow2_of(node);
    int ret = -EINVAL;
    Names names;

    if (filename && !*filename)
        filename = NULL;
    if (!check_backing(s, filename, error))
        return ret;
    names = names_new(filename, format);
    ret = change_names(s, &names, false, error);
    names_clear(&names);
    return ret;
}

/* Amending. */

typedef struct Amend {
    Qcow2 *s;
    Qcow2Create now, then;                 /* what the image is; what it is to be */
    json_object *options;
    bool force;
} Amend;

static bool given(const Amend *a, const char *key)
{
    return json_object_object_get_ex(a->options, key, NULL);
}

static bool refuse(GError **error, const char *what)
{
    return fail(error, ERR_UNSUPPORTED, "Changing the %s is not supported", what);
}

/* What cannot be changed may be said if it is what it is. */
static bool check_constants(const Amend *a, GError **error)
{
    const Qcow2 *s = a->s;

    if (given(a, "cluster-size") && a->then.cluster_size != s->cluster_size)
        return refuse(error, "cluster size");
    if (given(a, "compression-type") && a->then.compression_type != s->header.compression_type)
        return refuse(error, "compression type");
    if (given(a, "extended-l2") && a->then.extended_l2 != s->extended_l2)
        return refuse(error, "kind of L2 entries");
    if (given(a, "preallocation"))
        return fail(error, ERR_UNSUPPORTED, "Preallocation can only be changed with resize");
    if (given(a, "data-file") && g_strcmp0(a->then.data_file, s->header.data_file))
        return refuse(error, "external data file");
    if (given(a, "data-file-raw") && a->then.data_file_raw && !s->data_file_raw)
        return fail(error, ERR_UNSUPPORTED,
                    "data-file-raw cannot be set on existing images");
    if (given(a, "size") && a->then.size < s->header.size)
        return fail(error, ERR_UNSUPPORTED, "Shrinking is done by resize --shrink");
    return true;
}

static bool check_downgrade(const Amend *a, GError **error)
{
    const Qcow2 *s = a->s;

    if (s->header.incompatible & ~QCOW2_INCOMPAT_DIRTY)
        return fail(error, ERR_UNSUPPORTED, "Cannot downgrade an image with incompatible features "
                    "set");
    if (s->refcount_bits != 16)
        return fail(error, ERR_UNSUPPORTED, "compat=0.10 requires refcount_bits=16");
    if (s->header.nb_snapshots)
        return fail(error, ERR_UNSUPPORTED, "Cannot downgrade an image that has snapshots");
    if (qcow2_sums_on(s))
        return fail(error, ERR_UNSUPPORTED, "Cannot downgrade an image that has checksums");
    if (s->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS)
        return fail(error, ERR_UNSUPPORTED, "Cannot downgrade an image that has bitmaps");
    if (given(a, "lazy-refcounts") && a->then.lazy_refcounts)
        return fail(error, ERR_INVALID_PARAMETER, "Lazy refcounts only supported with "
                    "compatibility level 1.1 and above (use compat=1.1 or greater)");
    return true;
}

/* Version 2 has no zero clusters: they become nothing, or (above a backing file) written zeroes. */
static int co_fn expand_zeroes(Qcow2 *s, GError **error)
{
    bool backed = qcow2_backing(s) != NULL;
    Qcow2Extent extent;
    int ret = 0;

    if (!backed && s->header.backing_file) {
        fail(error, ERR_BAD_STATE, "Cannot downgrade an image without its backing file");
        return -EINVAL;
    }
    for (uint64_t at = 0; ret == 0 && at < s->header.size; at += extent.bytes) {
        ret = qcow2_map(s, at, s->header.size - at, &extent);
        if (ret < 0 || (extent.kind != QCOW2_ZERO_PLAIN && extent.kind != QCOW2_ZERO_ALLOC))
            continue;
        extent.bytes = MIN(extent.bytes, MAX(s->cluster_size, 1 * MiB));
        if (backed) {
            g_autofree uint8_t *zeroes = g_malloc0(extent.bytes);

            ret = qcow2_guest_write(s, at, &(struct iovec){ zeroes, extent.bytes }, 1,
                                    extent.bytes);
        } else {
            ret = qcow2_guest_discard(s, at, extent.bytes, QCOW2_DISCARD_OTHER, true);
        }
    }
    if (ret == 0)
        ret = qcow2_settle(s);
    if (ret < 0)
        fail_errno(error, -ret, "Failed to turn zero into data clusters");
    return ret;
}

static int co_fn change_version(Amend *a, unsigned version, GError **error)
{
    Qcow2Header *h = &a->s->header;
    uint64_t compatible = h->compatible, autoclear = h->autoclear;
    unsigned old = h->version;
    int ret = 0;

    if (version == old)
        return 0;
    if (version < old) {
        if (!check_downgrade(a, error))
            return -ENOTSUP;
        ret = expand_zeroes(a->s, error);
        h->compatible = h->autoclear = 0;
    }
    if (ret == 0) {
        h->version = version;
        ret = qcow2_header_write(a->s, error);
    }
    if (ret < 0) {
        h->version = old;
        h->compatible = compatible;
        h->autoclear = autoclear;
    }
    return ret;
}

/* Features of the header. */
static int co_fn change_features(Amend *a, GError **error)
{
    Qcow2 *s = a->s;
    uint64_t compatible = s->header.compatible;
    int ret = 0;

    if (given(a, "lazy-refcounts")) {
        if (a->then.lazy_refcounts && s->header.version < 3) {
            fail(error, ERR_INVALID_PARAMETER, "Lazy refcounts only supported with compatibility "
                 "level 1.1 and above (use compat=1.1 or greater)");
            return -EINVAL;
        }
        s->header.compatible = (compatible & ~QCOW2_COMPAT_LAZY_REFCOUNTS) |
                               (a->then.lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0);
        if (s->header.compatible != compatible)
            ret = qcow2_header_write(s, error);
        if (ret < 0)
            s->header.compatible = compatible;
    }
    if (ret == 0 && given(a, "data-file-raw") && !a->then.data_file_raw && s->data_file_raw) {
        ret = qcow2_set_autoclear(s, 0, QCOW2_AUTOCLEAR_DATA_FILE_RAW, error);
        s->data_file_raw = ret < 0;
    }
    return ret;
}

static int co_fn change_backing(Amend *a, GError **error)
{
    const Qcow2Header *h = &a->s->header;
    const char *file = given(a, "backing-file") ? a->then.backing_file : h->backing_file;
    const char *format = given(a, "backing-fmt") ? a->then.backing_format : h->backing_format;
    Names names;
    int ret;

    if (!given(a, "backing-file") && !given(a, "backing-fmt"))
        return 0;
    if (file && !*file)
        file = NULL;
    if (!g_strcmp0(file, h->backing_file) && !g_strcmp0(format, h->backing_format))
        return 0;
    if (!check_backing(a->s, file, error))
        return -EINVAL;
    names = names_new(file, format);
    ret = change_names(a->s, &names, true, error);
    names_clear(&names);
    return ret;
}

static int co_fn change_width(Amend *a, GError **error)
{
    unsigned order = __builtin_ctzll(a->then.refcount_bits);

    if (!given(a, "refcount-bits") || order == a->s->header.refcount_order)
        return 0;
    if (a->s->header.version < 3) {
        fail(error, ERR_INVALID_PARAMETER, "Refcount widths other than 16 bits require compatibility "
             "level 1.1 or above (use compat=1.1 or greater)");
        return -EINVAL;
    }
    return qcow2_change_refcount_width(a->s, order, error);
}

/* Checksums of all tables there are, then the header that asks for them. */
static int co_fn begin_checksums(Qcow2 *s, GError **error)
{
    int ret;

    if (!qcow2_sums_has_room(s)) {
        fail(error, ERR_UNSUPPORTED, "'%s': its header has no room for checksums, or is that of a version 2 "
             "image (compat=0.10)", block_node_filename(s->node));
        return -ENOTSUP;
    }
    qcow2_sums_start(s, true);
    qcow2_widen_slices(s);
    ret = qcow2_check_take_sums(s, error);
    if (ret == 0) {
        qcow2_sums_set_on(s, true);
        ret = qcow2_header_write(s, error);
    }
    if (ret < 0) {
        qcow2_sums_set_on(s, false);
        qcow2_sums_free(s);
    }
    return ret;
}

static int co_fn change_checksums(Amend *a, GError **error)
{
    Qcow2 *s = a->s;
    int ret;

    if (!given(a, "checksums") || a->then.checksums == qcow2_sums_on(s))
        return 0;
    if (a->then.checksums)
        return begin_checksums(s, error);
    ret = qcow2_sums_begin_use(s, error);
    if (ret < 0)
        return ret;
    qcow2_sums_set_on(s, false);
    ret = qcow2_header_write(s, error);
    if (ret < 0)
        qcow2_sums_set_on(s, true);
    else
        qcow2_sums_free(s);
    return ret;
}

static int co_fn amend(Amend *a, GError **error)
{
    bool has_version = given(a, "version");
    int ret = qcow2_settle(a->s);

    if (ret < 0) {
        fail_errno(error, -ret, "'%s': writing metadata failed", block_node_filename(a->s->node));
        return ret;
    }
    /* Up before what needs it, down after what must go before. */
    if (has_version && a->then.version > a->s->header.version)
        ret = change_version(a, a->then.version, error);
    if (ret == 0)
        ret = change_features(a, error);
    if (ret == 0)
        ret = change_width(a, error);
    if (ret == 0)
        ret = change_checksums(a, error);
    if (ret == 0)
        ret = change_backing(a, error);
    if (ret == 0 && has_version)
        ret = change_version(a, a->then.version, error);
    return ret;
}

/* Options that are not given are what the image is, so that they can be checked together. */
static json_object *complete(const Qcow2 *s, json_object *options)
{
    json_object *all = NULL;

    json_object_deep_copy(options, &all, NULL);
    if (!json_object_object_get_ex(all, "version", NULL))
        json_object_object_add(all, "version",
                               json_object_new_string(s->header.version == 2 ? "v2" : "v3"));
    if (!json_object_object_get_ex(all, "cluster-size", NULL))
        json_object_object_add(all, "cluster-size", json_object_new_int64(s->cluster_size));
    if (json_object_object_get_ex(all, "backing-fmt", NULL) && s->header.backing_file &&
        !json_object_object_get_ex(all, "backing-file", NULL))
        json_object_object_add(all, "backing-file",
                               json_object_new_string(s->header.backing_file));
    return all;
}

static int co_fn amend_alone(Amend *a, GError **error)
{
    int ret;

    qcow2_exclusive_begin(a->s);
    ret = qcow2_may_write(a->s);
    if (ret < 0)
        fail_errno(error, -ret, "'%s' cannot be written", block_node_filename(a->s->node));
    else
        ret = amend(a, error);
    qcow2_exclusive_end(a->s);
    return ret;
}

static bool has_others(const Amend *a)
{
    return json_object_object_length(a->options) > (a->then.encrypt != NULL);
}

/* Keys first, and with requests under way: deriving them takes seconds, and their place is nobody else's. */
int co_fn qcow2_co_amend(BlockNode *node, json_object *options, bool force, GError **error)
{
    Amend a = { .s = qcow2_of(node), .options = options, .force = force };
    g_autoptr(json_object) all = complete(a.s, options);
    int ret = 0;

    if (!qcow2_create_parse(all, &a.then, error))
        return -EINVAL;
    if (!check_constants(&a, error))
        return -ENOTSUP;
    if (a.then.encrypt)
        ret = qcow2_crypto_amend(a.s, a.then.encrypt, force, error);
    if (ret == 0 && has_others(&a))
        ret = amend_alone(&a, error);
    if (ret == 0 && given(&a, "size") && a.then.size != a.s->header.size)
        ret = block_node_co_resize(node, a.then.size, error);
    return ret;
}
