/* Coroutines: switching, waking, mutexes, queues, workers; in one loop and between loops. */
#include <string.h>
#include <unistd.h>
#include "src/base/coroutine.h"
#include "tests/test.h"

typedef struct Log {
    GString *text;
    Coroutine *co;
    CoMutex mutex;
    CoQueue queue;
    int count;
    bool done, flag;
} Log;

static void log_init(Log *log)
{
    *log = (Log){ .text = g_string_new(NULL) };
    co_mutex_init(&log->mutex);
    co_queue_init(&log->queue);
}

static void expect(Log *log, const char *text)
{
    ck_assert_str_eq(log->text->str, text);
    g_string_free(log->text, TRUE);
}

static void co_fn two_steps(void *opaque)
{
    Log *log = opaque;
    log->co = co_self();
    g_string_append_c(log->text, '1');
    co_yield();
    g_string_append_c(log->text, '2');
}

START_TEST(yields_to_who_entered)
{
    Log log;
    log_init(&log);
    ck_assert_ptr_null(co_self());
    co_start(two_steps, &log);
    ck_assert_ptr_null(co_self());
    g_string_append_c(log.text, '-');
    co_enter(log.co);
    g_string_append_c(log.text, '-');
    expect(&log, "1-2-");
}
END_TEST

static void co_fn wake_myself(void *opaque)
{
    Log *log = opaque;
    co_wake(co_self());
    co_wake(co_self());
    g_string_append_c(log->text, 'a');
    co_yield();
    g_string_append_c(log->text, 'b');
    log->done = true;
}

START_TEST(wake_before_yield_is_kept)
{
    Log log;
    log_init(&log);
    co_start(wake_myself, &log);
    g_string_append_c(log.text, '-');
    loop_wait(&log.done);
    while (loop_iterate(loop_main(), false))
        continue;
    expect(&log, "a-b");
}
END_TEST

static void co_fn inner(void *opaque)
{
    Log *log = opaque;
    g_string_append_c(log->text, '(');
    co_wake(co_self());
    co_yield();
    g_string_append_c(log->text, ')');
    log->done = true;
}

static void co_fn outer(void *opaque)
{
    Log *log = opaque;
    g_string_append_c(log->text, '[');
    co_start(inner, log);
    g_string_append_c(log->text, ']');
}

START_TEST(coroutines_nest)
{
    Log log;
    log_init(&log);
    co_start(outer, &log);
    loop_wait(&log.done);
    expect(&log, "[(])");
}
END_TEST

/* Uses most of a stack, and checks that nobody else writes to it. */
static void co_fn use_stack(void *opaque)
{
    Log *log = opaque;
    volatile char space[128 << 10];
    char mine = (char)log->count++;
    memset((char *)space, mine, sizeof(space));
    co_wake(co_self());
    co_yield();
    for (size_t i = 0; i < sizeof(space); i += 512)
        ck_assert_int_eq(space[i], mine);
    log->count--;
}

START_TEST(many_at_once)
{
    Log log;
    log_init(&log);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 300; i++)
            co_start(use_stack, &log);
        while (log.count)
            loop_iterate(loop_main(), true);
    }
    expect(&log, "");
}
END_TEST

static void co_fn nested_loop(void *opaque)
{
    Log *log = opaque;
    co_wake(co_self());
    while (loop_iterate(loop_main(), false)) /* delivers the wake while we run */
        continue;
    g_string_append_c(log->text, 'x');
    co_yield();
    g_string_append_c(log->text, 'y');
    log->done = true;
}

START_TEST(wake_in_a_nested_turn_is_kept)
{
    Log log;
    log_init(&log);
    co_start(nested_loop, &log);
    loop_wait(&log.done);
    expect(&log, "xy");
}
END_TEST

static void co_fn sleeper(void *opaque)
{
    int64_t *slept = opaque;
    int64_t start = loop_clock_ns();
    co_wake(co_self()); /* must not shorten it */
    co_sleep_ns(2000000);
    *slept = loop_clock_ns() - start;
}

START_TEST(sleep_lasts)
{
    int64_t slept = 0;
    co_run_sync(sleeper, &slept);
    ck_assert_int_ge(slept, 2000000);
}
END_TEST

/* Others run in between, whatever they wake. */
static void co_fn pauser(void *opaque)
{
    Log *log = opaque;
    char name = (char)('a' + log->count++);
    for (int i = 0; i < 2; i++) {
        g_string_append_c(log->text, name);
        co_wake(co_self());
        co_pause();
    }
    log->done = !--log->count;
}

START_TEST(a_pause_lets_others_run)
{
    Log log;
    log_init(&log);
    for (int i = 0; i < 3; i++)
        co_start(pauser, &log);
    loop_wait(&log.done);
    expect(&log, "abcabc");
}
END_TEST

static void co_fn lock_and_log(void *opaque)
{
    Log *log = opaque;
    char name = (char)('a' + log->count++);
    co_mutex_lock(&log->mutex);
    g_string_append_c(log->text, name);
    co_wake(co_self());
    co_yield();
    g_string_append_c(log->text, g_ascii_toupper(name));
    co_mutex_unlock(&log->mutex);
    if (--log->count == 0)
        log->done = true;
}

START_TEST(mutex_is_fair)
{
    Log log;
    log_init(&log);
    for (int i = 0; i < 4; i++)
        co_start(lock_and_log, &log);
    loop_wait(&log.done);
    ck_assert(!log.mutex.locked);
    expect(&log, "aAbBcCdD");
}
END_TEST

static void co_fn wait_for_flag(void *opaque)
{
    Log *log = opaque;
    co_mutex_lock(&log->mutex);
    while (!log->flag)
        co_queue_wait(&log->queue, &log->mutex);
    g_string_append_c(log->text, 'w');
    co_mutex_unlock(&log->mutex);
    log->done = ++log->count == 3;
}

static void co_fn set_flag(void *opaque)
{
    Log *log = opaque;
    co_mutex_lock(&log->mutex);
    ck_assert(co_queue_wake_one(&log->queue)); /* one looks, and waits again */
    log->flag = true;
    g_string_append_c(log->text, 's');
    co_queue_wake_all(&log->queue);
    co_mutex_unlock(&log->mutex);
}

START_TEST(queue_wakes_all)
{
    Log log;
    log_init(&log);
    ck_assert(!co_queue_wake_one(&log.queue));
    for (int i = 0; i < 3; i++)
        co_start(wait_for_flag, &log);
    co_start(set_flag, &log);
    loop_wait(&log.done);
    expect(&log, "swww");
}
END_TEST

static int square(void *arg)
{
    ck_assert_ptr_null(loop_current());
    return *(int *)arg * *(int *)arg;
}

static void co_fn call_workers(void *opaque)
{
    Log *log = opaque;
    int n = log->count++;
    ck_assert_int_eq(co_worker_call(square, &n), n * n);
    if (--log->count == 0)
        log->done = true;
}

START_TEST(workers_return_values)
{
    Log log;
    log_init(&log);
    for (int i = 0; i < 200; i++)
        co_start(call_workers, &log);
    loop_wait(&log.done);
    expect(&log, "");
}
END_TEST

/* Two loops, one mutex: what it guards is never torn. */
typedef struct Shared {
    CoMutex mutex;
    long a, b;
    int running;   /* atomic */
    Loop *loops[2];
} Shared;

static void co_fn add_both(void *opaque)
{
    Shared *shared = opaque;
    Loop *mine = loop_current();
    for (int i = 0; i < 500; i++) {
        co_mutex_lock(&shared->mutex);
        ck_assert_ptr_eq(loop_current(), mine);
        ck_assert_ptr_eq(shared->mutex.holder, co_self());
        shared->a++;
        if (i % 7 == 0) {
            co_wake(co_self());
            co_yield();
        }
        shared->b++;
        ck_assert_int_eq(shared->a, shared->b);
        co_mutex_unlock(&shared->mutex);
    }
    if (__atomic_sub_fetch(&shared->running, 1, __ATOMIC_SEQ_CST) == 0) {
        loop_quit(shared->loops[0]);
        loop_quit(shared->loops[1]);
    }
}

static void start_adders(void *opaque)
{
    for (int i = 0; i < 4; i++)
        co_start(add_both, opaque);
}

static void *run_loop(void *opaque)
{
    loop_run(opaque);
    return NULL;
}

START_TEST(mutex_between_loops)
{
    Shared shared = { .running = 8 };
    GThread *threads[2];
    co_mutex_init(&shared.mutex);
    for (int i = 0; i < 2; i++)
        shared.loops[i] = loop_new("two", NULL);
    for (int i = 0; i < 2; i++) {
        loop_post(shared.loops[i], start_adders, &shared);
        threads[i] = g_thread_new("two", run_loop, shared.loops[i]);
    }
    for (int i = 0; i < 2; i++)
        g_thread_join(threads[i]);
    for (int i = 0; i < 2; i++)
        loop_free(shared.loops[i]);
    ck_assert_int_eq(shared.a, 4000);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, yields_to_who_entered);
    tcase_add_test(tc, wake_before_yield_is_kept);
    tcase_add_test(tc, coroutines_nest);
    tcase_add_test(tc, many_at_once);
    tcase_add_test(tc, wake_in_a_nested_turn_is_kept);
    tcase_add_test(tc, sleep_lasts);
    tcase_add_test(tc, a_pause_lets_others_run);
    tcase_add_test(tc, mutex_is_fair);
    tcase_add_test(tc, queue_wakes_all);
    tcase_add_test(tc, workers_return_values);
    tcase_add_test(tc, mutex_between_loops);
}

int main(void)
{
    return run_tests("coroutine", add);
}
