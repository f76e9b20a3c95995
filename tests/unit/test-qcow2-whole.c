/* What is done with whole images: VM state, other sizes, space taken in advance, emptying. */
#include "qcow2-ram.h"

/* libgcrypt keeps its random pool's memory behind pointers in locked pages, where LeakSanitizer does not
 * look. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libgcrypt.so";
}

#define LUKS ",encrypt.format=luks,encrypt.key-secret=key"
#define DATA_FILE ",data-file.driver=ram,data-file.disk=1"

typedef enum Verb { VMSTATE_WRITE, VMSTATE_READ, RESIZE, PREALLOCATE, EMPTY } Verb;

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

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, vm_state_has_any_place, 0, 2);
    tcase_add_test(tc, vm_state_is_no_part_of_the_disk);
    tcase_add_loop_test(tc, preallocated_space_reads_as_before, 0, 4);
    tcase_add_loop_test(tc, an_emptied_data_file_shows_nothing, 0, 2);
}

int main(void)
{
    return run_block_tests("qcow2-whole", add_tests);
}
