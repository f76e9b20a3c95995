/*
 * Linux AIO: one context for each loop, made at its first request.  Requests of a turn of the loop
 * are submitted together at its end; completions arrive on an eventfd.
 */
#include "block/aio.h"
#include <errno.h>
#include <libaio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DEPTH 256                          /* in flight in a loop; more wait in the queue */
#define BATCH 32                           /* aio-max-batch=0 */

typedef struct NativeRequest {
    struct iocb iocb;                      /* first: the kernel gives its address back */
    Coroutine *co;
    int64_t result;
    bool done;
    struct NativeRequest *next;
} NativeRequest;

typedef struct Native {
    io_context_t context;
    int event_fd;
    unsigned in_flight, queued;
    NativeRequest *first, **last;          /* queued */
    LoopBh submit;
} Native;

static const char native_key;

static void finish(NativeRequest *request, int64_t result)
{
    request->result = result;
    request->done = true;
    co_enter(request->co);
}

static NativeRequest *pop(Native *native)
{
    NativeRequest *request = native->first;

    native->first = request->next;
    if (!native->first)
        native->last = &native->first;
    native->queued--;
    return request;
}

static long submit_some(Native *native)
{
    struct iocb *iocbs[DEPTH];
    long count = 0, accepted;

    for (NativeRequest *r = native->first; r && count + native->in_flight < DEPTH; r = r->next)
        iocbs[count++] = &r->iocb;
    if (!count)
        return 0;
    accepted = io_submit(native->context, count, iocbs);
    for (long i = 0; i < accepted; i++) {
        pop(native);
        native->in_flight++;
    }
    if (accepted > 0)
        loop_count_io(native->submit.loop, (int)accepted);
    return accepted;
}

/* What the kernel refuses fails alone; what it cannot take now waits for completions. */
static void submit(void *opaque)
{
    Native *native = opaque;
    long accepted;

    while ((accepted = submit_some(native)) != 0)
        if (accepted < 0 && (accepted != -EAGAIN || !native->in_flight))
            finish(pop(native), accepted);
        else if (accepted == -EAGAIN)
            return;
}

static void completed(void *opaque, unsigned events)
{
    Native *native = opaque;
    struct io_event done[64];
    uint64_t count;
    int n;

    if (read(native->event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        return;
    do {
        n = io_getevents(native->context, 0, G_N_ELEMENTS(done), done, NULL);
        for (int i = 0; i < n; i++) {
            native->in_flight--;
            loop_count_io(native->submit.loop, -1);
            finish((NativeRequest *)done[i].obj, (int64_t)done[i].res);
        }
    } while (n == G_N_ELEMENTS(done));
    submit(native);
}

static void native_free(void *opaque)
{
    Native *native = opaque;

    io_destroy(native->context);
    close(native->event_fd);
    g_free(native);
}

/* NULL: this loop cannot have a context (fs.aio-max-nr). */
static Native *native_of_loop(Loop *loop)
{
    Native *native = loop_get_data(loop, &native_key);

    if (G_LIKELY(native))
        return native;
    native = g_new0(Native, 1);
    native->last = &native->first;
    native->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (native->event_fd < 0 || io_setup(DEPTH, &native->context) < 0) {
        if (native->event_fd >= 0)
            close(native->event_fd);
        g_free(native);
        return NULL;
    }
    loop_bh_init(&native->submit, loop, submit, native);
    loop_add_fd(loop, native->event_fd, G_IO_IN, completed, native);
    loop_set_data(loop, &native_key, native, native_free);
    return native;
}

static void enqueue(Native *native, NativeRequest *request, unsigned max_batch)
{
    request->next = NULL;
    *native->last = request;
    native->last = &request->next;
    /* A full batch goes at once; errors are told from the loop, not from here. */
    if (++native->queued >= (max_batch ? max_batch : BATCH))
        while (submit_some(native) > 0)
            continue;
    if (native->queued)
        loop_bh_schedule(&native->submit);
}

static int64_t co_fn native_rw(const AioFile *file, bool write, uint64_t offset,
                               const struct iovec *iov, int iovcnt, int rw_flags)
{
    Native *native = native_of_loop(loop_current());
    NativeRequest request = { .co = co_self() };

    if (G_UNLIKELY(!native)) {
        aio_fall_back(file);
        return aio_threads.co_rw(file, write, offset, iov, iovcnt, rw_flags);
    }
    if (write)
        io_prep_pwritev2(&request.iocb, file->fd, iov, iovcnt, offset, rw_flags);
    else
        io_prep_preadv2(&request.iocb, file->fd, iov, iovcnt, offset, rw_flags);
    io_set_eventfd(&request.iocb, native->event_fd);
    enqueue(native, &request, file->max_batch);
    do
        co_yield();
    while (G_UNLIKELY(!request.done));
    return request.result;
}

bool aio_native_available(GError **error)
{
    io_context_t context = NULL;
    int ret = io_setup(1, &context);

    if (ret == 0)
        io_destroy(context);
    return ret == 0 || fail_errno(error, -ret, "Linux AIO is not available");
}

/* The kernel's own asynchronous fdatasync and fallocate are missing or block: workers do them. */
static int co_fn native_fdatasync(const AioFile *file)
{
    return aio_threads.co_fdatasync(file);
}

static int co_fn native_fallocate(const AioFile *file, int mode, uint64_t offset, uint64_t bytes)
{
    return aio_threads.co_fallocate(file, mode, offset, bytes);
}

const AioEngine aio_native = { .co_rw = native_rw, .co_fdatasync = native_fdatasync,
                               .co_fallocate = native_fallocate };
