/*
 * The entropy device (virtio 1.2, 5.4): each writable buffer is filled with random bytes; a driver
 * gets at most max-bytes in a period.
 */
#include <linux/virtio_ids.h>
#include "hw/virtio/rng.h"
#include "hw/virtio/virtio-pci.h"
#include "src/base/util.h"

enum { QUEUE_SIZE = 8, PARTS_MAX = 64 };
/* Served in one turn of the main loop, which others need, too. */
enum { REQUEST_BYTES_MAX = 64 * KiB, TURN_REQUESTS = QUEUE_SIZE };

typedef struct VirtioRng {
    VirtioDevice vdev;
    Virtqueue *requests;
    VirtqChain chain;
    struct iovec iov[PARTS_MAX];
    uint64_t gpa[PARTS_MAX];
    Object *backend;
    bool own_backend;                       /* none was given */

    uint64_t max_bytes;                     /* properties: a quota */
    uint32_t period_ms;
    uint64_t quota;                         /* bytes left of it */
    LoopTimer refill;
} VirtioRng;

/* Fills the chain, or the start of it (5.4.6.1 allows less than the buffer); the bytes written, 0 if
 * there is nothing yet, or -errno. */
static ssize_t fill(VirtioRng *r)
{
    size_t left = MIN(r->chain.in_bytes, r->quota), done = 0;

    left = MIN(left, REQUEST_BYTES_MAX);
    for (unsigned i = 0; left && i < r->chain.in_num; i++) {
        const struct iovec *part = &r->iov[r->chain.out_num + i];
        size_t want = MIN(part->iov_len, left);
        ssize_t n = rng_read(RNG_BACKEND(r->backend), part->iov_base, want);
        if (n < 0)
            return done ? (ssize_t)done : n;
        done += n;
        left -= n;
        if (n < want)
            break;
    }
    return done;
}

static void serve(void *opaque);

/* One buffer; false: it has to wait, or the device is broken. */
static bool serve_one(VirtioRng *r)
{
    ssize_t n;

    if (!r->chain.in_bytes || r->chain.out_bytes) {
        virtio_break(&r->vdev, "a buffer for entropy must be writable, and only that");
        return false;
    }
    n = fill(r);
    if (n < 0) {
        warn_report("%s: reading entropy: %s", virtio_name(&r->vdev), g_strerror(-n));
        virtio_break(&r->vdev, "the source of entropy fails");
        return false;
    }
    if (!n) {
        /* 5.4.6: at least one byte a buffer; so an empty source makes it wait. */
        virtq_unpop(r->requests, &r->chain);
        rng_when_ready(RNG_BACKEND(r->backend), serve, r);
        return false;
    }
    r->quota -= n;
    virtq_push(r->requests, &r->chain, n);
    if (r->max_bytes != INT64_MAX && r->refill.expire_ns < 0)
        loop_timer_set(&r->refill, loop_clock_ns() + r->period_ms * 1000000ll);
    return true;
}

static void serve(void *opaque)
{
    VirtioRng *r = opaque;
    unsigned budget = TURN_REQUESTS;
    bool more = true;

    /* Without quota the timer calls again. */
    while (more && r->quota && budget) {
        while (more && r->quota && budget && virtq_pop(r->requests, &r->chain)) {
            more = serve_one(r);
            budget--;
        }
        more = more && budget && !virtq_set_notification(r->requests, true);
    }
    virtq_flush(r->requests);
    if (!budget)
        virtio_kick(&r->vdev, virtq_index(r->requests));
}

static void refill(void *opaque)
{
    VirtioRng *r = opaque;

    r->quota = r->max_bytes;
    serve(r);
}

static void rng_kick(VirtioDevice *vdev, Virtqueue *vq)
{
    serve(vdev);
}

static void rng_stop(VirtioDevice *vdev)
{
    VirtioRng *r = (VirtioRng *)vdev;

    rng_when_ready(RNG_BACKEND(r->backend), NULL, NULL);
    loop_timer_cancel(&r->refill);
    r->quota = r->max_bytes;
}

static void rng_get_config(VirtioDevice *vdev, uint8_t *config)
{
}

static bool rng_realize(Object *obj, GError **error)
{
    VirtioRng *r = (VirtioRng *)obj;

    if (!r->max_bytes || !r->period_ms)
        return fail(error, ERR_INVALID_PARAMETER, "'max-bytes' and 'period' must not be 0");
    if (!r->backend) {
        r->backend = object_new_by_name("rng-builtin", error);
        if (!r->backend || !object_realize(r->backend, error))
            return false;
        r->own_backend = true;
    }
    r->chain = (VirtqChain){ .iov = r->iov, .gpa = r->gpa, .iov_max = PARTS_MAX };
    r->quota = r->max_bytes;
    loop_timer_init(&r->refill, loop_main(), refill, r);
    r->requests = virtio_add_queue(&r->vdev, QUEUE_SIZE, rng_kick);
    return true;
}

static void rng_unrealize(Object *obj)
{
    VirtioRng *r = (VirtioRng *)obj;

    if (r->refill.loop)
        loop_timer_cancel(&r->refill);
    if (r->own_backend) {
        object_unref(r->backend);
        r->backend = NULL;
        r->own_backend = false;
    }
}

static const Property rng_props[] = {
    PROP_LINK("rng", VirtioRng, backend, "rng-backend",
              .help = "source of entropy; the host kernel's generator if none is given"),
    PROP("max-bytes", VirtioRng, max_bytes, .def.u = INT64_MAX, .max = INT64_MAX,
         .help = "bytes that the guest gets in a period"),
    PROP("period", VirtioRng, period_ms, .def.u = 0x10000, .help = "its length in milliseconds"),
    {}
};

static const VirtioDeviceOps rng_ops = {
    .device_id = VIRTIO_ID_RNG, .get_config = rng_get_config, .stop = rng_stop,
};

static const Type virtio_rng_type = {
    .name = "virtio-rng-device", .parent = "virtio-device", .help = "virtio entropy device",
    .size = sizeof(VirtioRng), .props = rng_props, .realize = rng_realize,
    .unrealize = rng_unrealize, .ops = &rng_ops,
};
TYPE_REGISTER(virtio_rng_type)

VIRTIO_PCI_REGISTER(virtio_rng_pci, "virtio-rng-pci", "virtio entropy device", NULL,
                    .device = "virtio-rng-device", .legacy_device_id = 0x1005,
                    .pci.class_code = 0x00ff00)
