/*
 * Several loops at once, as iothreads have them: every loop reads and writes its part of one node,
 * with requests whose edges share blocks, while the main thread drains, quiesces and looks at the
 * statistics.
 */
#include "block-util.h"
#include "src/base/util.h"

enum { THREADS = 3, COROUTINES = 6, PART = 3000, ROUNDS = 40 };

typedef struct Work Work;

typedef struct Part {
    Work *work;
    unsigned index;
    uint8_t data[PART], back[PART];
} Part;

struct Work {
    BlockUser *user;
    Loop *loop;
    GThread *thread;
    bool patient;
    unsigned running;
    uint64_t rounds;               /* atomic */
    Part parts[COROUTINES];
};

static void co_fn run_part(void *opaque)
{
    Part *part = opaque;
    Work *work = part->work;
    uint64_t offset = (uint64_t)part->index * PART;
    struct iovec out = { part->data, PART }, in = { part->back, PART };

    for (unsigned round = 0; round < ROUNDS; round++) {
        memset(part->data, round + part->index, PART);
        ck_assert_int_eq(block_co_write(work->user, offset, &out, 1, PART, 0), 0);
        ck_assert_int_eq(block_co_read(work->user, offset, &in, 1, PART), 0);
        ck_assert_mem_eq(part->data, part->back, PART);
        if (round % 16 == 0)
            ck_assert_int_eq(block_co_flush(work->user), 0);
        __atomic_fetch_add(&work->rounds, 1, __ATOMIC_RELAXED);
    }
    if (!--work->running)
        loop_quit(work->loop);
}

static void start_parts(void *opaque)
{
    Work *work = opaque;

    loop_set_patient(work->loop, work->patient);
    work->running = COROUTINES;
    for (unsigned i = 0; i < COROUTINES; i++)
        co_start(run_part, &work->parts[i]);
}

static gpointer run_loop(gpointer opaque)
{
    Work *work = opaque;

    loop_post(work->loop, start_parts, work);
    loop_run(work->loop);
    return NULL;
}

static Work *start_work(BlockUser *user, unsigned thread, bool patient)
{
    Work *work = g_new0(Work, 1);

    work->user = user;
    work->patient = patient;
    work->loop = loop_new("test", NULL);
    ck_assert_ptr_nonnull(work->loop);
    for (unsigned i = 0; i < COROUTINES; i++)
        work->parts[i] = (Part){ .work = work, .index = i * THREADS + thread };
    work->thread = g_thread_new("test-loop", run_loop, work);
    return work;
}

static uint64_t rounds(Work **works)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < THREADS; i++)
        n += __atomic_load_n(&works[i]->rounds, __ATOMIC_RELAXED);
    return n;
}

static const struct {
    const char *engine;
    bool direct;
} setups[] = { { ",file.aio=threads", true }, { ",file.aio=io_uring", false },
               { ",file.aio=io_uring", true }, { ",file.aio=native", true },
               { "", false } };            /* as it comes, in patient loops: by lanes */

START_TEST(loops_share_a_node)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("shared.img", 1 * MiB), *content = NULL;
    GError *error = NULL;
    Work *works[THREADS];
    BlockNode *node;
    BlockUser *user;
    struct stat st;
    gsize length;
    const uint64_t all = THREADS * COROUTINES * ROUNDS;

    if (setups[_i].direct && !test_direct_io()) {
        printf("skipped: no O_DIRECT in %s\n", test_dir());
        test_root_free(&t);
        return;
    }
    loop_main();                   /* made by the main thread, before the others wake it */
    node = test_open(t.graph, &error, "raw,node-name=d,cache.direct=%s,file.driver=file,"
                     "file.filename=%s%s", setups[_i].direct ? "on" : "off", path,
                     setups[_i].engine);
    assert_no_error(error);
    user = block_user_new(node, "loops", BLOCK_PERM_READ | BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error);
    assert_no_error(error);
    for (unsigned i = 0; i < THREADS; i++)
        works[i] = start_work(user, i, !*setups[_i].engine);
    while (rounds(works) < all / 2) {
        uint64_t before, after;

        block_user_drain(user);
        block_user_quiesce(user, true);
        block_user_quiesce(user, true);
        before = block_user_stats(user).of[BLOCK_ACCT_WRITE].operations;
        block_user_quiesce(user, false);
        g_thread_yield();
        after = block_user_stats(user).of[BLOCK_ACCT_WRITE].operations;
        ck_assert_uint_eq(before, after);          /* still quiesced: nothing moves */
        block_user_quiesce(user, false);
        ck_assert(block_node_resize(node, after & 1 ? 2 * MiB : 64 * KiB, &error));
        loop_iterate(loop_main(), false);
    }
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_size, block_node_size(node));
    for (unsigned i = 0; i < THREADS; i++) {
        g_thread_join(works[i]->thread);
        loop_free(works[i]->loop);
        g_free(works[i]);
    }
    ck_assert_uint_eq(block_user_stats(user).of[BLOCK_ACCT_WRITE].operations, all);
    ck_assert_uint_eq(block_user_stats(user).of[BLOCK_ACCT_WRITE].bytes, all * PART);
    ck_assert_uint_eq(block_user_stats(user).of[BLOCK_ACCT_READ].operations, all);
    ck_assert_uint_eq(block_user_stats(user).of[BLOCK_ACCT_READ].failed, 0);
    block_user_free(user);
    ck_assert(g_file_get_contents(path, &content, &length, NULL));
    for (unsigned i = 0; i < THREADS * COROUTINES; i++)
        ck_assert(all_bytes(content + i * PART, PART, ROUNDS - 1 + i));
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, loops_share_a_node, 0, G_N_ELEMENTS(setups));
}

int main(void)
{
    return run_block_tests("block-threads", add_tests);
}
