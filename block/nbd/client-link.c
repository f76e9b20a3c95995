/* Connections of the NBD client: libnbd's handles in our loops; losing them and coming back. */
#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include "block/nbd/client-int.h"
#include "block/nbd/proto.h"
#include "src/base/trace.h"
#include "src/base/util.h"

/* An attempt to connect is given up after ATTEMPT, or ATTEMPT_LEAST where nobody is willing to wait
 * longer; the next one follows after RETRY. */
#define SECOND_NS INT64_C(1000000000)
#define ATTEMPT_NS (30 * SECOND_NS)
#define ATTEMPT_LEAST_NS (5 * SECOND_NS)
#define RETRY_NS (SECOND_NS / 4)
enum { LOST = -ENOTCONN };

/* ---- connecting: blocking, in a worker thread ---- */

typedef struct Attempt {
    const NbdClient *client;
    int64_t end_ns;
    struct nbd_handle *nbd;
    NbdTunnel *tunnel;                     /* NULL: libnbd speaks to the server itself */
    NbdServerInfo info;
    char *why;                             /* what went wrong; g_free */
} Attempt;

static bool set_tls(struct nbd_handle *nbd, const NbdTarget *t)
{
    if (t->keys)
        return nbd_require_tls(nbd, t->keys);
    return !t->tls || nbd_set_tls(nbd, LIBNBD_TLS_REQUIRE) == 0;
}

static const char *context_of(const NbdTarget *t)
{
    return t->bitmap ? t->bitmap : NBD_CONTEXT_ALLOCATION;
}

/* A peer that vanished without a word is noticed in half a minute.  Not for unix sockets. */
static void watch_peer(int fd)
{
    int on = 1, idle = 10, interval = 5, count = 3, limit_ms = 30000;

    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit_ms, sizeof(limit_ms));
}

/* Who gets a descriptor closes it, in any case. */
static int copy_of(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

/* TLS is ours.  False: a->why. */
static bool begin_in_tunnel(Attempt *a, const NbdTarget *t)
{
    const char *name = t->hostname ? t->hostname : t->kind == NBD_AT_TCP ? t->host : NULL;
    g_autoptr(GError) error = NULL;
    int fd = t->kind == NBD_AT_FD ? copy_of(t->fd)
                                  : nbd_dial(t->path, t->host, t->port, a->end_ns, &error);
    int ours = -1;

    if (fd >= 0) {
        watch_peer(fd);
        a->tunnel = nbd_tunnel_new(fd, t->keys, name, a->end_ns, &ours, &error);
    }
    if (a->tunnel)
        return nbd_aio_connect_socket(a->nbd, ours) == 0;
    a->why = error ? g_strdup(error->message) : NULL;
    return false;
}

static bool begin(Attempt *a, const NbdTarget *t)
{
    struct nbd_handle *nbd = a->nbd;
    bool tunnel = t->keys && nbd_tunnel_needed(t->keys, t->host, t->hostname);

    if (nbd_set_export_name(nbd, t->export) < 0 || (!tunnel && !set_tls(nbd, t)) ||
        nbd_add_meta_context(nbd, context_of(t)) < 0)
        return false;
    nbd_set_pread_initialize(nbd, false);
    if (tunnel)
        return begin_in_tunnel(a, t);
    switch (t->kind) {
    case NBD_AT_UNIX:
        return nbd_aio_connect_unix(nbd, t->path) == 0;
    case NBD_AT_TCP:
        return nbd_aio_connect_tcp(nbd, t->host, t->port) == 0;
    default:
        return nbd_aio_connect_socket(nbd, copy_of(t->fd)) == 0;
    }
}

/* False: it failed, or took too long (*why). */
static bool wait_ready(struct nbd_handle *nbd, int64_t end_ns, const char **why)
{
    while (nbd_aio_is_ready(nbd) == 0) {
        unsigned direction = nbd_aio_get_direction(nbd);
        struct pollfd fd = { .fd = nbd_aio_get_fd(nbd) };
        int64_t left = end_ns - loop_clock_ns();
        int ret;

        *why = NULL;
        if (nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd))
            return false;
        if (left <= 0) {
            *why = "no answer in time";
            return false;
        }
        fd.events = (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                    (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
        ret = poll(&fd, 1, (int)MIN(left / 1000000 + 1, 60000));
        if (ret <= 0)
            continue;
        ret = direction & LIBNBD_AIO_DIRECTION_READ && fd.revents & (POLLIN | POLLHUP | POLLERR)
                  ? nbd_aio_notify_read(nbd)
                  : nbd_aio_notify_write(nbd);
        if (ret < 0)
            return false;
    }
    return true;
}

static void ask(struct nbd_handle *nbd, const NbdTarget *t, NbdServerInfo *info)
{
    int64_t least = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
    int64_t best = nbd_get_block_size(nbd, LIBNBD_SIZE_PREFERRED);
    int64_t most = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM);

    *info = (NbdServerInfo){
        .size = MAX(nbd_get_size(nbd), 0),
        .min_block = least > 0 && least <= 65536 && is_power_of_2(least) ? least : 1,
        .best_block = best > 0 && best <= NBD_PAYLOAD_MAX ? best : 0,
        .max_block = most > 0 ? MIN(most, NBD_PAYLOAD_MAX) : NBD_PAYLOAD_MAX,
        .read_only = nbd_is_read_only(nbd) > 0,
        .flush = nbd_can_flush(nbd) > 0,
        .fua = nbd_can_fua(nbd) > 0,
        .trim = nbd_can_trim(nbd) > 0,
        .zero = nbd_can_zero(nbd) > 0,
        .fast_zero = nbd_can_fast_zero(nbd) > 0,
        .multi_conn = nbd_can_multi_conn(nbd) > 0,
        .map = nbd_can_meta_context(nbd, context_of(t)) > 0,
    };
    info->max_block = MAX(info->max_block, info->min_block);
}

/* Nobody waits for a last word to arrive. */
static void disconnect(struct nbd_handle *nbd, NbdTunnel *tunnel)
{
    nbd_tunnel_cut(tunnel);
    nbd_close(nbd);
    nbd_tunnel_free(tunnel);
}

static int attempt_run(void *opaque)
{
    Attempt *a = opaque;
    const NbdTarget *t = &a->client->target;
    const char *why = NULL;

    a->nbd = nbd_create();
    if (a->nbd && begin(a, t) && wait_ready(a->nbd, a->end_ns, &why)) {
        ask(a->nbd, t, &a->info);
        watch_peer(nbd_aio_get_fd(a->nbd));
        return 0;
    }
    if (!a->why) {
        if (!why)
            why = nbd_get_error();
        a->why = g_strdup(why ? why : "the connection was closed");
    }
    disconnect(g_steal_pointer(&a->nbd), g_steal_pointer(&a->tunnel));
    return -1;
}

/* ---- a link in its loop ---- */

static void link_update(NbdLink *link);

static void on_ready(void *opaque, unsigned events)
{
    NbdLink *link = opaque;
    unsigned direction = nbd_aio_get_direction(link->nbd);

    if (direction & LIBNBD_AIO_DIRECTION_READ && events & (G_IO_IN | G_IO_HUP | G_IO_ERR))
        nbd_aio_notify_read(link->nbd);
    else if (direction & LIBNBD_AIO_DIRECTION_WRITE && events & (G_IO_OUT | G_IO_HUP | G_IO_ERR))
        nbd_aio_notify_write(link->nbd);
    link_update(link);
}

static void loop_gone(void *opaque)
{
    NbdLink *link = opaque;

    pthread_mutex_lock(&link->client->lock);
    link->watch = NULL;                    /* went with the loop */
    link->loop = NULL;
    pthread_mutex_unlock(&link->client->lock);
}

/* In the link's loop: from now on the handle is worked here. */
static void link_attach(void *opaque)
{
    NbdLink *link = opaque;

    if (!link->nbd || link->watch)
        return;
    link->watch = loop_add_fd(link->loop, nbd_aio_get_fd(link->nbd), 0, on_ready, link);
    if (link->loop != loop_main())
        loop_set_data(link->loop, link, link, loop_gone);
    link_update(link);
}

static void link_detach(void *opaque)
{
    NbdLink *link = opaque;

    g_clear_pointer(&link->watch, loop_fd_remove);
    if (link->loop != loop_main())
        loop_set_data(link->loop, link, NULL, NULL);
}

/* libnbd has given back all commands of a dead connection already, with an error. */
static void link_lost(NbdLink *link)
{
    TRACE(nbd_client_lost, "node '%s': %s", block_node_name(link->client->node), nbd_get_error());
    g_clear_pointer(&link->watch, loop_fd_remove);
    disconnect(g_steal_pointer(&link->nbd), g_steal_pointer(&link->tunnel));
    __atomic_store_n(&link->lost_ns, loop_clock_ns(), __ATOMIC_RELAXED);
    __atomic_store_n(&link->retry_ns, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&link->connected, false, __ATOMIC_RELEASE);
}

/* After each call of libnbd that may have changed what it waits for. */
static void link_update(NbdLink *link)
{
    unsigned direction;

    if (nbd_aio_is_dead(link->nbd) || nbd_aio_is_closed(link->nbd)) {
        link_lost(link);
        return;
    }
    direction = nbd_aio_get_direction(link->nbd);
    loop_fd_set_events(link->watch, (direction & LIBNBD_AIO_DIRECTION_READ ? G_IO_IN : 0) |
                                        (direction & LIBNBD_AIO_DIRECTION_WRITE ? G_IO_OUT : 0));
}

/* ---- commands ---- */

static void finish(void *opaque)
{
    NbdOp *op = opaque;

    op->done = true;
    co_enter(op->co);
}

/* The operation is its coroutine's again from now on. */
static void complete(NbdOp *op, int result)
{
    op->result = result;
    loop_bh_schedule(&op->finish);
}

/* Called by libnbd, which must not be called back from here. */
static int on_complete(void *opaque, int *error)
{
    complete(opaque, *error == ESHUTDOWN ? LOST : -*error);
    return 1;
}

static int on_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                      size_t count, int *error)
{
    NbdOp *op = opaque;

    if (!strcmp(context, context_of(&op->link->client->target)) && count >= 2) {
        op->map_bytes = entries[0];
        op->map_flags = entries[1];
    }
    return 0;
}

static int64_t issue(struct nbd_handle *nbd, NbdOp *op)
{
    nbd_completion_callback done = { .callback = on_complete, .user_data = op };
    nbd_extent_callback extents = { .callback = on_extents, .user_data = op };

    switch (op->verb) {
    case NBD_READ:
        return nbd_aio_pread(nbd, op->buffer, op->bytes, op->offset, done, 0);
    case NBD_WRITE:
        return nbd_aio_pwrite(nbd, op->buffer, op->bytes, op->offset, done, op->flags);
    case NBD_FLUSH:
        return nbd_aio_flush(nbd, done, 0);
    case NBD_ZERO:
        return nbd_aio_zero(nbd, op->bytes, op->offset, done, op->flags);
    case NBD_TRIM:
        return nbd_aio_trim(nbd, op->bytes, op->offset, done, op->flags);
    default:
        return nbd_aio_block_status(nbd, op->bytes, op->offset, extents, done,
                                    LIBNBD_CMD_FLAG_REQ_ONE);
    }
}

/* In the link's loop. */
static void submit(void *opaque)
{
    NbdOp *op = opaque;
    NbdLink *link = op->link;

    link_attach(link);
    if (!link->nbd) {
        complete(op, LOST);
        return;
    }
    if (issue(link->nbd, op) < 0) {        /* not taken: nobody will call back */
        int err = nbd_get_errno();
        bool gone = nbd_aio_is_dead(link->nbd) || nbd_aio_is_closed(link->nbd);

        complete(op, gone || err == ENOTCONN ? LOST : err ? -err : -EIO);
    }
    link_update(link);
}

/* ---- choosing a link ---- */

static NbdLink *link_new(NbdClient *client, Loop *loop)
{
    NbdLink *link = g_new0(NbdLink, 1);

    link->client = client;
    link->loop = loop;
    co_mutex_init(&link->connecting);
    client->links[client->link_count++] = link;
    return link;
}

/* The calling loop's own; one that nobody has; a new one; else another loop's. */
static NbdLink *pick_link(NbdClient *client)
{
    Loop *loop = loop_current();
    NbdLink *found = NULL;

    pthread_mutex_lock(&client->lock);
    for (unsigned i = 0; i < client->link_count && !found; i++) {
        if (client->links[i]->loop == loop && !client->links[i]->unusable)
            found = client->links[i];
    }
    for (unsigned i = 0; i < client->link_count && !found; i++) {
        if (!client->links[i]->loop && !client->links[i]->unusable) {
            found = client->links[i];
            found->loop = loop;
        }
    }
    if (!found && client->info.multi_conn && client->target.kind != NBD_AT_FD &&
        client->link_count < NBD_LINKS_MAX)
        found = link_new(client, loop);
    if (!found)
        found = client->links[0];          /* always usable, and with a loop by now */
    pthread_mutex_unlock(&client->lock);
    return found;
}

/* ---- coming back ---- */

static bool same_export(const NbdClient *client, const NbdServerInfo *info)
{
    const NbdServerInfo *first = &client->info;

    return info->size >= first->size && info->min_block <= first->min_block &&
           (!info->read_only || first->read_only) && info->flush >= first->flush &&
           info->fua >= first->fua && info->trim >= first->trim && info->zero >= first->zero &&
           info->fast_zero >= first->fast_zero && info->map >= first->map;
}

/* Requests wait until then. */
static int64_t patience_end(const NbdLink *link)
{
    int64_t lost = __atomic_load_n(&link->lost_ns, __ATOMIC_RELAXED);

    return lost ? lost + link->client->reconnect_ns : loop_clock_ns() + 1;
}

static bool co_fn try_connect(NbdLink *link)
{
    NbdClient *client = link->client;
    int64_t now = loop_clock_ns(), end = patience_end(link);
    Attempt a = { .client = client,
                  .end_ns = CLAMP(end, now + ATTEMPT_LEAST_NS, now + ATTEMPT_NS) };
    int ret = client->target.kind == NBD_AT_FD ? -1 : co_worker_call(attempt_run, &a);

    if (ret == 0 && !same_export(client, &a.info)) {
        TRACE(nbd_client_changed, "node '%s'", block_node_name(client->node));
        disconnect(a.nbd, a.tunnel);
        ret = -1;
    }
    if (ret == 0) {                        /* the link's loop attaches it with the next command */
        link->tunnel = a.tunnel;
        __atomic_store_n(&link->nbd, a.nbd, __ATOMIC_RELEASE);
        __atomic_store_n(&link->lost_ns, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&link->connected, true, __ATOMIC_RELEASE);
    }
    TRACE(nbd_client_connect, "node '%s': %s", block_node_name(client->node),
          ret == 0 ? "connected" : a.why ? a.why : "failed");
    g_free(a.why);
    return ret == 0;
}

/* The server does not take one more connection, whatever it said: those that there are must do. */
static void forget_link(NbdLink *link)
{
    pthread_mutex_lock(&link->client->lock);
    link->unusable = true;
    link->client->info.multi_conn = false;
    pthread_mutex_unlock(&link->client->lock);
}

/* Under link->connecting. */
static int co_fn connect_again(NbdLink *link)
{
    while (!__atomic_load_n(&link->connected, __ATOMIC_ACQUIRE)) {
        int64_t now = loop_clock_ns(), end = patience_end(link);
        int64_t retry = __atomic_load_n(&link->retry_ns, __ATOMIC_RELAXED);

        if (now < retry) {
            if (now >= end)
                return -EIO;               /* failed a moment ago */
            co_sleep_ns(MIN(retry, end) - now);
        } else if (!try_connect(link)) {
            if (!__atomic_load_n(&link->lost_ns, __ATOMIC_RELAXED)) {
                forget_link(link);
                return -EAGAIN;
            }
            __atomic_store_n(&link->retry_ns, loop_clock_ns() + RETRY_NS, __ATOMIC_RELAXED);
        }
    }
    return 0;
}

/* 0: connected; -EIO; -EAGAIN: not by this link.  Who comes while another tries, and has no time left,
 * does not wait. */
static int co_fn link_ready(NbdLink *link)
{
    int ret;

    if (G_LIKELY(__atomic_load_n(&link->connected, __ATOMIC_ACQUIRE)))
        return 0;
    if (__atomic_load_n(&link->busy, __ATOMIC_RELAXED) &&
        __atomic_load_n(&link->lost_ns, __ATOMIC_RELAXED) && loop_clock_ns() >= patience_end(link))
        return -EIO;
    co_mutex_lock(&link->connecting);
    if (link->unusable) {
        co_mutex_unlock(&link->connecting);
        return -EAGAIN;
    }
    __atomic_store_n(&link->busy, true, __ATOMIC_RELAXED);
    ret = connect_again(link);
    __atomic_store_n(&link->busy, false, __ATOMIC_RELAXED);
    co_mutex_unlock(&link->connecting);
    return ret;
}

int co_fn nbd_client_run(NbdClient *client, NbdOp *op)
{
    op->co = co_self();
    for (;;) {
        int ret;

        op->link = pick_link(client);
        ret = link_ready(op->link);
        if (ret == -EAGAIN)
            continue;
        if (ret < 0)
            return ret;
        op->done = false;
        loop_bh_init(&op->finish, loop_current(), finish, op);
        if (loop_is_current(op->link->loop))
            submit(op);
        else
            loop_post(op->link->loop, submit, op);
        while (!op->done)
            co_yield();
        if (op->result != LOST)
            return op->result;
        if (!client->reconnect_ns)
            return -EIO;
    }
}

/* ---- opening and closing ---- */

bool co_fn nbd_client_connect(NbdClient *client, GError **error)
{
    int64_t end = loop_clock_ns() + client->open_ns;
    Attempt a = { .client = client };
    NbdLink *link;

    for (;;) {
        int64_t now = loop_clock_ns();

        a.end_ns = client->open_ns ? MAX(end, now + SECOND_NS / 4) : now + ATTEMPT_NS;
        if (co_worker_call(attempt_run, &a) == 0)
            break;
        if (loop_clock_ns() + RETRY_NS >= end || client->target.kind == NBD_AT_FD) {   /* good for one attempt */
            g_autofree char *uri = nbd_target_uri(&client->target);

            fail(error, ERR_HOST, "Failed to connect to '%s': %s", uri, a.why);
            g_free(a.why);
            return error_object(error, "%s", uri);
        }
        g_clear_pointer(&a.why, g_free);
        co_sleep_ns(RETRY_NS);
    }
    client->info = a.info;
    link = link_new(client, NULL);
    link->nbd = a.nbd;
    link->tunnel = a.tunnel;
    link->connected = true;
    return true;
}

static int close_run(void *opaque)
{
    NbdLink *link = opaque;

    nbd_close(link->nbd);
    nbd_tunnel_free(link->tunnel);
    return 0;
}

/* The server is told; whether it hears it does not matter. */
void co_fn nbd_client_disconnect(NbdClient *client)
{
    for (unsigned i = 0; i < client->link_count; i++) {
        NbdLink *link = client->links[i];

        if (link->loop)
            loop_call(link->loop, link_detach, link);
        if (link->nbd) {
            nbd_aio_disconnect(link->nbd, 0);
            co_worker_call(close_run, link);
        }
        g_free(link);
    }
    client->link_count = 0;
}
