/*
 * The NBD server's input: what a client sends.  The first byte says how far a well-behaved client has
 * come before: 0: nothing was said; 1: greeted; 2: has chosen the export; 3: the same with structured
 * replies and all metadata contexts.  With 4 added, the rest is not sent as it is, but makes options (0, 1)
 * or requests (2, 3) whose heads are well formed.  With 8 added, 3 has extended headers.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "block/bitmap.h"
#include "block/export.h"
#include "block/nbd/proto.h"
#include "src/base/util.h"
#include "tests/fuzz/fuzz.h"

enum { DISK_BYTES = 1 << 20 };

typedef struct World {
    Object *root;
    BlockExports *exports;
} World;

static json_object *parse(const char *text)
{
    json_object *options = options_parse(text, NULL, NULL);

    g_assert_nonnull(options);
    return options;
}

static World *world_new(void)
{
    World *w = g_new0(World, 1);
    NbdServerOptions options = { .max_connections = 4 };
    g_autoptr(json_object) disk = parse("driver=null-co,node-name=disk,read-zeroes=on,size=1M");
    g_autoptr(json_object) export = parse("{\"type\": \"nbd\", \"id\": \"e\", \"node-name\": \"disk\","
                                          "\"name\": \"\", \"writable\": true, \"bitmaps\": [\"b\"],"
                                          "\"allocation-depth\": true}");
    BlockGraph *graph;
    BlockNode *node;
    bool ok;

    w->root = object_new_by_name("container", NULL);
    graph = block_graph_new(w->root, NULL);
    node = block_node_open(graph, disk, NULL);
    g_assert_nonnull(node);
    g_assert_nonnull(block_bitmap_new(node, "b", 4096, NULL));
    w->exports = block_exports_of(w->root);
    ok = nbd_server_start(w->exports, &options, NULL) && block_export_add(w->exports, export, NULL);
    g_assert_true(ok);
    return w;
}

static void say(GByteArray *out, uint32_t option, const char *data, uint32_t length)
{
    uint8_t head[16];

    st_be64(head, NBD_MAGIC_OPTION);
    st_be32(head + 8, option);
    st_be32(head + 12, length);
    g_byte_array_append(out, head, sizeof(head));
    g_byte_array_append(out, (const uint8_t *)data, length);
}

static void introduce(GByteArray *out, unsigned how, bool extended)
{
    static const char contexts[] = "\0\0\0\0\0\0\0\3\0\0\0\17base:allocation\0\0\0\25"
                                   "qemu:allocation-depth\0\0\0\23qemu:dirty-bitmap:b";

    if (how >= 1)
        g_byte_array_append(out, (const uint8_t *)"\0\0\0\3", 4);
    if (how >= 3) {
        say(out, extended ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY, NULL, 0);
        say(out, NBD_OPT_SET_META_CONTEXT, contexts, sizeof(contexts) - 1);
    }
    if (how >= 2)
        say(out, NBD_OPT_GO, "\0\0\0\0\0\0", 6);
}

/* The next @length bytes of the input, or what is left of it. */
static void put_piece(GByteArray *out, Input *in, uint64_t length)
{
    length = MIN(length, (uint64_t)(in->end - in->p));
    g_byte_array_append(out, in->p, length);
    in->p += length;
}

static void compose_option(GByteArray *out, Input *in)
{
    uint32_t option = take(in, 1) % 12, length = take(in, 1);

    length = MIN(length, in->end - in->p);
    say(out, option, (const char *)in->p, length);
    in->p += length;
}

/* Offsets and lengths near the disk's ends and the limits are more interesting than others. */
static void compose_request(GByteArray *out, Input *in, bool extended)
{
    static const uint32_t lengths[] = { 0, 1, 512, 4096, 65536, DISK_BYTES, NBD_PAYLOAD_MAX, UINT32_MAX };
    uint8_t head[NBD_EXTENDED_REQUEST_HEAD];
    unsigned type = take(in, 1) % 9, how = take(in, 1);
    uint64_t length = how & 8 ? take(in, 2) : lengths[how & 7];
    uint64_t offset = how & 16 ? take(in, 8) : take(in, 3);
    uint16_t flags = how & 32 ? take(in, 2) : 0;

    if (extended && how & 128)
        length = take(in, 8);
    st_be32(head, extended ? NBD_MAGIC_EXTENDED_REQUEST : NBD_MAGIC_REQUEST);
    st_be16(head + 4, flags);
    st_be16(head + 6, type);
    st_be64(head + 8, out->len);
    st_be64(head + 16, offset);
    if (extended)
        st_be64(head + 24, length);
    else
        st_be32(head + 24, length);
    g_byte_array_append(out, head, extended ? NBD_EXTENDED_REQUEST_HEAD : NBD_REQUEST_HEAD);
    if (type != NBD_CMD_WRITE && !(extended && flags & NBD_CMD_FLAG_PAYLOAD_LEN))
        return;
    if (how & 64) {                        /* the payload that was promised, or less */
        put_piece(out, in, length);
    } else if (length <= 65536) {
        g_byte_array_set_size(out, out->len + length);
        memset(out->data + out->len - length, 0x55, length);
    }
}

static void compose(GByteArray *out, Input *in, bool requests, bool extended)
{
    while (in->p < in->end && out->len < 1 << 20) {
        if (requests)
            compose_request(out, in, extended);
        else
            compose_option(out, in);
    }
}

/* False: the server has closed. */
static bool listen_to(int fd)
{
    uint8_t waste[65536];
    ssize_t n;

    do {
        n = recv(fd, waste, sizeof(waste), MSG_DONTWAIT);
    } while (n > 0);
    return n < 0 && errno == EAGAIN;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static World *world;
    g_autoptr(GByteArray) out = g_byte_array_new();
    size_t sent = 0;
    int fds[2];

    if (!world)
        world = world_new();
    if (!size || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
        return 0;
    fuzz_limit_cpu();
    if (data[0] & 4) {
        Input in = { data + 1, data + size };

        introduce(out, MAX(data[0] % 4, 1), data[0] & 8);
        compose(out, &in, data[0] & 2, data[0] & 8 && data[0] % 4 == 3);
    } else {
        introduce(out, data[0] % 4, data[0] & 8);
        g_byte_array_append(out, data + 1, size - 1);
    }
    nbd_server_serve(world->exports, fds[1]);
    while (listen_to(fds[0])) {
        ssize_t n = sent < out->len ? send(fds[0], out->data + sent, out->len - sent,
                                           MSG_DONTWAIT | MSG_NOSIGNAL)
                                    : 0;

        sent += MAX(n, 0);
        if (sent == out->len)
            shutdown(fds[0], SHUT_WR);
        loop_iterate(loop_main(), true);
    }
    close(fds[0]);
    while (loop_iterate(loop_main(), false))
        continue;
    return 0;
}
