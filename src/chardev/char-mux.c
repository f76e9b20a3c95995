/*
 * mux: several front ends on one chardev.  Output of all of them goes out; input goes to the one that
 * has the focus.  Ctrl-A is the escape: Ctrl-A c gives the focus to the next, Ctrl-A x quits.
 */
#include <errno.h>
#include <string.h>
#include "src/chardev/chardev-int.h"

enum { ESCAPE = 1, FIFO_BYTES = 4096 };

/* Input that a front end has not taken yet. */
typedef struct Fifo {
    const CharFront *front;        /* whose; NULL: free */
    uint8_t data[FIFO_BYTES];
    unsigned head, count;
} Fifo;

typedef struct CharMux {
    Chardev cd;
    CharFront inner;               /* our side of the chardev below */
    Fifo *fifos[CHAR_FRONTS_MAX];
    bool escaped;                  /* the last byte was the escape */
    bool stalled;                  /* the chardev below took less than all */
    bool timestamps, line_start;
    int64_t timestamps_from_ns;
} CharMux;

static bool attached(const CharMux *mux, const CharFront *front)
{
    for (unsigned i = 0; i < mux->cd.front_count; i++) {
        if (mux->cd.fronts[i] == front)
            return true;
    }
    return false;
}

/* The focus's; NULL: nobody has it. */
static Fifo *focus_fifo(CharMux *mux)
{
    const CharFront *front = mux->cd.focus;
    Fifo **free_slot = NULL;
    if (!front)
        return NULL;
    for (unsigned i = 0; i < CHAR_FRONTS_MAX; i++) {
        Fifo *fifo = mux->fifos[i];
        if (fifo && fifo->front == front)
            return fifo;
        if (!fifo || !attached(mux, fifo->front))
            free_slot = &mux->fifos[i];
    }
    if (!*free_slot)
        *free_slot = g_new(Fifo, 1);
    (*free_slot)->front = front;
    (*free_slot)->head = (*free_slot)->count = 0;
    return *free_slot;
}

/* Gives the focus what it takes. */
static void drain(CharMux *mux)
{
    Fifo *fifo;
    size_t room;
    while ((fifo = focus_fifo(mux)) && fifo->count && (room = chardev_room(&mux->cd))) {
        uint8_t data[256];
        size_t n = MIN(MIN(room, fifo->count), sizeof(data));
        for (size_t i = 0; i < n; i++)
            data[i] = fifo->data[(fifo->head + i) % FIFO_BYTES];
        fifo->head = (fifo->head + (unsigned)n) % FIFO_BYTES;
        fifo->count -= (unsigned)n;
        chardev_deliver(&mux->cd, data, n);
    }
}

static void put(CharMux *mux, uint8_t byte)
{
    Fifo *fifo = focus_fifo(mux);
    if (fifo && fifo->count < FIFO_BYTES)
        fifo->data[(fifo->head + fifo->count++) % FIFO_BYTES] = byte;
}

/* --- The escape --- */

static void print(CharMux *mux, const char *text)
{
    char_front_write_all(&mux->inner, text, strlen(text));
}

static void next_focus(CharMux *mux)
{
    CharFront *before = mux->cd.focus;
    if (mux->cd.front_count < 2)
        return;
    CharFront *after = mux->cd.fronts[(before->mux_index + 1) % mux->cd.front_count];
    mux->cd.focus = after;
    if (before->event)
        before->event(before->opaque, CHAR_MUX_OUT);
    if (attached(mux, after) && after->event)
        after->event(after->opaque, CHAR_MUX_IN);
}

static void toggle_timestamps(CharMux *mux)
{
    mux->timestamps = !mux->timestamps;
    mux->timestamps_from_ns = loop_clock_ns();
    mux->line_start = false;
}

/* The byte after Ctrl-A. */
static void command(CharMux *mux, uint8_t byte)
{
    switch (byte) {
    case 'h':
    case '?':
        print(mux, "\r\n"
                   "Ctrl-A h       this help\r\n"
                   "Ctrl-A x       quit\r\n"
                   "Ctrl-A c       switch to the next of console and monitor\r\n"
                   "Ctrl-A b       send a break\r\n"
                   "Ctrl-A t       time stamps before lines, on or off\r\n"
                   "Ctrl-A Ctrl-A  send Ctrl-A\r\n");
        break;
    case 'x':
        print(mux, "\r\nquit\r\n");
        chardev_quit_requested(&mux->cd);
        break;
    case 's':
        print(mux, "\r\nthere are no snapshots to be committed\r\n");
        break;
    case 'b':
        chardev_send_break(&mux->cd);
        break;
    case 'c':
        drain(mux);
        next_focus(mux);
        break;
    case 't':
        toggle_timestamps(mux);
        break;
    case ESCAPE:
        put(mux, ESCAPE);
        break;
    }
}

/* --- The side of the chardev below --- */

static size_t inner_can_receive(void *opaque)
{
    Fifo *fifo = focus_fifo(opaque);
    return fifo ? FIFO_BYTES - fifo->count : FIFO_BYTES;
}

static void inner_receive(void *opaque, const uint8_t *data, size_t length)
{
    CharMux *mux = object_ref(opaque);
    for (size_t i = 0; i < length; i++) {
        if (mux->escaped) {
            mux->escaped = false;
            command(mux, data[i]);
        } else if (data[i] == ESCAPE) {
            mux->escaped = true;
        } else {
            put(mux, data[i]);
        }
    }
    drain(mux);
    object_unref(mux);
}

static void inner_event(void *opaque, CharEvent event)
{
    CharMux *mux = opaque;
    CharFront *focus = mux->cd.focus;
    if (event == CHAR_OPENED || event == CHAR_CLOSED)
        chardev_set_connected(&mux->cd, event == CHAR_OPENED);
    else if (focus && focus->event)
        focus->event(focus->opaque, event);
}

static void inner_writable(void *opaque)
{
    CharMux *mux = opaque;
    mux->stalled = false;
    chardev_update(&mux->cd);
}

/* --- Output --- */

static void print_stamp(CharMux *mux)
{
    int64_t ms = (loop_clock_ns() - mux->timestamps_from_ns) / 1000000;
    g_autofree char *stamp = g_strdup_printf("[%02d:%02d:%02d.%03d] ", (int)(ms / 3600000),
                                             (int)(ms / 60000 % 60), (int)(ms / 1000 % 60),
                                             (int)(ms % 1000));
    print(mux, stamp);
    mux->line_start = false;
}

static size_t write_stamped(CharMux *mux, const uint8_t *data, size_t length)
{
    size_t done = 0;
    while (done < length) {
        if (mux->line_start)
            print_stamp(mux);
        const uint8_t *newline = memchr(data + done, '\n', length - done);
        size_t part = newline ? (size_t)(newline + 1 - (data + done)) : length - done;
        size_t n = char_front_write(&mux->inner, data + done, part);
        done += n;
        if (n < part)
            break;
        mux->line_start = newline != NULL;
    }
    return done;
}

static ssize_t mux_write(Chardev *cd, const uint8_t *data, size_t length)
{
    CharMux *mux = (CharMux *)cd;
    size_t n = mux->timestamps ? write_stamped(mux, data, length)
                               : char_front_write(&mux->inner, data, length);
    mux->stalled = n < length;
    return n ? (ssize_t)n : -EAGAIN;
}

static bool mux_ready(Chardev *cd)
{
    return !((CharMux *)cd)->stalled;
}

static void mux_update(Chardev *cd)
{
    CharMux *mux = (CharMux *)cd;
    drain(mux);
    char_front_accept_input(&mux->inner);
    char_front_set_open(&mux->inner, chardev_frontend_open(cd));
}

static const char *const mux_options[] = { "chardev", "logfile", "logappend", NULL };

static bool mux_open(Chardev *cd, json_object *options, GError **error)
{
    CharMux *mux = (CharMux *)cd;
    g_autofree char *id = NULL;
    if (!need_str(options, "chardev", &id, error))
        return false;
    Chardev *below = chardev_find(object_root(&cd->obj), id);
    if (!below)
        return fail(error, ERR_NOT_FOUND, "mux: base chardev '%s' not found", id);
    mux->inner = (CharFront){ .can_receive = inner_can_receive, .receive = inner_receive,
                              .event = inner_event, .writable = inner_writable, .opaque = mux };
    return char_front_attach(&mux->inner, below, error);
}

static void mux_finalize(Object *obj)
{
    CharMux *mux = (CharMux *)obj;
    char_front_detach(&mux->inner);
    for (unsigned i = 0; i < CHAR_FRONTS_MAX; i++)
        g_free(mux->fifos[i]);
}

static const CharOps mux_ops = { .open = mux_open, .write = mux_write, .ready = mux_ready,
                                 .update = mux_update, .options = mux_options,
                                 .max_fronts = CHAR_FRONTS_MAX };
static const Type mux_type = {
    .name = "chardev-mux", .parent = "chardev", .help = "several front ends on one chardev",
    .size = sizeof(CharMux), .ops = &mux_ops, .finalize = mux_finalize,
};
TYPE_REGISTER(mux_type)
