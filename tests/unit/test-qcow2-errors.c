/*
 * Errors below an image while it is changed as a whole: each request to the file fails in turn, once, or the
 * disk is dead from then on; and errors at the places that blkdebug's rules name.
 *
 * What failed has not happened, what succeeded has; where the disk died it is one of the two.  Either
 * way the image has no errors but leaks, and all data.
 */
#include "qcow2-ram.h"
#include "block/bitmap.h"

enum { DISK = 128 * 1024, LARGE = 1024 * 1024, SMALL = 64 * 1024, MOST = 4096 * 1024 };

static const struct Kind {
    const char *create;
    uint64_t ballast;                      /* bytes past DISK, so that tables are nearly full */
    bool v2;
} kinds[] = {
    { "cluster-size=4096" },
    { "cluster-size=512" },
    { "cluster-size=16384,extended-l2=on" },
    { "cluster-size=4096,version=v2", .v2 = true },
    { "cluster-size=512,refcount-bits=64", 1900 * KiB },
};
typedef struct Kind Kind;

/* What a disk shows; snapshot "a" has its first version. */
typedef struct State {
    uint64_t size;
    uint8_t *bytes;                        /* owned */
    bool a, b;                             /* snapshots */
} State;

typedef struct Image {
    const Kind *kind;
    RamCopy file;                          /* prepared */
    uint8_t *first;                        /* what snapshot "a" shows */
    uint64_t size;
    State before, after;
} Image;

/* ---- verbs ---- */

typedef enum Verb { TAKE, GO_BACK, DELETE, GROW, SHRINK, PREALLOCATE, EMPTY, OVERWRITE, VERBS } Verb;

typedef struct Call {
    BlockUser *user;
    Verb verb;
    const Image *image;
    const char *name;                      /* of a snapshot that is taken */
    int ret;
} Call;

static int co_fn overwrite(Call *c)
{
    g_autofree uint8_t *data = g_malloc(SMALL);
    int ret = 0;

    memset(data, 0x99, SMALL);
    for (unsigned i = 0; ret == 0 && i < 4; i++)
        ret = block_co_write(c->user, i * SMALL / 4, &(struct iovec){ data, SMALL / 4 }, 1, SMALL / 4, 0);
    return ret == 0 ? block_co_flush(c->user) : ret;
}

static int co_fn call_verb(Call *c)
{
    BlockNode *node = block_user_node(c->user);
    BlockSnapshot snapshot = { .name = (char *)c->name, .icount = UINT64_MAX };
    g_autoptr(GError) error = NULL;
    int ret = -1;

    switch (c->verb) {
    case TAKE:
        ret = block_co_snapshot_create(node, &snapshot, &error);
        g_free(snapshot.id);
        break;
    case GO_BACK:
        ret = block_co_snapshot_goto(node, "a", &error);
        break;
    case DELETE:
        ret = block_co_snapshot_delete(node, "a", &error);
        break;
    case GROW:
        ret = block_node_co_resize(node, c->image->size + LARGE, &error);
        break;
    case SHRINK:
        ret = block_node_co_resize(node, SMALL, &error);
        break;
    case PREALLOCATE:
        ret = block_co_preallocate(node, 0, DISK, BLOCK_PREALLOC_METADATA, &error);
        break;
    case EMPTY:
        ret = block_co_make_empty(node, &error);
        break;
    default:
        return overwrite(c);
    }
    if (ret == 0 ? error != NULL : !error || !*error->message)
        ck_abort_msg("verb %d: %d without its error", c->verb, ret);
    return ret;
}

static void co_fn call_co(void *opaque)
{
    Call *c = opaque;

    c->ret = call_verb(c);
}

static int call(const Image *image, BlockUser *user, Verb verb)
{
    Call c = { user, verb, image, "b", -1 };

    co_run_sync(call_co, &c);
    return c.ret;
}

/* ---- images ---- */

static BlockUser *open_image(TestRoot *t)
{
    GError *error = NULL;
    BlockUser *user = ram_open_image(t, "", &error);

    assert_no_error(error);
    return user;
}

static void fill(BlockUser *user, uint8_t *bytes, uint64_t from, uint64_t to, unsigned version)
{
    for (uint64_t at = from; at < to; at += 512)
        memset(bytes + at, 1 + (at / 512 * 7 + version * 31) % 250, MIN(512, to - at));
    ck_assert_int_eq(test_request(user, OP_WRITE, from, bytes + from, to - from, 0), 0);
}

static void add_bitmap(const Image *image, BlockUser *user)
{
    BlockBitmap *bitmap;

    if (image->kind->v2)
        return;
    bitmap = block_bitmap_new(block_user_node(user), "marks", 512, NULL);
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_PERSISTENT, 0);
    block_bitmap_mark(bitmap, 4096, 8192);
}

/* Something in half of the clusters, a snapshot of it, something else in a part of them, a bitmap. */
static void prepare(Image *image, TestRoot *t, const Kind *kind)
{
    g_autofree char *options = NULL;
    uint8_t *bytes;
    BlockUser *user;
    Call c;

    *image = (Image){ .kind = kind, .size = DISK + kind->ballast };
    bytes = g_malloc0(image->size + LARGE);
    options = g_strdup_printf("driver=qcow2,file=mem,size=%" PRIu64 ",%s", image->size, kind->create);
    ram_clear();
    ram_create(t, options);
    user = open_image(t);
    for (uint64_t at = 0; at < DISK; at += 32 * KiB)
        fill(user, bytes, at, at + 16 * KiB, 1);
    if (kind->ballast)
        fill(user, bytes, DISK, image->size, 1);
    image->first = g_memdup2(bytes, image->size);
    c = (Call){ user, TAKE, image, "a", -1 };
    co_run_sync(call_co, &c);
    ck_assert_int_eq(c.ret, 0);
    fill(user, bytes, 8 * KiB, 40 * KiB, 2);
    add_bitmap(image, user);
    qcow2_close_user(t, user);
    image->file = ram_copy(0);
    image->before = (State){ image->size, bytes, true, false };
}

static void image_free(Image *image)
{
    g_free(image->file.data);
    g_free(image->first);
    g_free(image->before.bytes);
    g_free(image->after.bytes);
}

static State state_after(const Image *image, Verb verb)
{
    State after = image->before;

    after.bytes = g_memdup2(image->before.bytes, image->size + LARGE);
    after.b = verb == TAKE;
    after.a = verb != DELETE;
    if (verb == GO_BACK)
        memcpy(after.bytes, image->first, image->size);
    if (verb == GROW)
        after.size += LARGE;
    if (verb == SHRINK)
        after.size = SMALL;
    if (verb == EMPTY)
        memset(after.bytes, 0, after.size);
    if (verb == OVERWRITE)
        memset(after.bytes, 0x99, SMALL);
    return after;
}

/* ---- what must be ---- */

static bool has_snapshot(BlockNode *node, const char *name)
{
    g_autoptr(GPtrArray) list = block_snapshots(node);

    for (unsigned i = 0; i < list->len; i++)
        if (!strcmp(((BlockSnapshot *)list->pdata[i])->name, name))
            return true;
    return false;
}

/* All of the disk, until the next call. */
static const uint8_t *read_disk(BlockUser *user)
{
    static uint8_t disk[MOST];             /* once: new memory for each is most of the time */
    uint64_t size = block_node_size(block_user_node(user));

    ck_assert_uint_le(size, MOST);
    ck_assert_int_eq(test_request(user, OP_READ, 0, disk, size, 0), 0);
    return disk;
}

static bool shows(BlockNode *node, const uint8_t *disk, const State *state)
{
    return (uint64_t)block_node_size(node) == state->size && has_snapshot(node, "a") == state->a &&
           has_snapshot(node, "b") == state->b && !memcmp(disk, state->bytes, state->size);
}

/* The snapshot is what it was when it was taken. */
static void assert_first(const Image *image, BlockUser *user)
{
    ck_assert_int_eq(call(image, user, GO_BACK), 0);
    ck_assert_int_eq(block_node_size(block_user_node(user)), image->size);
    ck_assert(!memcmp(read_disk(user), image->first, image->size));
}

typedef enum Done { NOT_DONE, DONE, ONE_OF_BOTH, PARTLY } Done;

static void assert_state(const Image *image, TestRoot *t, Done done, unsigned at)
{
    BlockUser *user = open_image(t);
    BlockNode *node = block_user_node(user);
    BlockCheck check = ram_check(node, BLOCK_FIX_LEAKS);
    const uint8_t *disk;
    bool before, after;

    if (check.corruptions || check.leaks || check.check_errors)
        ck_abort_msg("request %u: %" PRIu64 " corruptions, %" PRIu64 " leaks", at, check.corruptions,
                     check.leaks);
    disk = read_disk(user);
    before = shows(node, disk, &image->before);
    after = shows(node, disk, &image->after);
    if ((done == NOT_DONE && !before) || (done == DONE && !after) ||
        (done == ONE_OF_BOTH && !before && !after))
        ck_abort_msg("request %u: done %d, but it is before %d, after %d", at, done, before, after);
    if (has_snapshot(node, "a"))
        assert_first(image, user);
    qcow2_close_user(t, user);
}

/* Writes that failed may have been made, and so may a part of what is several steps. */
static Done outcome(Verb verb, int ret, bool dead)
{
    bool in_steps = verb == OVERWRITE || verb == EMPTY || verb == SHRINK;

    if (ret == 0 && !dead)
        return DONE;
    return in_steps ? PARTLY : dead ? ONE_OF_BOTH : NOT_DONE;
}

/* Returns whether there were so many requests. */
static bool fail_once(const Image *image, Verb verb, unsigned at, bool dead)
{
    TestRoot t = test_root();
    BlockUser *user;
    bool fired;
    int ret;

    ram_restore(&image->file);
    user = open_image(&t);
    ram.requests = 0;
    ram.fail_at = at;
    ram.fail_with = at % 2 ? EIO : ENOSPC;
    ram.dead = dead;
    ret = call(image, user, verb);
    fired = ram.requests >= at;
    if (ret < 0 && !fired)
        ck_abort_msg("verb %d fails: %d", verb, ret);
    qcow2_close_user(&t, user);
    ram.fail_at = 0;
    ram.dead = false;
    assert_state(image, &t, outcome(verb, ret, dead && fired), at);
    test_root_free(&t);
    return fired;
}

static bool fits(const Kind *kind, Verb verb)
{
    return !(kind->v2 && (verb == GROW || verb == SHRINK));   /* not with snapshots */
}

/* With sanitizers, which make everything slow, all requests of the two simplest kinds, and a third of the others. */
static unsigned fail_each(const Kind *kind, Verb verb, bool dead)
{
    TestRoot t = test_root();
    unsigned at = 1;
    Image image;

    prepare(&image, &t, kind);
    test_root_free(&t);
    image.after = state_after(&image, verb);
    while (at < 3000 && fail_once(&image, verb, at, dead))
        at += kind->ballast && at > 40 ? 7 : SEEDS_SANITIZED && kind > &kinds[1] ? 3 : 1;
    image_free(&image);
    return at;
}

START_TEST(each_request_fails_once)
{
    const Kind *kind = &kinds[_i / VERBS];
    Verb verb = _i % VERBS;

    if (fits(kind, verb))
        ck_assert_uint_gt(fail_each(kind, verb, false), 3);
}
END_TEST

START_TEST(the_disk_dies_at_each_request)
{
    const Kind *kind = &kinds[_i / VERBS];
    Verb verb = _i % VERBS;

    if (fits(kind, verb))
        ck_assert_uint_gt(fail_each(kind, verb, true), 3);
}
END_TEST

/* ---- the places that blkdebug's rules name ---- */

enum { CLUSTER = 512, PACKED = 64 * 1024, NEW_PLACE = 512 * 1024 };
typedef enum Step { READ_OLD, READ_PACKED, WRITE_OLD, WRITE_PART, WRITE_NEW, PACK, ENLARGE, DROP } Step;

static const struct {
    const char *event;
    Step step;
} places[] = {
    { "l2_load", READ_OLD }, { "read_aio", READ_OLD }, { "read_compressed", READ_PACKED },
    { "write_aio", WRITE_OLD }, { "pwritev", WRITE_OLD }, { "cow_read", WRITE_PART },
    { "cow_write", WRITE_PART }, { "cluster_alloc", WRITE_NEW }, { "refblock_load", WRITE_NEW },
    { "l2_alloc_write", WRITE_NEW }, { "refblock_update_part", WRITE_NEW }, { "l2_update", WRITE_NEW },
    { "l1_update", WRITE_NEW }, { "flush_to_os", WRITE_NEW }, { "flush_to_disk", WRITE_NEW },
    { "cluster_alloc_bytes", PACK }, { "write_compressed", PACK }, { "l1_grow_alloc_table", ENLARGE },
    { "l1_grow_write_table", ENLARGE }, { "l1_grow_activate_table", ENLARGE },
    { "l1_shrink_free_l2_clusters", DROP }, { "empty_image_prepare", DROP },
};

static int take_step(const Image *image, BlockUser *user, Step step)
{
    uint8_t data[CLUSTER];
    int ret = 0;

    memset(data, 0x42, sizeof(data));
    switch (step) {
    case READ_OLD:
        return test_request(user, OP_READ, 0, data, CLUSTER, 0);
    case READ_PACKED:
        return test_request(user, OP_READ, PACKED, data, CLUSTER, 0);
    case WRITE_OLD:
        return test_request(user, OP_WRITE, 0, data, CLUSTER, 0);
    case WRITE_PART:
        return test_request(user, OP_WRITE, PACKED + 100, data, 100, 0);
    case WRITE_NEW:
        ret = test_request(user, OP_WRITE, NEW_PLACE, data, CLUSTER, 0);
        return ret == 0 ? test_request(user, OP_FLUSH, 0, NULL, 0, 0) : ret;
    case PACK:
        return test_request(user, OP_WRITE, PACKED + CLUSTER, data, CLUSTER, BLOCK_COMPRESSED);
    case ENLARGE:
        return call(image, user, GROW);
    case DROP:
        return call(image, user, EMPTY);
    }
    return ret;
}

static void make_small(TestRoot *t)
{
    BlockUser *user;
    uint8_t data[CLUSTER];

    ram_clear();
    ram_create(t, "driver=qcow2,file=mem,size=1M,cluster-size=512");
    user = open_image(t);
    memset(data, 0x41, sizeof(data));
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, CLUSTER, 0), 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, PACKED, data, CLUSTER, BLOCK_COMPRESSED), 0);
    qcow2_close_user(t, user);
}

static BlockUser *open_on_blkdebug(TestRoot *t, const char *rules)
{
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, "driver=qcow2,node-name=disk,discard=unmap,"
                                "file.driver=blkdebug,file.image.driver=ram%s", rules);

    assert_no_error(error);
    return qcow2_attach(node);
}

static void assert_sound(TestRoot *t)
{
    BlockUser *user = open_image(t);
    BlockCheck check = ram_check(block_user_node(user), BLOCK_FIX_LEAKS);

    ck_assert_uint_eq(check.corruptions + check.leaks + check.check_errors, 0);
    qcow2_close_user(t, user);
}

START_TEST(rules_name_places)
{
    g_autofree char *rules = g_strdup_printf(",file.inject-error.0.event=%s,file.inject-error.0.once=on,"
                                             "file.inject-error.0.errno=71,file.inject-error.0.state=1,"
                                             "file.set-state.0.event=%s,file.set-state.0.new-state=2",
                                             places[_i].event, places[_i].event);
    const Image image = { .size = LARGE };
    TestRoot t = test_root();
    BlockUser *user;

    make_small(&t);
    user = open_on_blkdebug(&t, rules);
    ck_assert_int_eq(take_step(&image, user, places[_i].step), -71);
    ck_assert_int_eq(take_step(&image, user, places[_i].step), 0);
    qcow2_close_user(&t, user);
    assert_sound(&t);
    test_root_free(&t);
}
END_TEST

/* The second write of an L2 table leads to a state in which data cannot be read. */
START_TEST(rules_lead_from_state_to_state)
{
    TestRoot t = test_root();
    BlockUser *user;

    make_small(&t);
    user = open_on_blkdebug(&t, ",file.set-state.0.event=l2_update,file.set-state.0.state=1,"
                                "file.set-state.0.new-state=2,file.set-state.1.event=l2_update,"
                                "file.set-state.1.state=2,file.set-state.1.new-state=3,"
                                "file.inject-error.0.event=read_aio,file.inject-error.0.state=3");
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(take_step(NULL, user, READ_OLD), 0);
        ck_assert_int_eq(take_step(NULL, user, WRITE_NEW), 0);
        ck_assert_int_eq(test_request(user, OP_DISCARD, NEW_PLACE, NULL, CLUSTER, 0), 0);
    }
    ck_assert_int_eq(take_step(NULL, user, READ_OLD), -EIO);
    qcow2_close_user(&t, user);
    assert_sound(&t);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, each_request_fails_once, 0, VERBS * G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, the_disk_dies_at_each_request, 0, VERBS * G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, rules_name_places, 0, G_N_ELEMENTS(places));
    tcase_add_test(tc, rules_lead_from_state_to_state);
}

int main(void)
{
    return run_block_tests("qcow2-errors", add_tests);
}
