/* Entropy sources: a file such as /dev/urandom or /dev/hwrng, and getrandom(2). */
#include "hw/virtio/rng.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include "src/base/loop.h"
#include "src/base/util.h"

ssize_t rng_read(RngBackend *rng, void *buffer, size_t length)
{
    const RngBackendOps *ops = type_ops(rng->obj.type);
    return ops->read(rng, buffer, length);
}

void rng_when_ready(RngBackend *rng, void (*fn)(void *opaque), void *opaque)
{
    const RngBackendOps *ops = type_ops(rng->obj.type);
    if (ops->when_ready)
        ops->when_ready(rng, fn, opaque);
}

static const Type rng_backend_type = {
    .name = "rng-backend", .parent = "user-object", .help = "source of entropy",
    .size = sizeof(RngBackend), .abstract = true,
};
TYPE_REGISTER(rng_backend_type)

/* ---- rng-builtin ---- */

static ssize_t builtin_read(RngBackend *rng, void *buffer, size_t length)
{
    /* The kernel's generator is seeded before any user runs; GRND_NONBLOCK is for the case not. */
    ssize_t n = getrandom(buffer, length, GRND_NONBLOCK);
    return n < 0 ? -errno : n;
}

static const RngBackendOps builtin_ops = { .read = builtin_read };
static const Type rng_builtin_type = {
    .name = "rng-builtin", .parent = "rng-backend", .help = "the host kernel's generator",
    .user_creatable = true, .ops = &builtin_ops,
};
TYPE_REGISTER(rng_builtin_type)

/* ---- rng-random ---- */

typedef struct RngRandom {
    RngBackend rng;
    char *filename;
    int fd;
    LoopFd *watch;
    void (*ready)(void *opaque);
    void *opaque;
} RngRandom;

static ssize_t random_read(RngBackend *rng, void *buffer, size_t length)
{
    ssize_t n = read(((RngRandom *)rng)->fd, buffer, length);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    return n ? n : -ENODATA;                /* the end of a plain file */
}

static void random_stop(RngRandom *r)
{
    if (r->watch)
        loop_fd_remove(r->watch);
    r->watch = NULL;
}

static void random_readable(void *opaque, unsigned events)
{
    RngRandom *r = opaque;

    random_stop(r);
    r->ready(r->opaque);
}

static void random_when_ready(RngBackend *rng, void (*fn)(void *opaque), void *opaque)
{
    RngRandom *r = (RngRandom *)rng;

    random_stop(r);
    r->ready = fn;
    r->opaque = opaque;
    if (fn)
        r->watch = loop_add_fd(loop_main(), r->fd, G_IO_IN, random_readable, r);
}

static void random_init(Object *obj)
{
    ((RngRandom *)obj)->fd = -1;
}

static bool random_realize(Object *obj, GError **error)
{
    RngRandom *r = (RngRandom *)obj;

    r->fd = open(r->filename, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    return r->fd >= 0 || fail_errno(error, errno, "cannot open '%s'", r->filename);
}

static void random_unrealize(Object *obj)
{
    RngRandom *r = (RngRandom *)obj;

    random_stop(r);
    if (r->fd >= 0)
        close(r->fd);
    r->fd = -1;
}

static const Property random_props[] = {
    PROP("filename", RngRandom, filename, .def.s = "/dev/urandom",
         .help = "file or device to read from"),
    {}
};
static const RngBackendOps random_ops = { .read = random_read, .when_ready = random_when_ready };
static const Type rng_random_type = {
    .name = "rng-random", .parent = "rng-backend", .help = "a file with random bytes",
    .size = sizeof(RngRandom), .user_creatable = true, .props = random_props, .init = random_init,
    .realize = random_realize, .unrealize = random_unrealize, .ops = &random_ops,
};
TYPE_REGISTER(rng_random_type)
