/* What the tests of checksums share: images on a disk in memory, where their tables are, what a check or a scrub
 * says of them. */
#pragma once
#include "qcow2-ram.h"
#include "block/bitmap.h"

typedef struct Kind {
    const char *create, *open;
    uint64_t size;
    bool snapshot, bitmap;
} Kind;

static const Kind kinds[] = {
    { "cluster-size=4096", "", 1 * MiB, true, true },
    { "cluster-size=512", "", 256 * KiB, true, true },
    { "cluster-size=65536,refcount-bits=64", "", 2 * MiB, true, true },
    { "cluster-size=16384,extended-l2=on", "", 1 * MiB, true, true },
    { "cluster-size=4096,refcount-bits=1", "", 1 * MiB, false, true },
    { "cluster-size=2M", "", 2 * MiB, false, false },   /* as much as fits on the disk */
    { "cluster-size=4096,data-file=memdata", ",data-file.driver=ram,data-file.disk=1", 1 * MiB, false,
      true },
};

#define OFFSET_MASK 0x00fffffffffffe00ull
enum { AUTOCLEAR = 88, INCOMPATIBLE = 72, CHECKSUMS = 57 };

static inline uint8_t *at(uint64_t offset)
{
    return ram.disks[0].data + offset;
}

static inline bool are_stored(const uint8_t *header)
{
    return ld_be64(header + AUTOCLEAR) >> CHECKSUMS & 1;
}

static inline uint64_t cluster_bytes(void)
{
    return 1ull << ld_be32(at(20));
}

/* ---- an image with everything ---- */

static inline void co_fn snapshot_co(void *opaque)
{
    BlockSnapshot snapshot = { .name = (char *)"s", .icount = UINT64_MAX };
    GError *error = NULL;

    ck_assert_int_eq(block_co_snapshot_create(opaque, &snapshot, &error), 0);
    assert_no_error(error);
    g_free(snapshot.id);
}

static inline void fill(BlockUser *user, uint64_t offset, uint64_t bytes, uint8_t value)
{
    g_autofree uint8_t *data = g_malloc(bytes);

    memset(data, value, bytes);
    ck_assert_int_eq(test_request(user, OP_WRITE, offset, data, bytes, 0), 0);
}

static inline void create_image(TestRoot *t, const Kind *kind, const char *more)
{
    g_autofree char *options = g_strdup_printf("driver=qcow2,file=mem,size=%" PRIu64 ",%s%s",
                                               kind->size, kind->create, more);

    ram_clear();
    ram_create(t, options);
}

static inline BlockUser *open_image(TestRoot *t, const Kind *kind, const char *more)
{
    g_autofree char *options = g_strconcat(kind->open, more, NULL);
    GError *error = NULL;
    BlockUser *user = ram_open_image(t, options, &error);

    assert_no_error(error);
    return user;
}

static inline void add_bitmap(BlockUser *user)
{
    GError *error = NULL;
    BlockBitmap *bitmap = block_bitmap_new(block_user_node(user), "bitmap", 512, &error);

    assert_no_error(error);
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_PERSISTENT, 0);
    block_bitmap_mark(bitmap, 4096, 4096);
}

static inline void make_image(TestRoot *t, const Kind *kind)
{
    BlockUser *user;

    create_image(t, kind, ",checksums=on");
    ck_assert(are_stored(at(0)));
    user = open_image(t, kind, "");
    ck_assert(are_stored(at(0)));
    if (kind->bitmap)
        add_bitmap(user);
    fill(user, 0, kind->size / 2, 0x11);
    ck_assert(!are_stored(at(0)));
    if (kind->snapshot)
        co_run_sync(snapshot_co, block_user_node(user));
    fill(user, 0, kind->size / 4, 0x22);
    qcow2_close_user(t, user);
    ck_assert(are_stored(at(0)));
}

/* ---- where tables are ---- */

static inline uint64_t l1_table(void)
{
    return ld_be64(at(40));
}

static inline uint64_t l2_table(void)
{
    return ld_be64(at(l1_table())) & OFFSET_MASK;
}

static inline const uint8_t *extension(uint32_t type)
{
    uint64_t offset = ld_be32(at(100));

    while (ld_be32(at(offset)) && ld_be32(at(offset)) != type)
        offset += 8 + ALIGN_UP(ld_be32(at(offset + 4)), 8);
    return ld_be32(at(offset)) ? at(offset + 8) : NULL;
}

static inline void swap_entries(void)
{
    uint64_t first = ld_be64(at(l2_table() + 24)), second = ld_be64(at(l2_table() + 32));

    ck_assert_uint_ne(first, second);
    st_be64(at(l2_table() + 24), second);
    st_be64(at(l2_table() + 32), first);
}

/* ---- looking ---- */

typedef struct Look {
    BlockNode *node;
    BlockCheck check;
    BlockScrub scrub;
    unsigned fix;
    GString *lines;
    GError *error;
    int ret;
} Look;

static inline void add_line(const char *line, void *opaque)
{
    g_string_append_printf(((Look *)opaque)->lines, "%s\n", line);
}

static inline void co_fn check_co(void *opaque)
{
    Look *look = opaque;

    look->ret = block_co_check(look->node, &look->check, look->fix, &look->error);
}

static inline bool co_fn pace(BlockScrub *scrub, uint64_t bytes)
{
    return true;
}

static inline void co_fn scrub_co(void *opaque)
{
    Look *look = opaque;

    look->ret = block_co_scrub(look->node, &look->scrub, &look->error);
}

static inline void look_done(Look *look)
{
    block_scrub_clear(&look->scrub);
    g_string_free(look->lines, TRUE);
}

/* As the tool opens images to be checked. */
static inline Look check_image(TestRoot *t, const Kind *kind, unsigned fix)
{
    BlockUser *user = open_image(t, kind, fix ? ",x-check=on" : ",x-check=on,read-only=on");
    Look look = { .node = block_user_node(user), .fix = fix, .lines = g_string_new(NULL) };

    look.check = (BlockCheck){ .report = add_line, .opaque = &look };
    co_run_sync(check_co, &look);
    assert_no_error(look.error);
    ck_assert_int_eq(look.ret, 0);
    qcow2_close_user(t, user);
    return look;
}

/* @plan: taken over; NULL: look only. */
static inline Look scrub_node(BlockNode *node, json_object *plan)
{
    Look look = { .node = node, .scrub = { .pace = pace, .apply = plan }, .lines = g_string_new(NULL) };

    co_run_sync(scrub_co, &look);
    assert_no_error(look.error);
    ck_assert_int_eq(look.ret, 0);
    for (size_t i = 0; i < json_object_array_length(look.scrub.findings); i++)
        add_line(json_object_get_string(json_object_object_get(
                     json_object_array_get_idx(look.scrub.findings, i), "message")), &look);
    return look;
}

static inline void assert_clean(TestRoot *t, const Kind *kind)
{
    Look look = check_image(t, kind, 0);

    ck_assert_msg(!look.check.corruptions && !look.check.leaks && !look.check.check_errors, "%s",
                  look.lines->str);
    look_done(&look);
}

static inline char *dump(const char *name)
{
    char *path = g_strdup_printf("%s/%s", test_dir(), name);

    ck_assert(g_file_set_contents(path, (const char *)ram.disks[0].data, ram.disks[0].size, NULL));
    return path;
}

/* QEMU finds nothing; the file's last cluster is whole. */
static inline void judge_by_qemu(const Kind *kind)
{
    g_autofree char *path = dump("judged.qcow2");

    ck_assert_uint_eq(ram.disks[0].size % cluster_bytes(), 0);
    if (!*kind->open)
        qcow2_check_image(path);
}
