/*
 * The main thread's loop: one GSource of GLib's default main context, so that GLib's sources and
 * ours run in the same turns.  The context's poll function is ours: there the VM lock is let go,
 * entries are submitted, and timers get their nanoseconds.
 */
#include <poll.h>
#include "src/base/loop-int.h"

typedef struct MainSource {
    GSource source;
    Loop *loop;
} MainSource;

static Loop *main_loop;    /* made once; as GLib's default context, there is one in a process */

/* Work that is there already only takes the wait away: a source that said that it is ready would not be asked
 * for its descriptors, and work in each turn would keep them waiting for ever. */
static gboolean main_prepare(GSource *source, gint *timeout_ms)
{
    Loop *loop = ((MainSource *)source)->loop;
    int64_t ns = loop_has_work(loop) ? 0 : loop_timeout_ns(loop);
    *timeout_ms = ns < 0 ? -1 : (gint)MIN((ns + 999999) / 1000000, G_MAXINT);
    return FALSE;
}

static gboolean main_check(GSource *source)
{
    Loop *loop = ((MainSource *)source)->loop;
    for (GList *l = loop->fds.head; l; l = l->next) {
        LoopFd *watch = l->data;
        unsigned ready = watch->tag ? g_source_query_unix_fd(source, watch->tag) : 0;
        watch->ready = ready;
        loop_fd_queue(watch, ready ? &loop->ready_fds : NULL);
    }
    return loop_has_work(loop);
}

static gboolean main_dispatch(GSource *source, GSourceFunc fn, gpointer opaque)
{
    loop_dispatch(((MainSource *)source)->loop);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs main_funcs = { .prepare = main_prepare, .check = main_check,
                                   .dispatch = main_dispatch };

/* The shorter of GLib's timeout and the next timer's; NULL: for ever. */
static struct timespec *wait_time(Loop *loop, int timeout_ms, struct timespec *ts)
{
    int64_t ns = timeout_ms < 0 ? -1 : timeout_ms * INT64_C(1000000);
    int64_t timer_ns = loop_timeout_ns(loop);
    if (timer_ns >= 0 && (ns < 0 || timer_ns < ns))
        ns = timer_ns;
    if (ns < 0)
        return NULL;
    *ts = (struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
    return ts;
}

static gint main_poll(GPollFD *fds, guint count, gint timeout_ms)
{
    Loop *loop = main_loop;
    struct timespec ts;
    ring_submit(loop);
    if (sched_on())
        ring_settle(loop);
    __atomic_store_n(&loop->waiting, 1, __ATOMIC_SEQ_CST);
    if (loop_has_work(loop))
        timeout_ms = 0;
    bool locked = loop->vm_lock && vm_locked(loop->vm_lock);
    if (locked)
        vm_unlock(loop->vm_lock);
    G_STATIC_ASSERT(sizeof(GPollFD) == sizeof(struct pollfd));
    int r = ppoll((struct pollfd *)fds, count, wait_time(loop, timeout_ms, &ts), NULL);
    if (locked)
        vm_lock(loop->vm_lock);
    __atomic_store_n(&loop->waiting, 0, __ATOMIC_SEQ_CST);
    return r;
}

Loop *loop_main(void)
{
    static gsize once;
    if (g_once_init_enter(&once)) {
        Loop *loop = loop_alloc("main", true);
        GSource *source = g_source_new(&main_funcs, sizeof(MainSource));
        ((MainSource *)source)->loop = loop;
        g_source_set_can_recurse(source, TRUE);
        g_source_set_name(source, "vireo loop");
        loop->source = source;
        main_loop = loop;
        g_main_context_set_poll_func(NULL, main_poll);
        g_source_attach(source, NULL);
        g_once_init_leave(&once, 1);
    }
    return main_loop;
}

void loop_set_vm_lock(Loop *loop, VmLock *lock)
{
    g_assert(loop->is_main);
    loop->vm_lock = lock;
}

/* While an order is drawn and nothing but the loop's own lists can hold work, a turn needs no system call. */
static bool runs_by_itself(Loop *loop)
{
    return sched_on() && !loop->vm_lock && !loop->fds.head && loop->ring_state != RING_ON &&
           loop_has_work(loop);
}

/* Callbacks hold the VM lock, whether or not the caller of the turn did. */
bool loop_main_iterate(Loop *loop, bool may_block)
{
    VmLock *lock = loop->vm_lock;
    bool take = lock && !vm_locked(lock);
    if (take)
        vm_lock(lock);
    bool any = runs_by_itself(loop) ? loop_dispatch(loop)
                                    : g_main_context_iteration(NULL, may_block);
    if (take && loop->vm_lock == lock)
        vm_unlock(lock);
    return any;
}

void loop_main_wake(Loop *loop)
{
    g_main_context_wakeup(NULL);
}

void loop_main_watch(LoopFd *watch)
{
    GSource *source = watch->loop->source;
    if (!watch->events) {
        if (watch->tag)
            g_source_remove_unix_fd(source, watch->tag);
        watch->tag = NULL;
    } else if (watch->tag) {
        g_source_modify_unix_fd(source, watch->tag, watch->events);
    } else {
        watch->tag = g_source_add_unix_fd(source, watch->fd, watch->events);
    }
    if (!watch->ready)
        loop_fd_queue(watch, NULL);
}

void loop_main_watch_ring(Loop *loop)
{
    loop->ring_tag = g_source_add_unix_fd(loop->source, loop->ring.ring_fd, G_IO_IN);
}
