/* What is done with whole images: VM state, other sizes, space taken in advance, emptying. */
#include <malloc.h>
#include "qcow2-ram.h"
#include "block/bitmap.h"
#include "src/object/event.h"

#define LUKS ",encrypt.format=luks,encrypt.key-secret=key"
#define DATA_FILE ",data-file.driver=ram,data-file.disk=1"

typedef enum Verb { VMSTATE_WRITE, VMSTATE_READ, RESIZE, PREALLOCATE, EMPTY, SNAPSHOT } Verb;

typedef struct Call {
    BlockNode *node;
    Verb verb;
    uint64_t offset, bytes;
    void *data;
    int ret;
    GError *error;
} Call;

static int co_fn call_verb(Call *c)
{
    struct iovec iov = { c->data, c->bytes };
    BlockSnapshot snapshot = { .id = (char *)"1" };

    switch (c->verb) {
    case VMSTATE_WRITE:
        return block_co_write_vmstate(c->node, c->offset, &iov, 1, c->bytes);
    case VMSTATE_READ:
        return block_co_read_vmstate(c->node, c->offset, &iov, 1, c->bytes);
    case RESIZE:
        return block_node_co_resize(c->node, c->bytes, &c->error);
    case PREALLOCATE:
        return block_co_preallocate(c->node, c->offset, c->bytes, BLOCK_PREALLOC_METADATA, &c->error);
    case EMPTY:
        return block_co_make_empty(c->node, &c->error);
    case SNAPSHOT:
        return block_co_snapshot_create(c->node, &snapshot, &c->error);
    }
    return -1;
}

static void co_fn call_co(void *opaque)
{
    Call *c = opaque;

    c->ret = call_verb(c);
}

static void call(BlockUser *user, Verb verb, uint64_t offset, void *data, uint64_t bytes)
{
    Call c = { block_user_node(user), verb, offset, bytes, data, -1, NULL };

    co_run_sync(call_co, &c);
    assert_no_error(c.error);
    ck_assert_int_eq(c.ret, 0);
}

static TestRoot root_with_secret(void)
{
    static const char text[] = "{\"qom-type\": \"secret\", \"id\": \"key\", \"data\": \"open\"}";
    g_autoptr(json_object) options = json_parse(text, strlen(text), NULL);
    TestRoot t = test_root();

    ck_assert_ptr_nonnull(object_create_user(t.root, options, NULL));
    return t;
}

static BlockUser *make(TestRoot *t, const char *create, const char *open)
{
    g_autofree char *options = g_strdup_printf("driver=qcow2,file=mem,%s", create);
    GError *error = NULL;
    BlockUser *user;

    ram_clear();
    ram_create(t, options);
    user = ram_open_image(t, open, &error);
    assert_no_error(error);
    return user;
}

static void assert_value(BlockUser *user, uint64_t offset, uint64_t bytes, uint8_t value)
{
    g_autofree uint8_t *data = g_malloc(bytes);

    ck_assert_int_eq(test_request(user, OP_READ, offset, data, bytes, 0), 0);
    ck_assert(all_bytes(data, bytes, value));
}

static void write_value(BlockUser *user, uint64_t offset, uint64_t bytes, uint8_t value)
{
    g_autofree uint8_t *data = g_malloc(bytes);

    memset(data, value, bytes);
    ck_assert_int_eq(test_request(user, OP_WRITE, offset, data, bytes, 0), 0);
}

static void close_sound(TestRoot *t, BlockUser *user)
{
    BlockCheck check = ram_check(block_user_node(user), 0);

    ck_assert_uint_eq(check.corruptions + check.leaks + check.check_errors, 0);
    qcow2_close_user(t, user);
    test_root_free(t);
}

/* Nobody aligns VM state; encrypted bytes come in whole sectors. */
START_TEST(vm_state_has_any_place)
{
    static const char *const more[] = { "", LUKS ",encrypt.iter-time=10" };
    g_autofree char *create = g_strdup_printf("size=64k,cluster-size=4096%s", more[_i]);
    static const uint64_t places[][2] = { { 0, 1 }, { 511, 2 }, { 1000, 513 }, { 4095, 9000 }, { 512, 512 } };
    TestRoot t = root_with_secret();
    BlockUser *user = make(&t, create, _i ? LUKS : "");
    uint8_t model[16384] = { 0 }, back[16384];

    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
        memset(model + places[i][0], 'a' + i, places[i][1]);
        call(user, VMSTATE_WRITE, places[i][0], model + places[i][0], places[i][1]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
        call(user, VMSTATE_READ, places[i][0], back, places[i][1]);
        ck_assert_mem_eq(back, model + places[i][0], places[i][1]);
    }
    close_sound(&t, user);
}
END_TEST

/* What no snapshot took along is not seen on a disk that has become larger. */
START_TEST(vm_state_is_no_part_of_the_disk)
{
    TestRoot t = test_root();
    BlockUser *user = make(&t, "size=40k,cluster-size=512", "");
    uint8_t state[4096];

    memset(state, 0x5a, sizeof(state));
    call(user, VMSTATE_WRITE, 0, state, sizeof(state));
    call(user, RESIZE, 0, NULL, 256 * KiB);
    assert_value(user, 0, 256 * KiB, 0);
    close_sound(&t, user);
}
END_TEST

/* Sizes. */

static void judge_by_qemu(BlockUser *user, uint8_t value, uint64_t bytes)
{
    g_autofree char *path = g_strdup_printf("%s/whole.qcow2", test_dir());
    uint64_t size = block_node_size(block_user_node(user));

    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert(g_file_set_contents(path, (const char *)ram.disks[0].data,
                                  ALIGN_UP(ram.disks[0].size, 4096), NULL));
    qcow2_check_image(path);
    ck_assert_int_eq(run_command("qemu-io -r -f qcow2 -c 'read -q -P %u 0 %" PRIu64 "' "
                                 "-c 'read -q -P 0 %" PRIu64 " %" PRIu64 "' %s", value, bytes, bytes,
                                 size - bytes, path),
                     0);
}

START_TEST(a_disk_shrinks_though_its_file_does_not)
{
    TestRoot t = test_root();
    BlockUser *user = make(&t, "size=256k,cluster-size=4096", "");
    uint8_t state[4096], back[4096];
    uint64_t file_bytes;

    write_value(user, 0, 256 * KiB, 0x33);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    file_bytes = ram.disks[0].size;
    ram.fail_what = "resize";
    ram.fail_at = 1;
    ram.fail_with = EIO;
    ram.dead = true;
    call(user, RESIZE, 0, NULL, 64 * KiB);
    ck_assert_uint_ge(ram.disks[0].size, file_bytes);
    ck_assert_uint_eq(ld_be64(ram.disks[0].data + 24), 64 * KiB);
    ck_assert_int_eq(block_node_size(block_user_node(user)), 64 * KiB);
    ck_assert_int_lt(test_request(user, OP_READ, 64 * KiB, back, 4096, 0), 0);
    ram.fail_at = 0;
    ram.dead = false;
    ram.fail_what = NULL;
    memset(state, 0x5a, sizeof(state));
    call(user, VMSTATE_WRITE, 0, state, sizeof(state));
    call(user, VMSTATE_READ, 0, back, sizeof(back));
    ck_assert_mem_eq(back, state, sizeof(state));
    call(user, RESIZE, 0, NULL, 256 * KiB);
    assert_value(user, 0, 64 * KiB, 0x33);
    assert_value(user, 64 * KiB, 192 * KiB, 0);
    judge_by_qemu(user, 0x33, 64 * KiB);
    close_sound(&t, user);
}
END_TEST

START_TEST(a_raw_data_file_that_cannot_be_cut_keeps_the_size)
{
    TestRoot t = test_root();
    BlockUser *user = make(&t, "size=64k,cluster-size=4096,data-file=memdata,data-file-raw=on",
                           DATA_FILE);
    Call c = { block_user_node(user), RESIZE, 0, 32 * KiB, NULL, 0, NULL };

    write_value(user, 0, 64 * KiB, 0x33);
    ram.fail_what = "resize";
    ram.fail_at = 1;
    ram.fail_with = EIO;
    ram.dead = true;
    co_run_sync(call_co, &c);
    assert_error(&c.error, "resizing");
    ck_assert_int_lt(c.ret, 0);
    ram.fail_at = 0;
    ram.dead = false;
    ram.fail_what = NULL;
    ck_assert_int_eq(block_node_size(block_user_node(user)), 64 * KiB);
    ck_assert_uint_eq(ld_be64(ram.disks[0].data + 24), 64 * KiB);
    assert_value(user, 0, 32 * KiB, 0x33);
    call(user, RESIZE, 0, NULL, 32 * KiB);
    ck_assert_uint_eq(ram.disks[1].size, 32 * KiB);
    assert_value(user, 0, 32 * KiB, 0x33);
    close_sound(&t, user);
}
END_TEST

/* The rest of the cluster in which the disk ended. */
START_TEST(what_was_cut_off_within_a_cluster_does_not_come_back)
{
    static const struct {
        const char *create, *open;
    } kinds[] = {
        { "", "" },
        { ",extended-l2=on,cluster-size=16384", "" },
        { ",version=v2", "" },
        { ",data-file=memdata", DATA_FILE },
        { ",data-file=memdata,data-file-raw=on", DATA_FILE },
    };
    g_autofree char *create = g_strdup_printf("size=128k%s", kinds[_i].create);
    static const uint64_t sizes[] = { 70 * KiB + 512, 33 * KiB, 512 };
    TestRoot t = test_root();
    BlockUser *user = make(&t, create, kinds[_i].open);
    GError *error = NULL;

    write_value(user, 0, 128 * KiB, 0x33);
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        call(user, RESIZE, 0, NULL, sizes[i]);
        if (i == 1) {                      /* somebody else opens it in between */
            qcow2_close_user(&t, user);
            user = ram_open_image(&t, kinds[_i].open, &error);
            assert_no_error(error);
        }
        call(user, RESIZE, 0, NULL, 128 * KiB);
        assert_value(user, 0, sizes[i], 0x33);
        assert_value(user, sizes[i], 128 * KiB - sizes[i], 0);
        if (!*kinds[_i].open)
            judge_by_qemu(user, 0x33, sizes[i]);
    }
    close_sound(&t, user);
}
END_TEST

START_TEST(preallocated_space_reads_as_before)
{
    static const char *const kinds[][2] = {
        { "size=128k,cluster-size=4096", "" },
        { "size=128k,cluster-size=4096" LUKS ",encrypt.iter-time=10", LUKS },
        { "size=128k,cluster-size=4096,data-file=memdata", DATA_FILE },
        { "size=128k,cluster-size=16384,extended-l2=on", "" },
    };
    TestRoot t = root_with_secret();
    BlockUser *user = make(&t, kinds[_i][0], kinds[_i][1]);

    write_value(user, 16 * KiB, 32 * KiB, 0x77);
    write_value(user, 80 * KiB, 16 * KiB, 0x78);
    ck_assert_int_eq(test_request(user, OP_DISCARD, 16 * KiB, NULL, 16 * KiB, 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    call(user, PREALLOCATE, 0, NULL, 128 * KiB);
    assert_value(user, 0, 32 * KiB, 0);
    assert_value(user, 32 * KiB, 16 * KiB, 0x77);
    assert_value(user, 48 * KiB, 32 * KiB, 0);
    assert_value(user, 80 * KiB, 16 * KiB, 0x78);
    write_value(user, 512, 512, 0x79);
    assert_value(user, 0, 512, 0);
    assert_value(user, 512, 512, 0x79);
    assert_value(user, 1024, 4096, 0);
    close_sound(&t, user);
}
END_TEST

/* The raw data file is what the disk is, also when it was emptied; space in the other one may have
 * anything until it is taken. */
START_TEST(an_emptied_data_file_shows_nothing)
{
    static const char *const more[] = { "", ",data-file-raw=on" };
    g_autofree char *create = g_strdup_printf("size=64k,cluster-size=4096,data-file=memdata%s", more[_i]);
    TestRoot t = test_root();
    BlockUser *user = make(&t, create, DATA_FILE);

    write_value(user, 0, 64 * KiB, 0x33);
    call(user, EMPTY, 0, NULL, 0);
    assert_value(user, 0, 64 * KiB, 0);
    if (_i)
        ck_assert(all_bytes(ram.disks[1].data, 64 * KiB, 0));
    call(user, PREALLOCATE, 0, NULL, 64 * KiB);
    assert_value(user, 0, 64 * KiB, 0);
    close_sound(&t, user);
}
END_TEST

/* Corruption is told, once, to those who listen; what is sound can still be read. */

static json_object *told;                  /* the event's data */

static void hear(const char *name, json_object *data, void *opaque)
{
    unsigned *times = opaque;

    if (strcmp(name, "BLOCK_IMAGE_CORRUPTED"))
        return;
    ++*times;
    json_object_put(told);
    told = json_object_get(data);
}

static const char *told_string(const char *key)
{
    json_object *value = json_object_object_get(told, key);

    ck_assert_msg(json_object_is_type(value, json_type_string), "%s: %s", key,
                  json_object_to_json_string(told));
    return json_object_get_string(value);
}

/* One more; back to the first; the oldest goes. */
typedef struct SnapshotRun {
    BlockNode *node;
    BlockSnapshot *snapshot;
    unsigned turn;
    GError *error;
} SnapshotRun;

static void co_fn snapshots_co(void *opaque)
{
    SnapshotRun *run = opaque;
    g_autofree char *oldest = g_strdup_printf("%u", run->turn - 1);

    block_co_snapshot_create(run->node, run->snapshot, &run->error);
    if (run->turn % 2 && !run->error)
        block_co_snapshot_goto(run->node, run->snapshot->id, &run->error);
    if (run->turn > 2 && !run->error)
        block_co_snapshot_delete(run->node, oldest, &run->error);
}

/* Where the L2 entry of the disk's second cluster is. */
static uint8_t *second_entry(void)
{
    const uint8_t *l1 = ram.disks[0].data + ld_be64(ram.disks[0].data + 40);

    return ram.disks[0].data + (ld_be64(l1) & 0xfffffffffffe00) + 8;
}

static BlockUser *make_damaged(TestRoot *t, uint64_t entry, const char *open, unsigned *times)
{
    BlockUser *user = make(t, "size=64k,cluster-size=4096", "");
    GError *error = NULL;

    write_value(user, 0, 8192, 0x11);
    qcow2_close_user(t, user);
    st_be64(second_entry(), entry ? entry : ld_be64(ram.disks[0].data + 40) | 1ull << 63);
    event_sink_add(t->root, hear, times);
    user = ram_open_image(t, open, &error);
    assert_no_error(error);
    return user;
}

static void forget_told(TestRoot *t, BlockUser *user, unsigned *times)
{
    event_sink_remove(t->root, hear, times);
    g_clear_pointer(&told, json_object_put);
    qcow2_close_user(t, user);
}

START_TEST(a_write_over_metadata_is_told)
{
    TestRoot t = test_root();
    unsigned times = 0;
    BlockUser *user = make_damaged(&t, 0, "", &times);
    uint64_t l1 = ld_be64(ram.disks[0].data + 40);
    uint8_t data[512] = { 0 };
    GError *error = NULL;

    ck_assert_int_eq(test_request(user, OP_WRITE, 4096 + 512, data, sizeof(data), 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, sizeof(data), 0), -EIO);
    ck_assert_uint_eq(times, 1);
    ck_assert_str_eq(told_string("node-name"), "disk");
    ck_assert_str_eq(told_string("device"), "");
    ck_assert_ptr_nonnull(strstr(told_string("msg"), "overlaps with active L1 table"));
    ck_assert_int_eq(json_object_get_int64(json_object_object_get(told, "offset")), l1 + 512);
    ck_assert_int_eq(json_object_get_int64(json_object_object_get(told, "size")), 512);
    ck_assert(json_object_get_boolean(json_object_object_get(told, "fatal")));
    assert_value(user, 0, 4096, 0x11);
    forget_told(&t, user, &times);
    ck_assert(ram.disks[0].data[79] & 2);  /* the bit corrupt */
    ck_assert_ptr_null(ram_open_image(&t, "", &error));
    assert_error(&error, "corrupt");
    test_root_free(&t);
}
END_TEST

/* Each structure that overlap-check can name, and no other. */

typedef enum Structure { ACTIVE_L1, ACTIVE_L2, REFTABLE, REFBLOCK, SNAPSHOT_TABLE, INACTIVE_L1, INACTIVE_L2,
                         BITMAPS, N_STRUCTURES } Structure;

static const struct {
    const char *option, *told;
} structures[] = {
    { "active-l1", "active L1 table" }, { "active-l2", "active L2 table" },
    { "refcount-table", "refcount table" }, { "refcount-block", "refcount block" },
    { "snapshot-table", "snapshot table" }, { "inactive-l1", "inactive L1 table" },
    { "inactive-l2", "inactive L2 table" }, { "bitmap-directory", "bitmap directory" },
};

static uint64_t place_of(Structure what)
{
    const uint8_t *header = ram.disks[0].data, *snapshots = header + ld_be64(header + 64);

    switch (what) {
    case ACTIVE_L1:
        return ld_be64(header + 40);
    case ACTIVE_L2:
        return ld_be64(header + ld_be64(header + 40)) & 0xfffffffffffe00;
    case REFTABLE:
        return ld_be64(header + 48);
    case REFBLOCK:
        return ld_be64(header + ld_be64(header + 48));
    case SNAPSHOT_TABLE:
        return ld_be64(header + 64);
    case INACTIVE_L1:
        return ld_be64(snapshots);
    case INACTIVE_L2:
        return ld_be64(header + ld_be64(snapshots)) & 0xfffffffffffe00;
    default:                               /* the first extension */
        ck_assert_uint_eq(ld_be32(header + 112), 0x23852875);
        return ld_be64(header + 112 + 8 + 16);
    }
}

static void add_bitmap(BlockUser *user)
{
    GError *error = NULL;
    BlockBitmap *bitmap = block_bitmap_new(block_user_node(user), "b", 65536, &error);

    assert_no_error(error);
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_PERSISTENT, 0);
}

/* A guest's write to where the structure is: what does it return, and what is told? */
static int write_over(Structure what, const char *open, const char **ret_told)
{
    TestRoot t = test_root();
    BlockUser *user = make(&t, "size=64k,cluster-size=4096", open);
    unsigned times = 0;
    GError *error = NULL;
    uint8_t data[512];
    int ret;

    memset(data, 0x77, sizeof(data));
    write_value(user, 0, 8192, 0x11);
    call(user, SNAPSHOT, 0, NULL, 0);      /* while they are watched over */
    add_bitmap(user);
    qcow2_close_user(&t, user);
    st_be64(second_entry(), place_of(what) | 1ull << 63);
    event_sink_add(t.root, hear, &times);
    user = ram_open_image(&t, open, &error);
    assert_no_error(error);
    ret = test_request(user, OP_WRITE, 4096 + 2048, data, sizeof(data), 0);
    *ret_told = times ? g_intern_string(told_string("msg")) : "";
    forget_told(&t, user, &times);
    test_root_free(&t);
    return ret;
}

START_TEST(overlap_checks_watch_over_what_they_name)
{
    g_autofree char *without = g_strdup_printf(",overlap-check.template=all,overlap-check.%s=off",
                                               structures[_i].option);
    g_autofree char *alone = g_strdup_printf(",overlap-check.template=none,overlap-check.%s=on",
                                             structures[_i].option);
    const char *msg;

    ck_assert_int_eq(write_over(_i, ",overlap-check=all", &msg), -EIO);
    ck_assert_msg(strstr(msg, structures[_i].told), "%s", msg);
    ck_assert_int_eq(write_over(_i, alone, &msg), -EIO);
    ck_assert_msg(strstr(msg, structures[_i].told), "%s", msg);
    ck_assert_int_eq(write_over(_i, without, &msg), 0);
    ck_assert_int_eq(write_over(_i, "", &msg), _i == INACTIVE_L2 ? 0 : -EIO);
}
END_TEST

/* Snapshots that are taken, gone back to and deleted: what was theirs can be used again, what is is not. */
START_TEST(tables_of_snapshots_are_watched_over_while_they_are)
{
    TestRoot t = test_root();
    BlockUser *user = make(&t, "size=64k,cluster-size=512", ",overlap-check=all");
    GError *error = NULL;

    for (unsigned i = 0; i < 6; i++) {
        BlockSnapshot *snapshot = g_new0(BlockSnapshot, 1);
        SnapshotRun run = { block_user_node(user), snapshot, i, NULL };

        write_value(user, i * 512, 32 * KiB, i + 1);
        co_run_sync(snapshots_co, &run);
        assert_no_error(run.error);
        block_snapshot_free(snapshot);
        write_value(user, 16 * KiB, 48 * KiB, 0x40 + i);
        ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    }
    assert_value(user, 16 * KiB, 48 * KiB, 0x45);
    qcow2_close_user(&t, user);
    user = ram_open_image(&t, ",overlap-check=all", &error);
    assert_no_error(error);
    close_sound(&t, user);
}
END_TEST

/* Snapshots with L1 tables of 32 MiB each, anywhere. */
START_TEST(tables_behind_the_end_take_no_memory)
{
    enum { COUNT = 16384, TABLE = 1 * MiB, ENTRY = 40 };
    TestRoot t = test_root();
    BlockUser *user = make(&t, "size=64k,cluster-size=512", "");
    uint8_t *header = ram.disks[0].data;
    GError *error = NULL;
    size_t before;

    qcow2_close_user(&t, user);
    st_be32(header + 60, COUNT);
    st_be64(header + 64, TABLE);
    for (uint64_t i = 0; i < COUNT; i++) {
        memset(header + TABLE + i * ENTRY, 0, ENTRY);
        st_be64(header + TABLE + i * ENTRY, (i + 1) << 29);
        st_be32(header + TABLE + i * ENTRY + 8, 4 * MiB);
    }
    ram.disks[0].size = TABLE + COUNT * ENTRY;
    before = mallinfo2().uordblks;
    user = ram_open_image(&t, "", &error);
    assert_no_error(error);
    ck_assert_uint_lt(mallinfo2().uordblks, before + 16 * MiB);
    qcow2_close_user(&t, user);
    test_root_free(&t);
}
END_TEST

/* An entry that points between clusters, in an image that nobody may write to. */
START_TEST(a_bad_entry_is_told_where_nothing_can_be_written)
{
    TestRoot t = test_root();
    unsigned times = 0;
    BlockUser *user = make_damaged(&t, 1ull << 63 | 0x10200, ",read-only=on", &times);
    uint8_t data[512];

    ck_assert_int_eq(test_request(user, OP_READ, 4096, data, sizeof(data), 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_READ, 4096, data, sizeof(data), 0), -EIO);
    ck_assert_uint_eq(times, 1);
    ck_assert(!json_object_get_boolean(json_object_object_get(told, "fatal")));
    assert_value(user, 0, 4096, 0x11);
    forget_told(&t, user, &times);
    ck_assert(!(ram.disks[0].data[79] & 2));
    test_root_free(&t);
}
END_TEST

/* What waited to be freed when the image turned out to be corrupt is in use, as the disk says. */
START_TEST(a_repair_forgets_what_was_not_written)
{
    TestRoot t = test_root();
    unsigned times = 0;
    BlockUser *user = make_damaged(&t, 0, "", &times);
    uint8_t data[512] = { 0 };
    BlockCheck check;

    ck_assert_int_eq(test_request(user, OP_DISCARD, 0, NULL, 4096, 0), 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, 4096, data, sizeof(data), 0), -EIO);
    check = ram_check(block_user_node(user), BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS);
    ck_assert_uint_eq(check.corruptions, 0);
    check = ram_check(block_user_node(user), 0);
    ck_assert_uint_eq(check.corruptions + check.leaks, 0);
    assert_value(user, 0, 4096, 0x11);
    forget_told(&t, user, &times);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, vm_state_has_any_place, 0, 2);
    tcase_add_test(tc, vm_state_is_no_part_of_the_disk);
    tcase_add_loop_test(tc, preallocated_space_reads_as_before, 0, 4);
    tcase_add_test(tc, a_disk_shrinks_though_its_file_does_not);
    tcase_add_test(tc, a_raw_data_file_that_cannot_be_cut_keeps_the_size);
    tcase_add_loop_test(tc, what_was_cut_off_within_a_cluster_does_not_come_back, 0, 5);
    tcase_add_loop_test(tc, overlap_checks_watch_over_what_they_name, 0, N_STRUCTURES);
    tcase_add_test(tc, tables_of_snapshots_are_watched_over_while_they_are);
    tcase_add_test(tc, tables_behind_the_end_take_no_memory);
    tcase_add_test(tc, a_write_over_metadata_is_told);
    tcase_add_test(tc, a_repair_forgets_what_was_not_written);
    tcase_add_test(tc, a_bad_entry_is_told_where_nothing_can_be_written);
    tcase_add_loop_test(tc, an_emptied_data_file_shows_nothing, 0, 2);
}

int main(void)
{
    return run_block_tests("qcow2-whole", add_tests);
}
