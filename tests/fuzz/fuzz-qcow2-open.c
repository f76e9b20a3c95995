/* Opening and closing: the image, as a whole, in between. */
#include "block/change.h"
#include "block/node.h"
#include "tests/fuzz/fuzz-qcow2.h"

/* What is to be found of a stored bitmap when the image is opened again. */
typedef struct Stored {
    bool there;
    uint64_t count;
    unsigned flags;
} Stored;

static Stored stored(World *w, unsigned i)
{
    char name[2] = { 'x' + i };
    BlockBitmap *bitmap = block_bitmap_find(block_user_node(w->user), name);

    if (!bitmap || !(block_bitmap_flags(bitmap) & BLOCK_BITMAP_PERSISTENT))
        return (Stored){ 0 };
    return (Stored){ true, block_bitmap_count(bitmap),
                     block_bitmap_flags(bitmap) & ~BLOCK_BITMAP_READ_ONLY };
}

static void compare_bitmap(World *w, const Stored *before, unsigned i)
{
    Stored now = stored(w, i);

    REQUIRE(w, now.there == before->there && now.count == before->count &&
            now.flags == before->flags, "bitmap %u: %d %" G_GUINT64_FORMAT " %x, was %d %"
            G_GUINT64_FORMAT " %x", i, now.there, now.count, now.flags, before->there,
            before->count, before->flags);
}

/* ---- opening and closing ---- */

static bool names_data_file(void)
{
    return ld_be32(ram.disks[DISK_IMAGE].data + 4) > 2 && ram.disks[DISK_IMAGE].data[79] & 4;
}

/* Nothing that the header names is opened. */
static char *options_text(World *w, unsigned how, const char *more)
{
    static const char *const variants[] = {
        "", ",pass-discard-other=on,overlap-check=all", ",discard-no-unref=on,overlap-check=none",
        ",cache-size=8k,l2-cache-entry-size=512"
    };

    return g_strdup_printf("driver=qcow2,node-name=disk,discard=unmap,file.driver=ram,"
                           "file.node-name=storage%s%s%s%s%s", variants[how % 4],
                           w->with & WITH_BACKING ? ",backing.driver=ram,backing.disk=2,"
                                                    "backing.node-name=below" : ",backing=",
                           names_data_file() ? ",data-file.driver=ram,data-file.disk=1" : "",
                           w->kind && w->kind->luks ? ",encrypt.format=luks,encrypt.key-secret=key"
                                                    : "", more);
}

static bool try_open(World *w, unsigned how, const char *more, GError **error)
{
    g_autofree char *text = options_text(w, how, more);
    g_autoptr(json_object) options = options_parse(text, "driver", NULL);
    bool read_only = strstr(more, "read-only") != NULL;
    BlockNode *node;

    g_assert_nonnull(options);
    node = block_node_open(w->graph, options, error);
    if (!node)
        return false;
    w->user = block_user_new(node, "fuzz", BLOCK_PERM_READ | (read_only ? 0 : BLOCK_PERM_WRITE |
                             BLOCK_PERM_RESIZE), BLOCK_PERM_ALL, error);
    if (!w->user)
        block_node_delete(w->graph, "disk", NULL);
    return w->user;
}

void open_image(World *w, unsigned how)
{
    g_autoptr(GError) error = NULL;

    if (try_open(w, how, "", &error))
        return;
    if (ram.fail_at) {
        ram.fail_at = 0;
        w->failed = true;
        g_clear_error(&error);
        if (try_open(w, how, "", &error))
            return;
    }
    REQUIRE(w, false, "the image does not open: %s", error->message);
    if (!try_open(w, how, ",x-check=on", NULL) && !try_open(w, how, ",read-only=on", NULL))
        try_open(w, how, ",read-only=on,x-header-only=on", NULL);
}

void close_image(World *w)
{
    if (!w->user)
        return;
    block_user_free(w->user);
    w->user = NULL;
    block_node_delete(w->graph, "disk", NULL);
    note_failure(w);
}

void op_reopen(World *w, Input *in)
{
    unsigned how = take(in, 1);
    Stored before[BITMAPS];

    for (unsigned i = 0; i < BITMAPS; i++)
        before[i] = stored(w, i);
    close_image(w);
    open_image(w, how);
    if (!w->user)
        return;
    for (unsigned i = 0; i < BITMAPS && !w->failed; i++)
        compare_bitmap(w, &before[i], i);
    co_run_sync(compare_all, w);
}

static bool set_read_only(World *w, bool read_only)
{
    g_autoptr(json_object) list = json_object_new_array();
    g_autofree char *text = options_text(w, 0, read_only ? ",read-only=on" : "");
    json_object *options = options_parse(text, "driver", NULL);

    json_object_object_add(options, "file", json_object_new_string("storage"));
    json_object_object_del(options, "data-file");
    json_object_object_del(options, "backing");
    json_object_object_del(options, "encrypt");
    if (w->with & WITH_BACKING)
        json_object_object_add(options, "backing", json_object_new_string("below"));
    json_object_array_add(list, options);
    return block_reopen(w->graph, list, NULL);
}

/* Nobody may write for a while. */
void op_read_only(World *w, Input *in)
{
    BlockNode *node = block_user_node(w->user);

    block_user_free(w->user);
    if (set_read_only(w, true)) {
        w->user = block_user_new(node, "fuzz", BLOCK_PERM_READ, BLOCK_PERM_ALL, NULL);
        co_run_sync(compare_all, w);
        block_user_free(w->user);
        set_read_only(w, false);
    }
    w->user = block_user_new(node, "fuzz", BLOCK_PERM_READ | (block_node_read_only(node) ? 0 :
                             BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE), BLOCK_PERM_ALL, NULL);
    if (!w->user)
        fuzz_fail("the node has no users, and takes none");
}
