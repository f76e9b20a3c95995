/*
 * The event loop: posted work, bottom halves, descriptors and the order in which they run.  How a
 * loop waits is in loop-main.c (GLib's main context) and loop-ring.c (io_uring, or ppoll).
 *
 * A turn waits until something is ready, then runs each thing that is ready once.  What becomes
 * ready meanwhile belongs to the next turn, so that no source starves another.  Callbacks may run a
 * nested turn: everything is taken off its list before it is called.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "src/base/error.h"
#include "src/base/loop-int.h"

static __thread Loop *current;

Loop *loop_current(void)
{
    if (G_UNLIKELY(!current) && gettid() == getpid())
        current = loop_main();
    return current;
}

bool loop_is_current(const Loop *loop)
{
    return loop_current() == loop;
}

Loop *loop_alloc(const char *name, bool is_main)
{
    Loop *loop = g_new0(Loop, 1);
    loop->name = g_strdup(name);
    loop->is_main = is_main;
    loop->posts_tail = &loop->posts;
    loop->timers = g_ptr_array_new();
    loop->polls = g_ptr_array_new();
    loop->stash = g_array_new(FALSE, FALSE, sizeof(Completion));
    loop->data = g_array_new(FALSE, FALSE, sizeof(LoopData));
    loop->wake_fd = -1;
    return loop;
}

Loop *loop_new(const char *name, GError **error)
{
    int fd = eventfd(0, EFD_CLOEXEC); /* blocking, so that io_uring waits instead of -EAGAIN */
    if (fd < 0) {
        fail_errno(error, errno, "cannot make an eventfd for loop '%s'", name);
        return NULL;
    }
    Loop *loop = loop_alloc(name, false);
    loop->wake_fd = fd;
    ring_create(loop);
    return loop;
}

static void free_posts(Loop *loop);

void loop_free(Loop *loop)
{
    if (!loop)
        return;
    g_assert(!loop->is_main);
    while (__atomic_load_n(&loop->pushing, __ATOMIC_ACQUIRE))
        g_thread_yield();
    ring_destroy(loop);
    free_posts(loop);
    while (loop->fds.head)
        g_free(g_queue_pop_head_link(&loop->fds)->data);
    while (loop->timers->len)
        loop_timer_cancel(loop->timers->pdata[0]);
    for (unsigned i = 0; i < loop->polls->len; i++)
        g_free(loop->polls->pdata[i]);
    g_ptr_array_free(loop->timers, TRUE);
    g_ptr_array_free(loop->polls, TRUE);
    g_array_free(loop->stash, TRUE);
    for (unsigned i = 0; i < loop->data->len; i++) {
        LoopData *entry = &g_array_index(loop->data, LoopData, i);
        if (entry->free)
            entry->free(entry->data);
    }
    g_array_free(loop->data, TRUE);
    close(loop->wake_fd);
    g_free(loop->name);
    g_free(loop);
}

void *loop_get_data(Loop *loop, const void *key)
{
    for (unsigned i = 0; i < loop->data->len; i++) {
        LoopData *entry = &g_array_index(loop->data, LoopData, i);
        if (entry->key == key)
            return entry->data;
    }
    return NULL;
}

void loop_set_data(Loop *loop, const void *key, void *data, void (*free)(void *data))
{
    LoopData entry = { key, data, free };
    for (unsigned i = 0; i < loop->data->len; i++) {
        if (g_array_index(loop->data, LoopData, i).key == key) {
            g_array_index(loop->data, LoopData, i) = entry;
            return;
        }
    }
    g_array_append_val(loop->data, entry);
}

void loop_set_patient(Loop *loop, bool patient)
{
    loop->patient = patient;
}

bool loop_is_patient(const Loop *loop)
{
    return loop->patient;
}

/* --- Waking: a sleeping loop has waiting set; who adds work and finds it set, wakes it. --- */

static void wake(Loop *loop)
{
    if (current == loop) /* it looks before it sleeps */
        return;
    if (!__atomic_load_n(&loop->waiting, __ATOMIC_SEQ_CST) ||
        !__atomic_exchange_n(&loop->waiting, 0, __ATOMIC_SEQ_CST))
        return;
    if (loop->is_main) {
        loop_main_wake(loop);
        return;
    }
    uint64_t one = 1;
    while (write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        continue;
}

void loop_kick(Loop *loop)
{
    __atomic_store_n(&loop->kicked, 1, __ATOMIC_SEQ_CST);
    wake(loop);
}

void loop_quit(Loop *loop)
{
    __atomic_store_n(&loop->quit, 1, __ATOMIC_SEQ_CST);
    loop_kick(loop);
}

/* --- Posted work and bottom halves share one list; a posted node has loop == NULL. --- */

/* Another thread's node may be run, and the loop be freed after it, before that thread has come to
 * its wake: it is counted until then.  From @newest to @oldest the nodes are linked. */
static void push(Loop *loop, LoopBh *newest, LoopBh *oldest)
{
    bool foreign = current != loop;
    if (foreign)
        __atomic_fetch_add(&loop->pushing, 1, __ATOMIC_RELAXED);
    LoopBh *head = __atomic_load_n(&loop->incoming, __ATOMIC_RELAXED);
    do {
        oldest->next = head;
    } while (!__atomic_compare_exchange_n(&loop->incoming, &head, newest, true, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
    if (foreign) {
        wake(loop);
        __atomic_fetch_sub(&loop->pushing, 1, __ATOMIC_RELEASE);
    }
}

/* Moves what other threads pushed to the owner's list, oldest first. */
static void collect(Loop *loop)
{
    if (!__atomic_load_n(&loop->incoming, __ATOMIC_RELAXED))
        return;
    LoopBh *node = __atomic_exchange_n(&loop->incoming, NULL, __ATOMIC_ACQUIRE);
    LoopBh *oldest = NULL, *newest = node;
    for (LoopBh *next; node; node = next) {
        next = node->next;
        node->next = oldest;
        oldest = node;
        loop->post_count++;
    }
    *loop->posts_tail = oldest;
    loop->posts_tail = &newest->next;
}

/* @link points to the node's place in the list. */
static LoopBh *unlink_post(Loop *loop, LoopBh **link)
{
    LoopBh *node = *link;
    *link = node->next;
    if (!*link)
        loop->posts_tail = link;
    loop->post_count--;
    return node;
}

void loop_post(Loop *loop, LoopFn *fn, void *opaque)
{
    LoopBh *node = g_new(LoopBh, 1);
    *node = (LoopBh){ .fn = fn, .opaque = opaque };
    push(loop, node, node);
}

void loop_bh_init(LoopBh *bh, Loop *loop, LoopFn *fn, void *opaque)
{
    *bh = (LoopBh){ .loop = loop, .fn = fn, .opaque = opaque };
}

void loop_bh_schedule(LoopBh *bh)
{
    if (!__atomic_exchange_n(&bh->scheduled, true, __ATOMIC_SEQ_CST))
        push(bh->loop, bh, bh);
}

void loop_bh_schedule_list(LoopBh *first)
{
    LoopBh *newest = NULL;
    for (LoopBh *bh = first, *next; bh; bh = next) {
        next = bh->next;
        bh->next = newest;
        newest = bh;
        __atomic_store_n(&bh->scheduled, true, __ATOMIC_RELAXED);
    }
    push(newest->loop, newest, first);
}

void loop_bh_cancel(LoopBh *bh)
{
    if (!bh->loop || !__atomic_load_n(&bh->scheduled, __ATOMIC_SEQ_CST))
        return;
    collect(bh->loop);
    for (LoopBh **link = &bh->loop->posts; *link; link = &(*link)->next) {
        if (*link != bh)
            continue;
        unlink_post(bh->loop, link);
        __atomic_store_n(&bh->scheduled, false, __ATOMIC_SEQ_CST);
        return;
    }
}

/* Posted work keeps its order among itself also when the order is drawn (loop.h promises it). */
static bool run_post(Loop *loop, unsigned index)
{
    LoopBh **link = &loop->posts, **first_posted = NULL;
    for (; *link && index; link = &(*link)->next, index--) {
        if (!(*link)->loop && !first_posted)
            first_posted = link;
    }
    if (!*link)
        return false;
    if (!(*link)->loop && first_posted)
        link = first_posted;
    LoopBh *node = unlink_post(loop, link);
    LoopFn *fn = node->fn;
    void *opaque = node->opaque;
    if (node->loop)
        __atomic_store_n(&node->scheduled, false, __ATOMIC_SEQ_CST);
    else
        g_free(node);
    fn(opaque);
    return true;
}

static void free_posts(Loop *loop)
{
    collect(loop);
    while (loop->posts) {
        LoopBh *node = unlink_post(loop, &loop->posts);
        if (node->loop)
            node->scheduled = false;
        else
            g_free(node);
    }
}

typedef struct Call {
    LoopFn *fn;
    void *opaque;
    GMutex mutex;
    GCond cond;
    bool done;
    LoopBh bh;
} Call;

static void run_call(void *opaque)
{
    Call *call = opaque;
    call->fn(call->opaque);
    g_mutex_lock(&call->mutex);
    __atomic_store_n(&call->done, true, __ATOMIC_RELEASE);   /* for ThreadSanitizer, blind to GLib */
    g_cond_signal(&call->cond);
    g_mutex_unlock(&call->mutex);
}

void loop_call(Loop *loop, LoopFn *fn, void *opaque)
{
    if (loop_is_current(loop)) {
        fn(opaque);
        return;
    }
    Call call = { .fn = fn, .opaque = opaque };
    g_mutex_init(&call.mutex);
    g_cond_init(&call.cond);
    loop_bh_init(&call.bh, loop, run_call, &call);
    loop_bh_schedule(&call.bh);
    g_mutex_lock(&call.mutex);
    while (!__atomic_load_n(&call.done, __ATOMIC_ACQUIRE))
        g_cond_wait(&call.cond, &call.mutex);
    g_mutex_unlock(&call.mutex);
    g_mutex_clear(&call.mutex);
    g_cond_clear(&call.cond);
}

/* --- Descriptors --- */

void loop_fd_queue(LoopFd *watch, GQueue *queue)
{
    if (watch->in == queue)
        return;
    if (watch->in)
        g_queue_unlink(watch->in, &watch->turn);
    watch->in = queue;
    if (queue)
        g_queue_push_tail_link(queue, &watch->turn);
}

static void watch_changed(LoopFd *watch)
{
    if (watch->loop->is_main) {
        loop_main_watch(watch);
        return;
    }
    ring_unwatch(watch);
    loop_fd_queue(watch, watch->events ? &watch->loop->unarmed : NULL);
}

LoopFd *loop_add_fd(Loop *loop, int fd, unsigned events, LoopFdFn *fn, void *opaque)
{
    LoopFd *watch = g_new0(LoopFd, 1);
    *watch = (LoopFd){ .loop = loop, .fd = fd, .events = events, .fn = fn, .opaque = opaque };
    watch->link.data = watch->turn.data = watch;
    g_queue_push_tail_link(&loop->fds, &watch->link);
    watch_changed(watch);
    return watch;
}

void loop_fd_set_events(LoopFd *watch, unsigned events)
{
    if (watch->events == events)
        return;
    watch->events = events;
    watch->ready &= events | G_IO_ERR | G_IO_HUP;
    watch_changed(watch);
}

void loop_fd_remove(LoopFd *watch)
{
    if (!watch)
        return;
    watch->events = 0;
    watch_changed(watch);
    loop_fd_queue(watch, NULL);
    g_queue_unlink(&watch->loop->fds, &watch->link);
    g_free(watch);
}

static bool run_fd(Loop *loop, unsigned index)
{
    LoopFd *watch = g_queue_peek_nth(&loop->ready_fds, index);
    if (!watch)
        return false;
    unsigned ready = watch->ready;
    watch->ready = 0;
    loop_fd_queue(watch, watch->events && !loop->is_main ? &loop->unarmed : NULL);
    if (ready)
        watch->fn(watch->opaque, ready);
    return true;
}

/* --- One turn --- */

bool loop_has_work(Loop *loop)
{
    return loop->posts || __atomic_load_n(&loop->incoming, __ATOMIC_SEQ_CST) ||
           __atomic_load_n(&loop->kicked, __ATOMIC_SEQ_CST) || loop->ready_fds.head ||
           ring_completions(loop) || loop_timeout_ns(loop) == 0;
}

/* What a turn may still run of each kind. */
typedef struct Budget {
    unsigned posts, fds, completions, timers;
    int64_t now;
} Budget;

/* The order is drawn: one thing after another, any of what is left. */
static bool dispatch_drawn(Loop *loop, Budget *b)
{
    bool any = false;
    for (;;) {
        unsigned posts = MIN(b->posts, loop->post_count);
        unsigned fds = MIN(b->fds, loop->ready_fds.length);
        unsigned completions = MIN(b->completions, ring_completions(loop));
        unsigned timers = MIN(b->timers, loop_timers_due(loop, b->now));
        unsigned total = posts + fds + completions + timers;
        if (!total)
            return any;
        any = true;
        unsigned n = sched_choose(total);
        if (n < posts) {
            b->posts--;
            run_post(loop, n);
        } else if ((n -= posts) < fds) {
            b->fds--;
            run_fd(loop, n);
        } else if ((n -= fds) < completions) {
            b->completions--;
            ring_complete_one(loop, n);
        } else {
            b->timers--;
            loop_timer_fire(loop, b->now, n - completions);
        }
    }
}

bool loop_dispatch(Loop *loop)
{
    bool any = __atomic_exchange_n(&loop->kicked, 0, __ATOMIC_SEQ_CST);
    collect(loop);
    Budget b = { loop->post_count, loop->ready_fds.length, ring_completions(loop),
                 loop->timers->len, 0 };
    if (b.timers)
        b.now = loop_clock_ns();
    if (sched_on())
        return dispatch_drawn(loop, &b) || any;
    while (b.completions-- && ring_complete_one(loop, 0))
        any = true;
    /* What completions put off to the end of the turn (a batch of interrupts) is this turn's. */
    collect(loop);
    b.posts = loop->post_count;
    while (b.posts-- && run_post(loop, 0))
        any = true;
    while (b.fds-- && run_fd(loop, 0))
        any = true;
    while (b.timers-- && loop_timer_fire(loop, b.now, 0))
        any = true;
    return any;
}

bool loop_iterate(Loop *loop, bool may_block)
{
    Loop *outer = current;
    current = loop;
    bool any;
    if (loop->is_main) {
        any = loop_main_iterate(loop, may_block);
    } else {
        any = ring_wait(loop, may_block);
        any |= loop_dispatch(loop);
    }
    current = outer;
    return any;
}

void loop_run(Loop *loop)
{
    Loop *outer = current;
    current = loop;
    while (!__atomic_exchange_n(&loop->quit, 0, __ATOMIC_SEQ_CST))
        loop_iterate(loop, true);
    current = outer;
}

void loop_wait(bool *done)
{
    Loop *loop = loop_current();
    g_assert(loop);
    while (!__atomic_load_n(done, __ATOMIC_ACQUIRE))
        loop_iterate(loop, true);
}
