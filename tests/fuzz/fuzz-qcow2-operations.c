/* What is done with an image, and what must come of it. */
#include "block/node.h"
#include "block/transaction.h"
#include "tests/fuzz/fuzz-qcow2.h"

/* ---- requests ---- */

typedef struct Range {
    uint64_t offset, bytes;
} Range;

/* Within the model, or at the disk's end. */
static Range take_range(World *w, Input *in)
{
    uint64_t cluster = w->kind ? w->kind->cluster : 512;
    uint64_t units[] = { 1, 512, 4096, cluster }, size = block_node_size(block_user_node(w->user));
    unsigned how = take(in, 1);
    uint64_t unit = units[how % 4], limit = MIN(size, MODEL_BYTES), at = take(in, 2);
    Range r = { .bytes = (take(in, 1) % 64 + 1) * unit };

    if (!limit)
        return (Range){ 0 };
    r.offset = at * unit % limit;
    r.bytes = MIN(MIN(r.bytes, limit - r.offset), LONGEST);
    if (how & 4)
        r.offset = size - r.bytes;
    return r;
}

static void co_fn op_read(World *w, Input *in)
{
    Range r = take_range(w, in);

    compare(w, r.offset, r.bytes);
}

static void co_fn op_write(World *w, Input *in)
{
    static uint8_t buffer[LONGEST + 512];
    Range r = take_range(w, in);
    struct iovec iov[] = { { buffer, r.bytes / 3 }, { buffer + r.bytes / 3, r.bytes - r.bytes / 3 } };
    uint8_t value = take(in, 1);

    for (uint64_t i = 0; i < r.bytes; i += 512)
        memset(buffer + i, value + (i >> 9), 512);
    if (!succeeded(w, block_co_write(w->user, r.offset, iov, 2, r.bytes, value & 1 ? BLOCK_FUA : 0),
                   false, "write"))
        return;
    if (w->sound)
        memcpy(w->models.now.bytes + r.offset, buffer, r.bytes);
}

static void co_fn op_write_compressed(World *w, Input *in)
{
    static uint8_t buffer[LONGEST];
    uint64_t cluster = w->kind ? w->kind->cluster : 512, at = take(in, 1);
    uint64_t size = block_node_size(block_user_node(w->user));
    struct iovec iov = { buffer, cluster };
    unsigned value = take(in, 1);

    at = at * cluster % MAX(MIN(size, MODEL_BYTES), 1);
    if (cluster > LONGEST || at % cluster || at + cluster > size)
        return;
    for (uint64_t i = 0; i < cluster; i++)
        buffer[i] = value & 1 ? value * i * i >> 5 : value;
    if (!succeeded(w, block_co_write(w->user, at, &iov, 1, cluster, BLOCK_COMPRESSED),
                   w->kind && (w->kind->data_file || w->kind->luks), "compressed write"))
        return;
    if (w->sound)
        memcpy(w->models.now.bytes + at, buffer, cluster);
}

static void co_fn op_zero(World *w, Input *in)
{
    unsigned unmap = take(in, 1) & 1;
    Range r = take_range(w, in);

    if (succeeded(w, block_co_zero(w->user, r.offset, r.bytes, unmap ? BLOCK_MAY_UNMAP : 0), false,
                  "zero") && w->sound)
        memset(w->models.now.bytes + r.offset, 0, r.bytes);
}

/* What is discarded reads as before, as zeroes, or as what is below. */
static void co_fn op_discard(World *w, Input *in)
{
    static uint8_t buffer[LONGEST];
    Range r = take_range(w, in);
    uint8_t *bytes;

    if (!succeeded(w, block_co_discard(w->user, r.offset, r.bytes), false, "discard") || !w->sound)
        return;
    if (!succeeded(w, read_disk(w->user, r.offset, buffer, r.bytes), false, "read"))
        return;
    bytes = w->models.now.bytes + r.offset;
    for (uint64_t i = 0; memcmp(buffer, bytes, r.bytes) && i < r.bytes; i++)
        if (buffer[i] && buffer[i] != bytes[i] && buffer[i] != backing_byte(w, r.offset + i))
            fuzz_fail("byte %" G_GUINT64_FORMAT " is %02x after a discard, was %02x", r.offset + i,
                    buffer[i], bytes[i]);
    memcpy(bytes, buffer, r.bytes);
}

static void tell_line(const char *line, void *opaque)
{
    if (((World *)opaque)->verbose)
        fprintf(stderr, "  %s\n", line);
}

static void co_fn op_flush(World *w, Input *in)
{
    succeeded(w, block_co_flush(w->user), false, "flush");
}

static void co_fn op_map(World *w, Input *in)
{
    BlockNode *node = block_user_node(w->user);
    Range r = take_range(w, in);
    BlockMap map = { .bytes = 1 };
    g_autoptr(json_object) info = json_object_new_object();

    for (uint64_t done = 0; done < r.bytes; done += map.bytes)
        if (block_node_co_map(node, r.offset + done, r.bytes - done, &map) < 0 || !map.bytes)
            break;
    if (node->driver->image_info)
        node->driver->image_info(node, info);
    g_ptr_array_unref(block_snapshots(node));
}

/* ---- the image as a whole ---- */

static char *name_of(unsigned i)
{
    return g_strdup_printf("%c", 'a' + i);
}

static void co_fn op_snapshot_create(World *w, Input *in)
{
    unsigned i = take(in, 1) % SNAPSHOTS;
    g_autofree char *name = name_of(i);
    BlockSnapshot snapshot = { .name = name, .icount = UINT64_MAX, .date_sec = i };
    bool may_fail = w->kind && (w->kind->narrow || w->kind->data_file);

    if ((w->sound && w->models.snapshots[i]) || w->taken == TAKEN_MAX)
        return;
    w->taken++;
    if (succeeded(w, block_co_snapshot_create(block_user_node(w->user), &snapshot, NULL), may_fail,
                  "taking a snapshot") && w->sound && !w->failed)   /* else there may be two of a name */
        w->models.snapshots[i] = g_memdup2(&w->models.now, sizeof(Disk));
    g_free(snapshot.id);
}

static void co_fn op_snapshot_goto(World *w, Input *in)
{
    unsigned i = take(in, 1) % SNAPSHOTS;
    g_autofree char *name = name_of(i);
    bool may_fail = !w->models.snapshots[i] || w->kind->narrow;

    if (!succeeded(w, block_co_snapshot_goto(block_user_node(w->user), name, NULL), may_fail,
                   "going back to a snapshot"))
        return;
    if (w->models.snapshots[i])
        w->models.now = *w->models.snapshots[i];
    else if (w->sound)
        adopt(w);                          /* of a time before a failure */
}

static void co_fn op_snapshot_delete(World *w, Input *in)
{
    unsigned i = take(in, 1) % SNAPSHOTS;
    g_autofree char *name = name_of(i);

    if (succeeded(w, block_co_snapshot_delete(block_user_node(w->user), name, NULL),
                  !w->models.snapshots[i], "deleting a snapshot"))
        g_clear_pointer(&w->models.snapshots[i], g_free);
}

static void co_fn op_resize(World *w, Input *in)
{
    unsigned how = take(in, 1);
    uint64_t bytes = take(in, 2) % (MODEL_BYTES / 512 + 1) * 512;
    Disk *now = &w->models.now;
    bool may_fail = w->kind && w->kind->v2;

    if (how > 250 && !w->sound)
        bytes = bytes << (how - 240);
    if (!succeeded(w, block_node_co_resize(block_user_node(w->user), bytes, NULL), may_fail,
                   "resize") || !w->sound)
        return;
    if (bytes > now->size)
        memset(now->bytes + now->size, 0, bytes - now->size);
    now->size = bytes;
}

/* Flushes of images that are about to be emptied, preallocated, … are these functions' own. */
static void co_fn op_whole(World *w, Input *in)
{
    static const char *const amendments[] = { "lazy-refcounts=on", "checksums=on", "lazy-refcounts=off",
                                              "checksums=off" };
    BlockNode *node = block_user_node(w->user);
    unsigned what = take(in, 1);
    int ret;

    switch (what % 4) {
    case 0:
        ret = block_co_make_empty(node, NULL);
        if (!succeeded(w, ret, w->kind && w->kind->data_file, "emptying") || !w->sound)
            return;
        memset(w->models.now.bytes, 0, w->models.now.size);
        show_backing(w);
        return;
    case 1:
        succeeded(w, block_co_preallocate(node, 0, MIN((uint64_t)block_node_size(node), 1 * MiB),
                                          BLOCK_PREALLOC_METADATA, NULL), true, "preallocation");
        return;
    case 2:
        succeeded(w, block_co_set_backing(node, what & 4 ? "base" : "", what & 4 ? "raw" : NULL,
                                          NULL), true, "naming a backing file");
        return;
    default:
        break;
    }
    g_autoptr(json_object) options = options_parse(amendments[what / 8 % 4], NULL, NULL);
    succeeded(w, block_co_amend(node, options, what & 32, NULL), true, "amend");
}

static void co_fn op_vmstate(World *w, Input *in)
{
    static uint8_t buffer[4096], back[4096];
    BlockNode *node = block_user_node(w->user);
    uint64_t offset = take(in, 2) % 65536, bytes = take(in, 1) * 16 + 1;
    struct iovec iov = { buffer, bytes }, iov_back = { back, bytes };

    memset(buffer, bytes, bytes);
    if (!succeeded(w, block_co_write_vmstate(node, offset, &iov, 1, bytes),
                   !w->kind || w->kind->v2 || w->kind->data_file, "writing VM state") ||
        block_co_read_vmstate(node, offset, &iov_back, 1, bytes) < 0)
        return;
    REQUIRE(w, !memcmp(buffer, back, bytes), "VM state reads other than written");
}

void co_fn check_image(World *w, unsigned fix)
{
    BlockNode *node = block_user_node(w->user);
    BlockCheck result = { .report = tell_line, .opaque = w }, again = { .report = tell_line, .opaque = w };
    int ret;

    /* A count that is too high makes of an entry's COPIED an error, too. */
    if (w->failed)
        fix |= BLOCK_FIX_LEAKS;
    ret = block_co_check(node, &result, fix, NULL);
    if (!succeeded(w, ret, w->failed, "check"))
        return;
    REQUIRE(w, ram.fail_at || !(result.corruptions || result.check_errors),
            "%" G_GUINT64_FORMAT " corruptions", result.corruptions);
    REQUIRE(w, w->failed || ram.fail_at || !result.leaks, "%" G_GUINT64_FORMAT " leaks", result.leaks);
    if (fix != (BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS) || ram.fail_at || result.corruptions ||
        result.leaks || result.check_errors)
        return;
    if (block_co_check(node, &again, 0, NULL) == 0 && again.corruptions + again.leaks)
        fuzz_fail("after a repair %" G_GUINT64_FORMAT " corruptions, %" G_GUINT64_FORMAT " leaks",
                again.corruptions, again.leaks);
}

static void co_fn op_check(World *w, Input *in)
{
    check_image(w, take(in, 1) % 4);
}

/* From here on some request to the file fails, once. */
static void co_fn op_fail(World *w, Input *in)
{
    static const int errors[] = { EIO, ENOSPC, ENOMEM, EINVAL };
    unsigned how = take(in, 1);

    ram.requests = 0;
    ram.fail_at = 1 + how / 4;
    ram.fail_with = errors[how % 4];
}

/* ---- bitmaps ---- */

static void bitmap_action(World *w, const char *type, const char *format, ...) G_GNUC_PRINTF(3, 4);
static void bitmap_action(World *w, const char *type, const char *format, ...)
{
    g_autoptr(json_object) data = NULL;
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    data = json_parse(text, strlen(text), NULL);
    g_assert_nonnull(data);
    block_action(w->graph, type, data, NULL);
}

void op_bitmap(World *w, Input *in)
{
    static const char *const verbs[] = { "block-dirty-bitmap-clear", "block-dirty-bitmap-enable",
                                         "block-dirty-bitmap-disable", "block-dirty-bitmap-remove" };
    unsigned what = take(in, 1);
    char name = 'x' + what % BITMAPS, other = 'x' + (what + 1) % BITMAPS;

    what /= BITMAPS;
    if (what % 8 < 3)
        bitmap_action(w, "block-dirty-bitmap-add", "{\"node\": \"disk\", \"name\": \"%c\", "
                      "\"granularity\": %u, \"persistent\": %s}", name, 512u << what / 8 % 16,
                      what & 2 ? "false" : "true");
    else if (what % 8 < 7)
        bitmap_action(w, verbs[what % 8 - 3], "{\"node\": \"disk\", \"name\": \"%c\"}", name);
    else
        bitmap_action(w, "block-dirty-bitmap-merge", "{\"node\": \"disk\", \"target\": \"%c\", "
                      "\"bitmaps\": [\"%c\"]}", name, other);
}

/* ---- operations ---- */

typedef struct Operation {
    const char *name;
    void (*run)(World *w, Input *in);
    bool outside;                          /* of coroutines */
} Operation;

#define OP(name) { #name, op_##name }
#define OP_OUTSIDE(name) { #name, op_##name, true }
static const Operation operations[] = {
    OP(read), OP(write), OP(write), OP(write_compressed), OP(zero), OP(discard), OP(flush), OP(map),
    OP(snapshot_create), OP(snapshot_goto), OP(snapshot_delete), OP(resize), OP(whole), OP(vmstate),
    OP(check), OP(fail), OP_OUTSIDE(bitmap), OP_OUTSIDE(reopen), OP_OUTSIDE(read_only),
};

typedef struct Step {
    World *world;
    Input *in;
    const Operation *operation;
} Step;

static void co_fn run_step(void *opaque)
{
    Step *step = opaque;

    step->operation->run(step->world, step->in);
}

void run_operations(World *w, Input *in)
{
    for (unsigned i = 0; w->user && i < OPERATIONS_MAX && in->p < in->end; i++) {
        Step step = { w, in, &operations[take(in, 1) % G_N_ELEMENTS(operations)] };

        if (G_UNLIKELY(w->verbose))
            fprintf(stderr, "%s %02x\n", step.operation->name, in->p < in->end ? *in->p : 0);
        if (step.operation->outside)
            step.operation->run(w, in);
        else
            co_run_sync(run_step, &step);
        note_failure(w);
        if (w->verbose && w->user && !ram.fail_at && !w->failed)
            co_run_sync(compare_all, w);
    }
}
