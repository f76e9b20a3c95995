/*
 * rng-egd: entropy from a daemon that speaks EGD's protocol on a chardev.  A request is the byte 2
 * ("read, and wait until there is enough") and a count; the answer is that many bytes.
 */
#include <string.h>
#include "hw/virtio/rng.h"
#include "src/base/error.h"
#include "src/chardev/chardev.h"

enum { EGD_READ_WAITING = 2, EGD_MAX = 255 };

/* Main loop. */
typedef struct RngEgd {
    RngBackend rng;
    Chardev *chardev;                      /* property */
    CharFront front;
    uint8_t data[EGD_MAX];
    unsigned have, asked;                  /* bytes of data; bytes on their way */
    void (*ready)(void *opaque);           /* NULL: nobody waits */
    void *ready_opaque;
} RngEgd;

static void ask(RngEgd *e, size_t length)
{
    uint8_t request[] = { EGD_READ_WAITING, (uint8_t)MIN(length, EGD_MAX - e->have) };

    if (!e->asked && request[1] && char_front_connected(&e->front) &&
        char_front_write_all(&e->front, request, sizeof(request)))
        e->asked = request[1];
}

static ssize_t egd_read(RngBackend *rng, void *buffer, size_t length)
{
    RngEgd *e = (RngEgd *)rng;
    size_t n = MIN(e->have, length);

    memcpy(buffer, e->data, n);
    e->have -= n;
    memmove(e->data, e->data + n, e->have);
    if (!n)
        ask(e, length);
    return n;
}

static void egd_when_ready(RngBackend *rng, void (*fn)(void *opaque), void *opaque)
{
    RngEgd *e = (RngEgd *)rng;

    e->ready = fn;
    e->ready_opaque = opaque;
}

static size_t can_receive(void *opaque)
{
    return ((RngEgd *)opaque)->asked;
}

static void receive(void *opaque, const uint8_t *data, size_t length)
{
    RngEgd *e = opaque;
    void (*ready)(void *opaque) = e->ready;

    length = MIN(length, e->asked);
    memcpy(e->data + e->have, data, length);
    e->have += length;
    e->asked -= length;
    e->ready = NULL;
    if (ready)
        ready(e->ready_opaque);
}

/* A daemon that has gone takes our request with it; the next one is asked anew. */
static void egd_event(void *opaque, CharEvent event)
{
    RngEgd *e = opaque;

    if (event != CHAR_OPENED && event != CHAR_CLOSED)
        return;
    e->asked = 0;
    if (event == CHAR_OPENED && e->ready)
        ask(e, EGD_MAX);
}

static bool egd_realize(Object *obj, GError **error)
{
    RngEgd *e = (RngEgd *)obj;

    if (!e->chardev)
        return fail(error, ERR_MISSING_PARAMETER, "rng-egd needs a property 'chardev'");
    e->front = (CharFront){ .can_receive = can_receive, .receive = receive, .event = egd_event,
                            .opaque = e, .slot = &e->chardev };
    if (!char_front_attach(&e->front, e->chardev, error))
        return false;
    char_front_set_open(&e->front, true);
    return true;
}

static void egd_unrealize(Object *obj)
{
    char_front_detach(&((RngEgd *)obj)->front);
}

static const Property egd_props[] = {
    PROP_OF("chardev", RngEgd, chardev, prop_chardev, .help = "where the daemon is"),
    {}
};
static const RngBackendOps egd_ops = { .read = egd_read, .when_ready = egd_when_ready };
static const Type rng_egd_type = {
    .name = "rng-egd", .parent = "rng-backend", .help = "an entropy daemon on a chardev",
    .size = sizeof(RngEgd), .user_creatable = true, .props = egd_props, .realize = egd_realize,
    .unrealize = egd_unrealize, .ops = &egd_ops,
};
TYPE_REGISTER(rng_egd_type)
