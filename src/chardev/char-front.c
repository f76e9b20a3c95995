/* The front end's side of a chardev, and the watching of its descriptors. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "src/base/fdset.h"
#include "src/chardev/chardev-int.h"

static const CharOps *ops_of(const Chardev *cd)
{
    return type_ops(cd->obj.type);
}

/* --- Output --- */

static void log_output(Chardev *cd, const uint8_t *data, size_t length)
{
    while (cd->log_fd >= 0 && length) {
        ssize_t n = write(cd->log_fd, data, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            warn_report("chardev '%s': writing the log file: %s", chardev_id(cd),
                        g_strerror(errno));
            close(cd->log_fd);
            cd->log_fd = -1;
            return;
        }
        data += n;
        length -= (size_t)n;
    }
}

static ssize_t write_once(Chardev *cd, const uint8_t *data, size_t length)
{
    const CharOps *ops = ops_of(cd);
    if (ops->write)
        return ops->write(cd, data, length);
    if (cd->out_fd < 0)
        return (ssize_t)length;
    ssize_t n = write(cd->out_fd, data, length);
    return n < 0 ? -errno : n;
}

/* What the peer takes now.  Without one, or when it breaks, everything is taken and dropped. */
static size_t write_peer(Chardev *cd, const uint8_t *data, size_t length)
{
    size_t done = 0;
    while (done < length) {
        if (!cd->connected || cd->broken)
            return length;
        ssize_t n = write_once(cd, data + done, length - done);
        if (n == -EINTR)
            continue;
        if (n == -EAGAIN || n == 0)
            break;
        if (n < 0) {
            cd->broken = true;
            chardev_update(cd);
            return length;
        }
        done += (size_t)n;
    }
    return done;
}

static bool flush_queue(Chardev *cd)
{
    if (cd->queue->len) {
        size_t n = write_peer(cd, cd->queue->data, cd->queue->len);
        if (n)
            g_byte_array_remove_range(cd->queue, 0, (guint)n);
    }
    return !cd->queue->len;
}

size_t char_front_write(CharFront *front, const void *data, size_t length)
{
    Chardev *cd = front->chardev;
    if (!cd)
        return length;
    size_t n = flush_queue(cd) ? write_peer(cd, data, length) : 0;
    log_output(cd, data, n);
    if (n < length) {
        cd->want_writable = true;
        chardev_update(cd);
    }
    return n;
}

bool char_front_write_all(CharFront *front, const void *data, size_t length)
{
    Chardev *cd = front->chardev;
    if (!cd)
        return true;
    size_t n = flush_queue(cd) ? write_peer(cd, data, length) : 0;
    size_t left = length - n;
    if (left > CHAR_QUEUE_BYTES - cd->queue->len) {
        log_output(cd, data, n);
        return false;
    }
    log_output(cd, data, length);
    if (left) {
        g_byte_array_append(cd->queue, (const uint8_t *)data + n, (guint)left);
        chardev_update(cd);
    }
    return true;
}

/* --- Front ends coming and going --- */

bool char_front_attach(CharFront *front, Chardev *cd, GError **error)
{
    unsigned max = MAX(ops_of(cd)->max_fronts, 1);
    if (cd->front_count >= max) {
        fail(error, ERR_IN_USE, "chardev '%s' is already in use", chardev_id(cd));
        return max > 1 ? false : error_hint(error, "mux=on lets several front ends share it");
    }
    front->chardev = object_ref(cd);
    front->mux_index = cd->front_count;
    cd->fronts[cd->front_count++] = front;
    CharFront *before = cd->focus;
    cd->focus = front;
    if (before && before->event)
        before->event(before->opaque, CHAR_MUX_OUT);
    if (cd->connected && front->event)
        front->event(front->opaque, CHAR_OPENED);
    if (max > 1 && front->chardev && front->event)
        front->event(front->opaque, CHAR_MUX_IN);
    chardev_update(cd);
    return true;
}

void char_front_detach(CharFront *front)
{
    Chardev *cd = g_steal_pointer(&front->chardev);
    if (!cd)
        return;
    unsigned kept = 0;
    for (unsigned i = 0; i < cd->front_count; i++) {
        if (cd->fronts[i] == front)
            continue;
        cd->fronts[kept] = cd->fronts[i];
        cd->fronts[kept]->mux_index = kept;
        kept++;
    }
    cd->front_count = kept;
    if (cd->focus == front)
        cd->focus = kept ? cd->fronts[kept - 1] : NULL;
    chardev_update(cd);
    object_unref(cd);
}

void char_front_accept_input(CharFront *front)
{
    if (front->chardev)
        chardev_update(front->chardev);
}

void char_front_hang_up(CharFront *front)
{
    if (!front->chardev)
        return;
    front->chardev->broken = true;
    chardev_update(front->chardev);
}

void char_front_set_open(CharFront *front, bool open)
{
    front->is_open = open;
}

bool char_front_connected(const CharFront *front)
{
    return front->chardev && front->chardev->connected;
}

bool chardev_frontend_open(const Chardev *cd)
{
    for (unsigned i = 0; i < cd->front_count; i++) {
        if (cd->fronts[i]->is_open)
            return true;
    }
    return cd->busy;
}

/* A front end may detach itself or others meanwhile. */
static void for_each_front(Chardev *cd, void (*fn)(CharFront *front, CharEvent event),
                           CharEvent event)
{
    CharFront *fronts[CHAR_FRONTS_MAX];
    unsigned count = cd->front_count;
    memcpy(fronts, cd->fronts, sizeof(fronts));
    for (unsigned i = 0; i < count; i++) {
        for (unsigned k = 0; k < cd->front_count; k++) {
            if (cd->fronts[k] == fronts[i]) {
                fn(fronts[i], event);
                break;
            }
        }
    }
}

static void tell_event(CharFront *front, CharEvent event)
{
    if (front->event)
        front->event(front->opaque, event);
}

static void tell_writable(CharFront *front, CharEvent unused)
{
    if (front->writable)
        front->writable(front->opaque);
}

void chardev_event(Chardev *cd, CharEvent event)
{
    object_ref(cd);
    for_each_front(cd, tell_event, event);
    object_unref(cd);
}

void chardev_send_break(Chardev *cd)
{
    if (cd->focus && cd->focus->event)
        cd->focus->event(cd->focus->opaque, CHAR_BREAK);
}

void chardev_set_connected(Chardev *cd, bool connected)
{
    if (cd->connected == connected)
        return;
    cd->connected = connected;
    cd->broken = cd->hup_seen = cd->input_ended = false;
    g_byte_array_set_size(cd->queue, 0);
    chardev_event(cd, connected ? CHAR_OPENED : CHAR_CLOSED);
    chardev_update(cd);
}

/* --- Input --- */

size_t chardev_room(const Chardev *cd)
{
    return cd->focus && cd->focus->can_receive ? cd->focus->can_receive(cd->focus->opaque) : 0;
}

void chardev_deliver(Chardev *cd, const uint8_t *data, size_t length)
{
    if (cd->focus && cd->focus->receive)
        cd->focus->receive(cd->focus->opaque, data, length);
}

static void hang_up(Chardev *cd)
{
    const CharOps *ops = ops_of(cd);
    if (ops->hang_up) {
        ops->hang_up(cd);
        return;
    }
    loop_fd_remove(g_steal_pointer(&cd->in_watch));
    if (cd->in_fd >= 0 && cd->in_fd != cd->out_fd)
        close(cd->in_fd);
    cd->in_fd = -1;
}

static void end_input(Chardev *cd)
{
    CharFront *front = cd->focus;
    if (front && front->input_ended && front->input_ended(front->opaque))
        cd->input_ended = true;
    else
        hang_up(cd);
}

static void read_some(Chardev *cd, size_t room)
{
    const CharOps *ops = ops_of(cd);
    uint8_t data[CHAR_READ_BYTES];
    size_t size = MIN(room, sizeof(data));
    ssize_t n = ops->read ? ops->read(cd, data, size) : read(cd->in_fd, data, size);
    if (n > 0)
        chardev_deliver(cd, data, (size_t)n);
    else if (n == 0)
        end_input(cd);
    else if (errno != EAGAIN && errno != EINTR)
        hang_up(cd);
}

static void on_input(void *opaque, unsigned events)
{
    Chardev *cd = object_ref(opaque);
    size_t room = chardev_room(cd);
    int unread = 0;
    if (cd->input_ended && !(events & (G_IO_HUP | G_IO_ERR)))
        ;                                  /* the watch is not changed yet */
    else if (cd->input_ended)
        hang_up(cd);                       /* now it does not read, either */
    else if (room)
        read_some(cd, room);
    else if (!(events & (G_IO_HUP | G_IO_ERR)))
        ; /* the room has gone since it was asked for */
    else if (ioctl(cd->in_fd, FIONREAD, &unread) == 0 && unread)
        cd->hup_seen = true;
    else
        hang_up(cd);
    chardev_update(cd);
    object_unref(cd);
}

/* --- Watches --- */

static void watch(LoopFd **watched, int fd, unsigned events, LoopFdFn *fn, Chardev *cd)
{
    if (fd < 0 || !events)
        loop_fd_remove(g_steal_pointer(watched));
    else if (*watched)
        loop_fd_set_events(*watched, events);
    else
        *watched = loop_add_fd(cd->loop, fd, events, fn, cd);
}

static void on_output(void *opaque, unsigned events)
{
    chardev_update(opaque);
    loop_fd_set_events(((Chardev *)opaque)->out_watch, 0);
}

static void update_watches(Chardev *cd)
{
    unsigned in = 0;
    if (cd->connected && cd->in_fd >= 0)
        in = cd->input_ended ? G_IO_HUP : chardev_room(cd) ? G_IO_IN : cd->hup_seen ? 0 : G_IO_HUP;
    watch(&cd->in_watch, cd->in_fd, in, on_input, cd);
    bool out = cd->connected && (cd->queue->len || cd->want_writable);
    watch(&cd->out_watch, cd->out_fd, out ? G_IO_OUT : 0, on_output, cd);
}

static bool output_ready(Chardev *cd)
{
    const CharOps *ops = ops_of(cd);
    if (ops->ready)
        return ops->ready(cd);
    GPollFD fd = { .fd = cd->out_fd, .events = G_IO_OUT };
    return cd->out_fd < 0 || g_poll(&fd, 1, 0) != 0;
}

/* The bottom half: everything that must happen in the loop. */
static void update(void *opaque)
{
    Chardev *cd = object_ref(opaque);
    const CharOps *ops = ops_of(cd);
    if (cd->broken) {
        cd->broken = false;
        hang_up(cd);
    }
    if ((cd->queue->len || cd->want_writable) && (!cd->connected || output_ready(cd)) &&
        flush_queue(cd) && cd->want_writable) {
        cd->want_writable = false;
        for_each_front(cd, tell_writable, CHAR_OPENED);
    }
    if (ops->update)
        ops->update(cd);
    update_watches(cd);
    object_unref(cd);
}

void chardev_update(Chardev *cd)
{
    if (!cd->update.loop)
        return;
    loop_bh_schedule(&cd->update);
}

void chardev_move(Chardev *cd, Loop *loop)
{
    const CharOps *ops = ops_of(cd);
    loop_bh_cancel(&cd->update);
    if (ops->leave_loop)
        ops->leave_loop(cd, loop);
    loop_fd_remove(g_steal_pointer(&cd->in_watch));
    loop_fd_remove(g_steal_pointer(&cd->out_watch));
    cd->loop = loop;
    loop_bh_init(&cd->update, loop, update, cd);
    chardev_update(cd);
}

bool chardev_any_loop(Chardev *cd)
{
    return true;
}

bool chardev_set_loop(Chardev *cd, Loop *loop)
{
    const CharOps *ops = ops_of(cd);
    if (loop != loop_main() && (!ops->any_loop || !ops->any_loop(cd)))
        return false;
    chardev_move(cd, loop);
    return true;
}

void chardev_close_fds(Chardev *cd)
{
    loop_fd_remove(g_steal_pointer(&cd->in_watch));
    loop_fd_remove(g_steal_pointer(&cd->out_watch));
    if (cd->out_fd >= 0 && cd->out_fd != cd->in_fd)
        close(cd->out_fd);
    if (cd->in_fd >= 0)
        close(cd->in_fd);
    cd->in_fd = cd->out_fd = -1;
}

static void chardev_init(Object *obj)
{
    Chardev *cd = (Chardev *)obj;
    cd->in_fd = cd->out_fd = cd->log_fd = -1;
    cd->queue = g_byte_array_new();
    cd->loop = loop_main();
    loop_bh_init(&cd->update, cd->loop, update, cd);
}

static void chardev_finalize(Object *obj)
{
    Chardev *cd = (Chardev *)obj;
    loop_bh_cancel(&cd->update);
    chardev_close_fds(cd);
    if (cd->log_fd >= 0)
        close(cd->log_fd);
    g_byte_array_unref(cd->queue);
    json_object_put(cd->options);
}

static bool open_log(Chardev *cd, GError **error)
{
    g_autofree char *path = NULL;
    bool append = false;
    if (!take_str(cd->options, "logfile", &path, error) ||
        !take_bool(cd->options, "logappend", &append, error))
        return false;
    if (path)
        cd->log_fd = file_open(path, O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC), 0666,
                               error);
    return !path || cd->log_fd >= 0;
}

static bool chardev_realize(Object *obj, GError **error)
{
    static const char *const none[] = { NULL };
    Chardev *cd = (Chardev *)obj;
    const CharOps *ops = ops_of(cd);
    g_autofree char *what = g_strdup_printf("chardev backend '%s'",
                                            obj->type->name + strlen("chardev-"));
    if (!open_log(cd, error) || !ops->open(cd, cd->options, error) ||
        !options_check_empty(cd->options, what, ops->options ? ops->options : none, error))
        return false;
    g_clear_pointer(&cd->options, json_object_put);
    chardev_update(cd);
    return true;
}

static const Type chardev_type = {
    .name = "chardev",
    .parent = "object",
    .help = "character device",
    .size = sizeof(Chardev),
    .abstract = true,
    .init = chardev_init,
    .finalize = chardev_finalize,
    .realize = chardev_realize,
};
TYPE_REGISTER(chardev_type)
