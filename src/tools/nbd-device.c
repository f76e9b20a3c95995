/*
 * The kernel's NBD client: /dev/nbdN made of an export.
 *
 * Over generic netlink (linux/nbd-netlink.h) the kernel is handed sockets on which the handshake is
 * over: NBD_CMD_CONNECT returns when the device can be used, NBD_CMD_DISCONNECT when the kernel has
 * let go.  Connections are pairs of unix sockets whose other end the server here takes.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include "block/nbd/proto.h"
#include "block/nbd/socket.h"
#include "src/base/util.h"
#include "src/tools/nbd.h"

enum { CONNECTIONS_MAX = 16, MESSAGE_BYTES = 1024, SECTOR = 512 };

/* ---- messages ---- */

/* A request, while it grows. */
typedef struct Message {
    struct nlmsghdr head;
    struct genlmsghdr command;
    uint8_t attributes[MESSAGE_BYTES];
} Message;

static void message_init(Message *m, uint16_t family, uint8_t command, uint8_t version)
{
    *m = (Message){ .head = { .nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN), .nlmsg_type = family,
                              .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
                    .command = { .cmd = command, .version = version } };
}

/* The caller sees to it that all fits. */
static struct nlattr *put(Message *m, uint16_t type, const void *data, uint16_t bytes)
{
    struct nlattr *attr = (struct nlattr *)((uint8_t *)m + NLMSG_ALIGN(m->head.nlmsg_len));

    attr->nla_type = type;
    attr->nla_len = NLA_HDRLEN + bytes;
    if (bytes)
        memcpy(attr + 1, data, bytes);
    m->head.nlmsg_len = NLMSG_ALIGN(m->head.nlmsg_len) + NLA_ALIGN(attr->nla_len);
    return attr;
}

static void put_u32(Message *m, uint16_t type, uint32_t value)
{
    put(m, type, &value, sizeof(value));
}

static void put_u64(Message *m, uint16_t type, uint64_t value)
{
    put(m, type, &value, sizeof(value));
}

/* What is put until close_nest is inside. */
static struct nlattr *open_nest(Message *m, uint16_t type)
{
    return put(m, type | NLA_F_NESTED, NULL, 0);
}

static void close_nest(Message *m, struct nlattr *nest)
{
    nest->nla_len = (uint8_t *)m + m->head.nlmsg_len - (uint8_t *)nest;
}

/* The family's number in an answer of the controller; 0: it does not say. */
static uint16_t family_of(const struct nlmsghdr *head)
{
    const uint8_t *at = (const uint8_t *)NLMSG_DATA(head) + GENL_HDRLEN;
    const uint8_t *end = (const uint8_t *)head + head->nlmsg_len;
    struct nlattr attr;

    while (end - at >= NLA_HDRLEN) {
        memcpy(&attr, at, sizeof(attr));
        if (attr.nla_len < NLA_HDRLEN || attr.nla_len > end - at)
            break;
        if (attr.nla_type == CTRL_ATTR_FAMILY_ID && attr.nla_len >= NLA_HDRLEN + 2) {
            uint16_t id;

            memcpy(&id, at + NLA_HDRLEN, sizeof(id));
            return id;
        }
        at += MIN(NLA_ALIGN(attr.nla_len), (size_t)(end - at));
    }
    return 0;
}

/* Sends and waits for the acknowledgement: 0, or -errno as the kernel says. */
static int ask(int fd, const Message *m, uint16_t *ret_family)
{
    _Alignas(struct nlmsghdr) uint8_t answer[8192];

    if (send(fd, m, m->head.nlmsg_len, 0) < 0)
        return -errno;
    for (;;) {
        ssize_t n = recv(fd, answer, sizeof(answer), 0);
        const struct nlmsghdr *head = (const struct nlmsghdr *)answer;

        if (n < 0 && errno != EINTR)
            return -errno;
        for (; NLMSG_OK(head, n); head = NLMSG_NEXT(head, n)) {
            if (head->nlmsg_type == NLMSG_ERROR && head->nlmsg_len >= NLMSG_LENGTH(sizeof(int)))
                return *(const int *)NLMSG_DATA(head);
            if (ret_family && head->nlmsg_len >= NLMSG_LENGTH(GENL_HDRLEN))
                *ret_family = family_of(head);
        }
    }
}

/* A socket on which the kernel's NBD client listens to commands of *ret_family; -errno. */
static int open_netlink(uint16_t *ret_family)
{
    auto_fd fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
    Message m;
    int ret;

    if (fd < 0)
        return -errno;
    message_init(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
    put(&m, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
    *ret_family = 0;
    ret = ask(fd, &m, ret_family);
    if (ret < 0)
        return ret;
    return *ret_family ? steal_fd(&fd) : -ENOENT;
}

/* ---- devices ---- */

/* "/dev/nbd7": 7. */
static bool device_index(const char *path, uint32_t *ret, GError **error)
{
    g_autofree char *name = g_path_get_basename(path);
    char *end = NULL;
    uint64_t index = 0;

    if (g_str_has_prefix(name, "nbd") && g_ascii_isdigit(name[3]))
        index = g_ascii_strtoull(name + 3, &end, 10);
    if (!end || *end || index > INT32_MAX) {
        fail(error, ERR_INVALID_PARAMETER, "%s is no NBD device", path);
        return error_hint(error, "they are called /dev/nbd0, /dev/nbd1, …");
    }
    *ret = index;
    return true;
}

static bool no_client(GError **error)
{
    fail(error, ERR_UNSUPPORTED, "this host's kernel has no NBD client");
    return error_hint(error, "load it with 'modprobe nbd', where the kernel comes with it");
}

bool nbd_device_check(const char *path, GError **error)
{
    auto_fd fd = -1;
    uint16_t family;
    struct stat st;
    uint32_t index;

    if (!device_index(path, &index, error))
        return false;
    fd = open_netlink(&family);
    if (fd == -ENOENT)
        return no_client(error);
    if (fd < 0)
        return fail_errno(error, -fd, "%s: generic netlink", path);
    if (stat(path, &st) < 0)
        return fail_errno(error, errno, "%s", path);
    return S_ISBLK(st.st_mode) ||
           fail(error, ERR_INVALID_PARAMETER, "%s is no block device", path);
}

/* ---- connecting ---- */

typedef struct Connecting {
    const char *path, *name;
    BlockExports *exports;
    unsigned count;
    GError **error;
    bool ok;

    uint32_t index;
    int fds[CONNECTIONS_MAX];              /* the kernel's ends */
    uint64_t size;                         /* what the server says of the export */
    uint16_t flags;
} Connecting;

/* The handshake as the kernel wants it over: no structured replies ("NBD_OPT_EXPORT_NAME"). */
static int co_fn shake_hands(Connecting *c, NbdSocket *s)
{
    uint8_t hello[18], option[4 + NBD_OPTION_HEAD], answer[10];
    size_t length = strlen(c->name);
    struct iovec iov[] = { { option, sizeof(option) }, { (void *)c->name, length } };
    int ret = nbd_socket_read(s, hello, sizeof(hello));

    st_be32(option, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    st_be64(option + 4, NBD_MAGIC_OPTION);
    st_be32(option + 12, NBD_OPT_EXPORT_NAME);
    st_be32(option + 16, length);
    if (ret == 0)
        ret = nbd_socket_write(s, iov, length ? 2 : 1);
    if (ret == 0)
        ret = nbd_socket_read(s, answer, sizeof(answer));
    c->size = ld_be64(answer);
    c->flags = ld_be16(answer + 8);
    return ret;
}

static int co_fn make_connection(Connecting *c, int *ret_fd)
{
    NbdSocket s;
    int fds[2], ret;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return -errno;
    *ret_fd = fcntl(fds[1], F_DUPFD_CLOEXEC, 0);         /* outlives the NbdSocket */
    nbd_server_serve(c->exports, fds[0]);
    nbd_socket_init(&s, fds[1]);
    nbd_socket_attach(&s, loop_main());
    ret = *ret_fd < 0 ? -EMFILE : shake_hands(c, &s);
    nbd_socket_detach(&s);
    nbd_socket_clear(&s);
    return ret;
}

static int hand_over(void *opaque)
{
    const Connecting *c = opaque;
    uint16_t family;
    auto_fd fd = open_netlink(&family);
    auto_fd device = -1;
    struct nlattr *sockets, *item;
    Message m;
    int ret;

    if (fd < 0)
        return fd;
    message_init(&m, family, NBD_CMD_CONNECT, NBD_GENL_VERSION);
    put_u32(&m, NBD_ATTR_INDEX, c->index);
    put_u64(&m, NBD_ATTR_SIZE_BYTES, ALIGN_DOWN(c->size, SECTOR));
    put_u64(&m, NBD_ATTR_BLOCK_SIZE_BYTES, SECTOR);
    put_u64(&m, NBD_ATTR_SERVER_FLAGS, c->flags);
    sockets = open_nest(&m, NBD_ATTR_SOCKETS);
    for (unsigned i = 0; i < c->count; i++) {
        item = open_nest(&m, NBD_SOCK_ITEM);
        put_u32(&m, NBD_SOCK_FD, c->fds[i]);
        close_nest(&m, item);
    }
    close_nest(&m, sockets);
    ret = ask(fd, &m, NULL);
    if (ret < 0)
        return ret;
    device = open(c->path, O_RDONLY | O_CLOEXEC);        /* the kernel looks for partitions */
    return 0;
}

static void co_fn connect_run(void *opaque)
{
    Connecting *c = opaque;
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < c->count; i++)
        ret = make_connection(c, &c->fds[i]);
    if (ret == 0)
        ret = co_worker_call(hand_over, c);
    for (unsigned i = 0; i < c->count; i++) {
        if (c->fds[i] >= 0)
            close(c->fds[i]);              /* the kernel has its own hold on them */
    }
    c->ok = ret == 0 || fail_errno(c->error, -ret, "--connect %s", c->path);
}

bool nbd_device_connect(const char *path, BlockExports *exports, const char *name,
                        unsigned connections, GError **error)
{
    Connecting c = { .path = path, .name = name, .exports = exports,
                     .count = MIN(connections, CONNECTIONS_MAX), .error = error };

    memset(c.fds, -1, sizeof(c.fds));
    if (!device_index(path, &c.index, error))
        return false;
    co_run_sync(connect_run, &c);
    return c.ok;
}

/* ---- disconnecting ---- */

typedef struct Disconnecting {
    const char *path;
    uint32_t index;
    int ret;
} Disconnecting;

/* What the kernel holds back is written first, as long as there is a server. */
static int let_go(void *opaque)
{
    const Disconnecting *d = opaque;
    auto_fd device = open(d->path, O_RDONLY | O_CLOEXEC);
    uint16_t family;
    auto_fd fd = open_netlink(&family);
    Message m;

    if (fd < 0)
        return fd;
    if (device >= 0)
        fsync(device);
    message_init(&m, family, NBD_CMD_DISCONNECT, NBD_GENL_VERSION);
    put_u32(&m, NBD_ATTR_INDEX, d->index);
    return ask(fd, &m, NULL);
}

static void co_fn disconnect_run(void *opaque)
{
    Disconnecting *d = opaque;

    d->ret = co_worker_call(let_go, d);
}

bool nbd_device_disconnect(const char *path, GError **error)
{
    Disconnecting d = { .path = path };

    if (!nbd_device_check(path, error) || !device_index(path, &d.index, error))
        return false;
    co_run_sync(disconnect_run, &d);
    return d.ret == 0 || fail_errno(error, -d.ret, "--disconnect %s", path);
}
