/* iothread objects: -object iothread,id=io1; devices name theirs with iothread=io1. */
#include "src/object/iothread.h"
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

typedef struct Iothread {
    Object obj;
    Loop *loop;
    GThread *thread;
    pid_t thread_id;               /* set before realize returns */
    int64_t poll_max_ns, poll_io_max_ns, poll_grow, poll_shrink, aio_max_batch;   /* properties */
} Iothread;

Loop *iothread_loop(Object *iothread)
{
    return ((Iothread *)iothread)->loop;
}

pid_t iothread_thread_id(Object *iothread)
{
    return ((Iothread *)iothread)->thread_id;
}

LoopPollParams iothread_poll_params(Object *iothread)
{
    Iothread *t = (Iothread *)iothread;
    return (LoopPollParams){ .max_ns = t->poll_max_ns, .io_max_ns = t->poll_io_max_ns,
                             .grow = t->poll_grow, .shrink = t->poll_shrink };
}

int64_t iothread_aio_max_batch(Object *iothread)
{
    return ((Iothread *)iothread)->aio_max_batch;
}

static void *iothread_run(void *opaque)
{
    Iothread *t = opaque;
    sigset_t all;
    char name[16];                 /* what the kernel keeps of a thread's name */
    sigfillset(&all);              /* signals are the main thread's business */
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    g_snprintf(name, sizeof(name), "IO %s", t->obj.name ? t->obj.name : "iothread");
    prctl(PR_SET_NAME, name);
    loop_run(t->loop);
    return NULL;
}

/* In the iothread. */
static void apply_params(void *opaque)
{
    Iothread *t = opaque;
    t->thread_id = gettid();
    loop_set_poll_params(t->loop, iothread_poll_params(&t->obj));
    loop_set_batch(t->loop, (unsigned)t->aio_max_batch);
}

static bool iothread_realize(Object *obj, GError **error)
{
    Iothread *t = (Iothread *)obj;
    g_autoptr(GError) cause = NULL;
    t->loop = loop_new(obj->name ? obj->name : "iothread", error);
    if (!t->loop)
        return false;
    t->thread = g_thread_try_new("IO iothread", iothread_run, t, &cause);
    if (!t->thread) {
        loop_free(g_steal_pointer(&t->loop));
        return fail(error, ERR_HOST, "cannot start the thread: %s", cause->message);
    }
    loop_call(t->loop, apply_params, t);
    return true;
}

static void iothread_unrealize(Object *obj)
{
    Iothread *t = (Iothread *)obj;
    if (t->thread) {
        loop_quit(t->loop);
        g_thread_join(g_steal_pointer(&t->thread));
    }
    g_clear_pointer(&t->loop, loop_free);
}

static void params_changed(Object *obj)
{
    Iothread *t = (Iothread *)obj;
    if (t->loop)
        loop_call(t->loop, apply_params, t);
}

static json_object *get_thread_id(Object *obj, const Property *prop)
{
    return json_object_new_int64(iothread_thread_id(obj));
}

static const Property iothread_props[] = {
    PROP_FN("thread-id", get_thread_id, NULL, .read_only = true, .help = "the thread's number"),
    PROP("poll-max-ns", Iothread, poll_max_ns, .def.i = 32768, .max = INT64_MAX, .runtime = true,
         .changed = params_changed, .help = "longest busy polling before a sleep; 0: none"),
    PROP("poll-io-max-ns", Iothread, poll_io_max_ns, .def.i = 200000, .max = INT64_MAX,
         .runtime = true, .changed = params_changed,
         .help = "the same while requests are in flight, if longer; poll-max-ns=0: none either"),
    PROP("poll-grow", Iothread, poll_grow, .max = INT64_MAX, .runtime = true,
         .changed = params_changed, .help = "factor by which polling grows; 0: the default"),
    PROP("poll-shrink", Iothread, poll_shrink, .max = INT64_MAX, .runtime = true,
         .changed = params_changed, .help = "divisor by which polling shrinks; 0: stop polling"),
    PROP("aio-max-batch", Iothread, aio_max_batch, .max = UINT32_MAX, .runtime = true,
         .changed = params_changed, .help = "requests submitted in one batch; 0: no limit"),
    {}
};

static const Type iothread_type = {
    .name = "iothread",
    .parent = "user-object",
    .help = "thread with an event loop for devices",
    .size = sizeof(Iothread),
    .user_creatable = true,
    .props = iothread_props,
    .realize = iothread_realize,
    .unrealize = iothread_unrealize,
};
TYPE_REGISTER(iothread_type)
