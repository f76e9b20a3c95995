/* Event loops: posted work, bottom halves, descriptors, timers, io_uring, with and without a ring. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include "src/base/error.h"
#include "src/base/loop-int.h"
#include "src/base/util.h"
#include "tests/test.h"

/* Each test runs on the main loop, on a ring, and on the fall-back without io_uring. */
enum { ON_MAIN, ON_RING, ON_POLL, KINDS };

/* From now on this process gets EPERM from io_uring_setup, as under a container's filter. */
static void forbid_io_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { G_N_ELEMENTS(code), code };
    ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static Loop *make(int kind)
{
    GError *error = NULL;
    if (kind == ON_MAIN)
        return loop_main();
    if (kind == ON_POLL)
        forbid_io_uring();
    Loop *loop = loop_new("test", &error);
    ck_assert_ptr_nonnull(loop);
    return loop;
}

static void drop(Loop *loop)
{
    if (loop != loop_main())
        loop_free(loop);
}

typedef struct Log {
    Loop *loop;
    GString *text;
    unsigned count;
    LoopBh *again;
    LoopFd *watch, *other;
    int fd;
    bool quit;
} Log;

static void log_free(Log *log)
{
    g_string_free(log->text, TRUE);
}

static void say_a(void *opaque)
{
    g_string_append_c(((Log *)opaque)->text, 'a');
}

static void say_b(void *opaque)
{
    g_string_append_c(((Log *)opaque)->text, 'b');
}

static void say_and_quit(void *opaque)
{
    Log *log = opaque;
    g_string_append_c(log->text, 'q');
    loop_quit(log->loop);
}

START_TEST(post_keeps_order)
{
    Log log = { make(_i), g_string_new(NULL) };
    loop_post(log.loop, say_a, &log);
    loop_post(log.loop, say_b, &log);
    loop_post(log.loop, say_a, &log);
    loop_post(log.loop, say_and_quit, &log);
    loop_run(log.loop);
    ck_assert_str_eq(log.text->str, "abaq");
    drop(log.loop);
    log_free(&log);
}
END_TEST

static void *post_from_thread(void *opaque)
{
    Log *log = opaque;
    for (int i = 0; i < 1000; i++)
        loop_post(log->loop, say_a, log);
    return NULL;
}

START_TEST(post_from_threads_wakes)
{
    Log log = { make(_i), g_string_new(NULL) };
    GThread *threads[4];
    for (int i = 0; i < 4; i++)
        threads[i] = g_thread_new("poster", post_from_thread, &log);
    while (log.text->len < 4000)
        loop_iterate(log.loop, true);
    for (int i = 0; i < 4; i++)
        g_thread_join(threads[i]);
    ck_assert_uint_eq(log.text->len, 4000);
    drop(log.loop);
    log_free(&log);
}
END_TEST

START_TEST(bh_runs_once_and_cancels)
{
    Log log = { make(_i), g_string_new(NULL) };
    LoopBh a, b;
    loop_bh_init(&a, log.loop, say_a, &log);
    loop_bh_init(&b, log.loop, say_b, &log);
    loop_bh_schedule(&a);
    loop_bh_schedule(&b);
    loop_bh_schedule(&a);
    loop_bh_cancel(&b);
    while (loop_iterate(log.loop, false))
        continue;
    ck_assert_str_eq(log.text->str, "a");
    loop_bh_schedule(&b);
    loop_bh_schedule(&a);
    while (loop_iterate(log.loop, false))
        continue;
    ck_assert_str_eq(log.text->str, "aba");
    drop(log.loop);
    log_free(&log);
}
END_TEST

static void schedule_again(void *opaque)
{
    Log *log = opaque;
    if (++log->count < 5)
        loop_bh_schedule(log->again);
    else
        loop_quit(log->loop);
}

START_TEST(bh_may_schedule_itself)
{
    LoopBh bh;
    Log log = { make(_i), g_string_new(NULL), .again = &bh };
    loop_bh_init(&bh, log.loop, schedule_again, &log);
    loop_bh_schedule(&bh);
    loop_run(log.loop);
    ck_assert_uint_eq(log.count, 5);
    drop(log.loop);
    log_free(&log);
}
END_TEST

static void on_readable(void *opaque, unsigned events)
{
    Log *log = opaque;
    char c;
    if (events & G_IO_IN && read(log->fd, &c, 1) == 1)
        g_string_append_c(log->text, c);
    else if (events & G_IO_HUP)
        loop_quit(log->loop);
}

START_TEST(fd_is_level_triggered)
{
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    Log log = { make(_i), g_string_new(NULL), .fd = fds[0] };
    LoopFd *watch = loop_add_fd(log.loop, fds[0], G_IO_IN, on_readable, &log);
    ck_assert_int_eq(write(fds[1], "hello", 5), 5);
    close(fds[1]);
    loop_run(log.loop);
    ck_assert_str_eq(log.text->str, "hello");
    loop_fd_remove(watch);
    close(fds[0]);
    drop(log.loop);
    log_free(&log);
}
END_TEST

/* Work that never ends, a piece in each turn. */
static void for_ever(void *opaque)
{
    Log *log = opaque;
    loop_bh_schedule(log->again);
}

START_TEST(work_in_each_turn_leaves_descriptors_theirs)
{
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    LoopBh bh;
    Log log = { make(_i), g_string_new(NULL), .again = &bh, .fd = fds[0] };
    loop_bh_init(&bh, log.loop, for_ever, &log);
    loop_bh_schedule(&bh);
    LoopFd *watch = loop_add_fd(log.loop, fds[0], G_IO_IN, on_readable, &log);
    ck_assert_int_eq(write(fds[1], "hello", 5), 5);
    for (int turns = 0; turns < 20; turns++)
        loop_iterate(log.loop, true);
    ck_assert_str_eq(log.text->str, "hello");
    loop_bh_cancel(&bh);
    loop_fd_remove(watch);
    close(fds[0]);
    close(fds[1]);
    drop(log.loop);
    log_free(&log);
}
END_TEST

static void remove_both(void *opaque, unsigned events)
{
    Log *log = opaque;
    log->count++;
    loop_fd_remove(log->watch);
    loop_fd_remove(log->other);
}

START_TEST(fd_removed_in_callback)
{
    int a = eventfd(1, EFD_NONBLOCK), b = eventfd(1, EFD_NONBLOCK);
    Log log = { make(_i), g_string_new(NULL) };
    log.watch = loop_add_fd(log.loop, a, G_IO_IN, remove_both, &log);
    log.other = loop_add_fd(log.loop, b, G_IO_IN, remove_both, &log);
    while (!log.count)
        loop_iterate(log.loop, true);
    for (int i = 0; i < 3; i++)
        loop_iterate(log.loop, false);
    ck_assert_uint_eq(log.count, 1);
    close(a);
    close(b);
    drop(log.loop);
    log_free(&log);
}
END_TEST

static void count_event(void *opaque, unsigned events)
{
    Log *log = opaque;
    log->count++;
    g_string_append_c(log->text, events & G_IO_OUT ? 'o' : 'i');
}

START_TEST(fd_events_change)
{
    int sv[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    Log log = { make(_i), g_string_new(NULL) };
    LoopFd *watch = loop_add_fd(log.loop, sv[0], G_IO_IN, count_event, &log);
    loop_iterate(log.loop, false);
    loop_iterate(log.loop, false);
    ck_assert_uint_eq(log.count, 0);
    loop_fd_set_events(watch, G_IO_OUT);
    while (!log.count)
        loop_iterate(log.loop, true);
    ck_assert_int_eq(log.text->str[0], 'o');
    loop_fd_set_events(watch, 0);
    log.count = 0;
    for (int i = 0; i < 3; i++)
        loop_iterate(log.loop, false);
    ck_assert_uint_eq(log.count, 0);
    loop_fd_remove(watch);
    close(sv[0]);
    close(sv[1]);
    drop(log.loop);
    log_free(&log);
}
END_TEST

/* A poll in flight must not keep a closed socket open: the peer would never see its end. */
START_TEST(fd_closes_after_removal)
{
    int sv[2];
    char c;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv), 0);
    Log log = { make(_i), g_string_new(NULL) };
    LoopFd *watch = loop_add_fd(log.loop, sv[0], G_IO_IN, count_event, &log);
    loop_post(log.loop, say_and_quit, &log);
    loop_run(log.loop);
    loop_iterate(log.loop, false);
    loop_fd_remove(watch);
    close(sv[0]);
    ck_assert_int_eq(read(sv[1], &c, 1), 0);
    close(sv[1]);
    drop(log.loop);
    log_free(&log);
}
END_TEST

START_TEST(timers_fire_in_order)
{
    Log log = { make(_i), g_string_new(NULL) };
    LoopTimer a, b, q, never;
    int64_t now = loop_clock_ns();
    loop_timer_init(&a, log.loop, say_a, &log);
    loop_timer_init(&b, log.loop, say_b, &log);
    loop_timer_init(&q, log.loop, say_and_quit, &log);
    loop_timer_init(&never, log.loop, say_a, &log);
    loop_timer_set(&q, now + 3000000);
    loop_timer_set(&never, now + 1000);
    loop_timer_set(&b, now + 2000000);
    loop_timer_set(&a, now + 9000000);
    loop_timer_set(&a, now + 1000000);
    loop_timer_cancel(&never);
    loop_run(log.loop);
    ck_assert_str_eq(log.text->str, "abq");
    ck_assert_int_ge(loop_clock_ns(), now + 3000000);
    ck_assert_int_eq(a.expire_ns, -1);
    drop(log.loop);
    log_free(&log);
}
END_TEST

START_TEST(timer_heap_keeps_order)
{
    enum { COUNT = 500 };
    Log log = { make(_i), g_string_new(NULL) };
    LoopTimer timers[COUNT];
    unsigned random = 1;
    for (int i = 0; i < COUNT; i++) {
        random = random * 1103515245 + 12345;
        loop_timer_init(&timers[i], log.loop, say_a, &log);
        loop_timer_set(&timers[i], 1 + (random >> 8) % 1000);
    }
    for (int i = 0; i < COUNT; i += 3)
        loop_timer_cancel(&timers[i]);
    while (loop_iterate(log.loop, false))
        continue;
    ck_assert_uint_eq(log.text->len, COUNT - (COUNT + 2) / 3);
    drop(log.loop);
    log_free(&log);
}
END_TEST

static void *kick_later(void *opaque)
{
    Log *log = opaque;
    __atomic_store_n(&log->quit, true, __ATOMIC_RELEASE);
    loop_kick(log->loop);
    return NULL;
}

START_TEST(kick_ends_a_wait)
{
    Log log = { make(_i), g_string_new(NULL) };
    GThread *thread = g_thread_new("kicker", kick_later, &log);
    while (!__atomic_load_n(&log.quit, __ATOMIC_ACQUIRE))
        loop_iterate(log.loop, true);
    g_thread_join(thread);
    drop(log.loop);
    log_free(&log);
}
END_TEST

static void *run_loop(void *opaque)
{
    loop_run(opaque);
    return NULL;
}

static void where_am_i(void *opaque)
{
    *(Loop **)opaque = loop_current();
}

START_TEST(call_runs_in_the_loop)
{
    Loop *loop = make(_i), *seen = NULL;
    GThread *thread = g_thread_new("loop", run_loop, loop);
    for (int i = 0; i < 100; i++) {
        seen = NULL;
        loop_call(loop, where_am_i, &seen);
        ck_assert_ptr_eq(seen, loop);
    }
    loop_call(loop_main(), where_am_i, &seen);
    ck_assert_ptr_eq(seen, loop_main());
    loop_quit(loop);
    g_thread_join(thread);
    loop_free(loop);
}
END_TEST

START_TEST(quit_before_run_is_kept)
{
    Loop *loop = make(_i);
    loop_quit(loop);
    loop_run(loop);
    drop(loop);
}
END_TEST

static void set_quit(void *opaque)
{
    ((Log *)opaque)->quit = true;
}

static void nested(void *opaque)
{
    Log *log = opaque;
    LoopBh bh;
    loop_post(log->loop, say_b, log);
    loop_bh_init(&bh, log->loop, set_quit, log);
    loop_bh_schedule(&bh);
    while (!log->quit)
        loop_iterate(log->loop, true);
    say_and_quit(log);
}

START_TEST(turns_nest)
{
    Log log = { make(_i), g_string_new(NULL) };
    loop_post(log.loop, nested, &log);
    loop_post(log.loop, say_a, &log);
    loop_run(log.loop);
    ck_assert_str_eq(log.text->str, "abq");
    drop(log.loop);
    log_free(&log);
}
END_TEST

typedef struct Io {
    LoopCqe cqe;
    int res;
    unsigned *left;
} Io;

static void io_done(LoopCqe *cqe, int res)
{
    Io *io = (Io *)cqe;
    io->res = res;
    --*io->left;
}

/* More entries than the queue holds: what is full goes out, nothing is lost. */
START_TEST(uring_takes_any_number)
{
    enum { COUNT = 3000 };
    Loop *loop = make(_i);
    GError *error = NULL;
    unsigned left = COUNT;
    char from[COUNT], to[COUNT] = { 0 };
    g_autofree Io *ios = g_new0(Io, COUNT);
    for (int i = 0; i < COUNT; i++)
        from[i] = (char)(i * 7);
    if (!loop_uring_ok(loop, &error)) {
        ck_assert_int_eq(_i, ON_POLL);
        ck_assert_int_eq(error_get_code(error), ERR_PERMISSION);
        ck_assert_ptr_nonnull(error_get_hint(error));
        g_error_free(error);
        drop(loop);
        return;
    }
    FILE *file = tmpfile();
    ck_assert_uint_eq(fwrite(from, 1, COUNT, file), COUNT);
    fflush(file);
    for (int i = 0; i < COUNT; i++) {
        ios[i] = (Io){ .cqe.fn = io_done, .left = &left };
        struct io_uring_sqe *sqe = loop_uring_sqe(loop, &ios[i].cqe);
        io_uring_prep_read(sqe, fileno(file), to + i, 1, i);
    }
    while (left)
        loop_iterate(loop, true);
    ck_assert_mem_eq(from, to, COUNT);
    fclose(file);
    drop(loop);
}
END_TEST

static void nothing(void *opaque)
{
}

/* A receive that waits for a client is no disk's request, and needs no hook to be polled for. */
START_TEST(waits_for_a_client_poll)
{
    Loop *loop = make(_i);
    unsigned left = 1;
    Io io = { .cqe.fn = io_done, .left = &left };
    LoopTimer timer;
    int pair[2];
    char byte = 0;

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    loop_set_poll_params(loop, (LoopPollParams){ .max_ns = 1000000000 });
    io_uring_prep_recv(loop_uring_sqe(loop, &io.cqe), pair[0], &byte, 1, 0);
    loop_count_io(loop, -1);
    loop_timer_init(&timer, loop, nothing, NULL);
    while (!loop->polling[WAIT_USER].ns) {
        loop_timer_set(&timer, loop_clock_ns() + 100000);
        loop_iterate(loop, true);
    }
    ck_assert_int_eq(loop->polling[WAIT_IO].ns, 0);
    ck_assert_int_eq(write(pair[1], "x", 1), 1);
    while (left)
        loop_iterate(loop, true);
    loop_count_io(loop, 1);
    ck_assert_int_eq(byte, 'x');
    loop_timer_cancel(&timer);
    close(pair[0]);
    close(pair[1]);
    drop(loop);
}
END_TEST

static bool find_work(void *opaque)
{
    Log *log = opaque;
    if (++log->count < 3)
        return false;
    loop_quit(log->loop);
    return true;
}

/* The hook is called once sleeps have been short enough for polling to pay. */
START_TEST(poll_hook_is_called)
{
    Log log = { make(_i), g_string_new(NULL) };
    LoopPoll *poll = loop_add_poll(log.loop, find_work, &log);
    LoopTimer timer;
    loop_set_poll_params(log.loop, (LoopPollParams){ .max_ns = 1000000000 });
    loop_timer_init(&timer, log.loop, say_a, &log);
    while (log.count < 3) {
        loop_timer_set(&timer, loop_clock_ns() + 100000);
        loop_iterate(log.loop, true);
    }
    loop_poll_remove(poll);
    loop_timer_cancel(&timer);
    drop(log.loop);
    log_free(&log);
}
END_TEST

/* Waits that are beyond max_ns are polled all the same while requests are in flight. */
START_TEST(waits_for_io_poll_for_longer)
{
    Log log = { make(_i), g_string_new(NULL) };
    LoopPoll *poll = loop_add_poll(log.loop, find_work, &log);
    LoopTimer timer;
    loop_set_poll_params(log.loop, (LoopPollParams){ .max_ns = 1, .io_max_ns = 1000000000 });
    loop_count_io(log.loop, 1);
    loop_timer_init(&timer, log.loop, say_a, &log);
    while (log.count < 3) {
        loop_timer_set(&timer, loop_clock_ns() + 100000);
        loop_iterate(log.loop, true);
    }
    loop_count_io(log.loop, -1);
    loop_poll_remove(poll);
    loop_timer_cancel(&timer);
    drop(log.loop);
    log_free(&log);
}
END_TEST

static void *take_vm_lock(void *opaque)
{
    VmLock *lock = ((void **)opaque)[0];
    Log *log = ((void **)opaque)[1];
    vm_lock(lock);
    ck_assert(vm_locked(lock));
    vm_unlock(lock);
    kick_later(log);
    return NULL;
}

static void check_locked(void *opaque)
{
    Log *log = opaque;
    log->count += vm_locked((VmLock *)log->again);
}

START_TEST(main_loop_drops_the_vm_lock)
{
    VmLock lock;
    Log log = { loop_main(), g_string_new(NULL), .again = (LoopBh *)&lock };
    vm_lock_init(&lock);
    loop_set_vm_lock(log.loop, &lock);
    vm_lock(&lock);
    GThread *thread = g_thread_new("vcpu", take_vm_lock, (void *[]){ &lock, &log });
    loop_post(log.loop, check_locked, &log);
    loop_wait(&log.quit);
    g_thread_join(thread);
    ck_assert_uint_eq(log.count, 1);
    ck_assert(vm_locked(&lock));
    vm_unlock(&lock);
    loop_post(log.loop, check_locked, &log);
    loop_iterate(log.loop, false);
    ck_assert_uint_eq(log.count, 2);
    ck_assert(!vm_locked(&lock));
    loop_set_vm_lock(log.loop, NULL);
    vm_lock_clear(&lock);
    log_free(&log);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_loop_test(tc, post_keeps_order, 0, KINDS);
    tcase_add_loop_test(tc, post_from_threads_wakes, 0, KINDS);
    tcase_add_loop_test(tc, bh_runs_once_and_cancels, 0, KINDS);
    tcase_add_loop_test(tc, bh_may_schedule_itself, 0, KINDS);
    tcase_add_loop_test(tc, fd_is_level_triggered, 0, KINDS);
    tcase_add_loop_test(tc, work_in_each_turn_leaves_descriptors_theirs, 0, KINDS);
    tcase_add_loop_test(tc, fd_removed_in_callback, 0, KINDS);
    tcase_add_loop_test(tc, fd_events_change, 0, KINDS);
    tcase_add_loop_test(tc, fd_closes_after_removal, 0, KINDS);
    tcase_add_loop_test(tc, timers_fire_in_order, 0, KINDS);
    tcase_add_loop_test(tc, timer_heap_keeps_order, 0, KINDS);
    tcase_add_loop_test(tc, kick_ends_a_wait, 0, KINDS);
    tcase_add_loop_test(tc, call_runs_in_the_loop, ON_RING, KINDS);
    tcase_add_loop_test(tc, quit_before_run_is_kept, 0, KINDS);
    tcase_add_loop_test(tc, turns_nest, 0, KINDS);
    tcase_add_loop_test(tc, uring_takes_any_number, 0, KINDS);
    tcase_add_loop_test(tc, waits_for_a_client_poll, ON_RING, ON_POLL);
    tcase_add_loop_test(tc, poll_hook_is_called, ON_RING, KINDS);
    tcase_add_loop_test(tc, waits_for_io_poll_for_longer, ON_RING, KINDS);
    tcase_add_test(tc, main_loop_drops_the_vm_lock);
}

int main(void)
{
    return run_tests("loop", add);
}
