/*
 * The NBD client's input: what a server sends.  First byte odd: a well-formed handshake comes before;
 * the next bytes choose its flags and size.  Then requests are made, whatever has become of it.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "block/chain.h"
#include "block/nbd/proto.h"
#include "src/base/fdset.h"
#include "src/base/util.h"
#include "tests/fuzz/fuzz.h"

typedef struct World {
    Object *root;
    BlockGraph *graph;
} World;

static World *world_new(void)
{
    World *w = g_new0(World, 1);

    w->root = object_new_by_name("container", NULL);
    w->graph = block_graph_new(w->root, NULL);
    return w;
}

static void put_reply(GByteArray *out, uint32_t option, uint32_t type, const void *data,
                      uint32_t length)
{
    uint8_t head[20];

    st_be64(head, NBD_MAGIC_REPLY);
    st_be32(head + 8, option);
    st_be32(head + 12, type);
    st_be32(head + 16, length);
    g_byte_array_append(out, head, sizeof(head));
    g_byte_array_append(out, data, length);
}

/* What libnbd asks for, in its order. */
static void put_handshake(GByteArray *out, Input *in)
{
    uint8_t hello[18], info[12];

    st_be64(hello, NBD_MAGIC_INIT);
    st_be64(hello + 8, NBD_MAGIC_OPTION);
    st_be16(hello + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    g_byte_array_append(out, hello, sizeof(hello));
    put_reply(out, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
    put_reply(out, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0\1base:allocation", 19);
    put_reply(out, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, NULL, 0);
    st_be16(info, NBD_INFO_EXPORT);
    st_be64(info + 2, take(in, 3));
    st_be16(info + 10, take(in, 2) | NBD_FLAG_HAS_FLAGS);
    put_reply(out, NBD_OPT_GO, NBD_REP_INFO, info, sizeof(info));
    put_reply(out, NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
}

static void co_fn use(void *opaque)
{
    BlockNode *node = opaque;
    uint64_t size = block_node_size(node), bytes = MIN(size, 65536);
    g_autofree uint8_t *buffer = g_malloc(65536);
    struct iovec iov[] = { { buffer, bytes / 2 }, { buffer + bytes / 2, bytes - bytes / 2 } };
    struct iovec small = { buffer, MIN(bytes, 512) };
    BlockMap map;

    if (!bytes)
        return;
    block_node_co_map(node, 0, size, &map);
    block_node_co_read(node, 0, &small, 1, small.iov_len);
    block_node_co_read(node, size - bytes, iov, 2, bytes);
    block_node_co_write(node, 0, &small, 1, small.iov_len, BLOCK_FUA);
    block_node_co_zero(node, 0, bytes, BLOCK_MAY_UNMAP);
    block_node_co_discard(node, 0, bytes);
    block_node_co_flush(node);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static World *world;
    g_autoptr(json_object) options = NULL;
    g_autoptr(GByteArray) out = g_byte_array_new();
    Input in = { data, data + size };
    BlockNode *node;
    int fds[2];

    if (!world)
        world = world_new();
    if (size > 65536 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
        return 0;
    fuzz_limit_cpu();
    if (take(&in, 1) % 2)
        put_handshake(out, &in);
    g_byte_array_append(out, in.p, in.end - in.p);
    if (send(fds[0], out->data, out->len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        out->len = 0;
    shutdown(fds[0], SHUT_WR);
    fd_name_put("peer", fds[1], NULL);
    options = options_parse("driver=nbd,node-name=disk,server.type=fd,server.str=peer", NULL, NULL);
    node = block_node_open(world->graph, options, NULL);
    if (node) {
        co_run_sync(use, node);
        block_node_delete(world->graph, "disk", NULL);
    }
    close(fds[0]);
    return 0;
}
