/* The seeded scheduler: a seed is an order, and finds bugs that depend on it. */
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "src/base/coroutine.h"
#include "src/base/sched.h"
#include "tests/test.h"

enum { PARTS = 3 };

typedef struct Run {
    char text[64];
    unsigned length, want;
    bool done;
    int balance, lost;
} Run;

typedef struct Part {
    Run *run;
    char name;
    int fd;
    LoopFd *watch;
    LoopBh bh;
    LoopTimer timer;
    LoopCqe cqe;
    char byte;
} Part;

static void say(Run *run, char name)
{
    run->text[run->length++] = name;
    run->done = run->length == run->want;
}

static void say_part(void *opaque)
{
    Part *part = opaque;
    say(part->run, part->name);
}

static void say_fd(void *opaque, unsigned events)
{
    Part *part = opaque;
    uint64_t value;
    if (read(part->fd, &value, sizeof(value)) > 0)
        say(part->run, part->name);
}

static void say_cqe(LoopCqe *cqe, int res)
{
    Part *part = (Part *)((char *)cqe - offsetof(Part, cqe));
    ck_assert_int_eq(res, 1);
    say(part->run, part->name);
}

static int work(void *arg)
{
    return 0;
}

static void co_fn use_worker(void *opaque)
{
    co_worker_call(work, NULL);
    say_part(opaque);
}

/* Three of each kind of work, all ready in the same turn. */
static void run_mixed(Loop *loop, Run *run)
{
    static const char letters[] = "abcdefghijklmnopqr";
    Part parts[6 * PARTS];
    FILE *file = tmpfile();
    fputs("text", file);
    fflush(file);
    *run = (Run){ .want = G_N_ELEMENTS(parts) };
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        Part *part = &parts[i];
        *part = (Part){ .run = run, .name = letters[i], .fd = -1, .cqe.fn = say_cqe };
        loop_bh_init(&part->bh, loop, say_part, part);
        loop_timer_init(&part->timer, loop, say_part, part);
        switch (i / PARTS) {
        case 0:
            loop_post(loop, say_part, part);
            break;
        case 1:
            loop_bh_schedule(&part->bh);
            break;
        case 2:
            part->fd = eventfd(1, EFD_NONBLOCK);
            part->watch = loop_add_fd(loop, part->fd, G_IO_IN, say_fd, part);
            break;
        case 3:
            loop_timer_set(&part->timer, 1);
            break;
        case 4:
            io_uring_prep_read(loop_uring_sqe(loop, &part->cqe), fileno(file), &part->byte, 1, 0);
            break;
        case 5:
            co_start(use_worker, part);
            break;
        }
    }
    while (!run->done)
        loop_iterate(loop, true);
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        loop_fd_remove(parts[i].watch);
        if (parts[i].fd >= 0)
            close(parts[i].fd);
    }
    fclose(file);
}

START_TEST(a_seed_is_an_order)
{
    Loop *loop = loop_main();
    g_autoptr(GHashTable) orders = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (uint64_t seed = 0; seed < 50; seed++) {
        Run first, second;
        sched_seed(seed);
        run_mixed(loop, &first);
        sched_seed(seed);
        run_mixed(loop, &second);
        ck_assert_mem_eq(first.text, second.text, first.length);
        g_hash_table_add(orders, g_strndup(first.text, first.length));
        /* posted work keeps its own order (loop.h) */
        ck_assert(memchr(first.text, 'a', 18) < memchr(first.text, 'b', 18));
        ck_assert(memchr(first.text, 'b', 18) < memchr(first.text, 'c', 18));
    }
    ck_assert_uint_gt(g_hash_table_size(orders), 45);
    sched_off();
}
END_TEST

/* Reads, lets others run, writes back: right only in some orders. */
static void co_fn lose_update(void *opaque)
{
    Run *run = opaque;
    int seen = run->balance;
    co_worker_call(work, NULL);
    run->balance = seen + 1;
    run->done = ++run->length == run->want;
}

static void co_fn start_later(void *opaque)
{
    co_wake(co_self());
    co_yield();
    lose_update(opaque);
}

static int final_balance(uint64_t seed)
{
    Run run = { .want = 2 };
    sched_seed(seed);
    co_start(lose_update, &run);
    co_start(start_later, &run);
    loop_wait(&run.done);
    sched_off();
    return run.balance;
}

START_TEST(a_seed_replays_a_race)
{
    int bad = -1, good = -1;
    for (int seed = 0; seed < 64 && (bad < 0 || good < 0); seed++) {
        if (final_balance(seed) == 2)
            good = seed;
        else
            bad = seed;
    }
    ck_assert_int_ge(bad, 0);
    ck_assert_int_ge(good, 0);
    for (int i = 0; i < 10; i++) {
        ck_assert_int_eq(final_balance(bad), 1);
        ck_assert_int_eq(final_balance(good), 2);
    }
}
END_TEST

START_TEST(choices_cover_the_range)
{
    unsigned seen[5] = { 0 };
    ck_assert_uint_eq(sched_choose(5), 0);
    sched_seed(7);
    for (int i = 0; i < 500; i++)
        seen[sched_choose(5)]++;
    for (int i = 0; i < 5; i++)
        ck_assert_uint_gt(seen[i], 50);
    sched_off();
    ck_assert(!sched_on());
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, a_seed_is_an_order);
    tcase_add_test(tc, a_seed_replays_a_race);
    tcase_add_test(tc, choices_cover_the_range);
}

int main(void)
{
    return run_tests("sched", add);
}
