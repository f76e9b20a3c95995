/* ringbuf: keeps the last bytes that were written, for ringbuf-read. */
#include "src/base/util.h"
#include "src/chardev/chardev-int.h"

typedef struct CharRingbuf {
    Chardev cd;
    uint8_t *data;
    uint64_t size;                 /* a power of two */
    uint64_t written, taken;       /* bytes ever; their difference is at most size */
} CharRingbuf;

static const char *const ringbuf_options[] = { "size", "logfile", "logappend", "mux", NULL };

static bool ringbuf_open(Chardev *cd, json_object *options, GError **error)
{
    CharRingbuf *ring = (CharRingbuf *)cd;
    ring->size = 64 * KiB;
    if (!take_size(options, "size", &ring->size, error))
        return false;
    if (!is_power_of_2(ring->size))
        return fail(error, ERR_INVALID_PARAMETER, "size of ringbuf chardev must be power of two");
    if (ring->size > GiB)
        return fail(error, ERR_LIMIT, "size of ringbuf chardev must be at most 1G");
    ring->data = g_try_malloc(ring->size);
    if (!ring->data)
        return fail(error, ERR_NO_SPACE, "no memory for a ringbuf of this size");
    cd->connected = true;
    return true;
}

static ssize_t ringbuf_write(Chardev *cd, const uint8_t *data, size_t length)
{
    CharRingbuf *ring = (CharRingbuf *)cd;
    for (size_t i = 0; i < length; i++)
        ring->data[ring->written++ & (ring->size - 1)] = data[i];
    if (ring->written - ring->taken > ring->size)
        ring->taken = ring->written - ring->size;
    return (ssize_t)length;
}

static void ringbuf_finalize(Object *obj)
{
    g_free(((CharRingbuf *)obj)->data);
}

static CharRingbuf *ringbuf_of(Chardev *cd, GError **error)
{
    if (object_is_a(&cd->obj, "chardev-ringbuf"))
        return (CharRingbuf *)cd;
    fail(error, ERR_INVALID_PARAMETER, "%s is not a ringbuf device", chardev_id(cd));
    return NULL;
}

bool chardev_ringbuf_write(Chardev *cd, const uint8_t *data, size_t length, GError **error)
{
    return ringbuf_of(cd, error) && ringbuf_write(cd, data, length) >= 0;
}

GBytes *chardev_ringbuf_read(Chardev *cd, size_t length, GError **error)
{
    CharRingbuf *ring = ringbuf_of(cd, error);
    if (!ring)
        return NULL;
    length = MIN(length, ring->written - ring->taken);
    uint8_t *copy = g_malloc(length);
    for (size_t i = 0; i < length; i++)
        copy[i] = ring->data[ring->taken++ & (ring->size - 1)];
    return g_bytes_new_take(copy, length);
}

static const CharOps ringbuf_ops = { .open = ringbuf_open, .write = ringbuf_write,
                                     .options = ringbuf_options };
static const Type ringbuf_type = {
    .name = "chardev-ringbuf", .parent = "chardev", .help = "keeps the last bytes in memory",
    .size = sizeof(CharRingbuf), .ops = &ringbuf_ops, .finalize = ringbuf_finalize,
};
TYPE_REGISTER(ringbuf_type)
