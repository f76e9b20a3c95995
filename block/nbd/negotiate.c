/*
 * The handshake ("Newstyle negotiation", "Option haggling"): what the client asks for, one option
 * at a time, until it has chosen an export.  A coroutine of the main loop.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include "block/nbd/server-int.h"
#include "src/base/trace.h"
#include "src/base/util.h"
#include "src/chardev/char-addr.h"
#include "src/sandbox/authz.h"

enum { OPTION_BYTES_MAX = 64 << 10, OPTIONS_MAX = 4096 };

/* What an option's handler says of how it goes on. */
typedef enum Verdict { LOST, MORE, CHOSEN } Verdict;

typedef struct Option {
    NbdConn *conn;
    uint32_t type;
    const uint8_t *data;                   /* what is not parsed yet */
    uint32_t left;
} Option;

/* ---- sending ---- */

static int co_fn send_bytes(NbdConn *conn, const void *data, size_t bytes)
{
    struct iovec iov = { (void *)data, bytes };

    return nbd_socket_write(&conn->socket, &iov, 1);
}

static Verdict co_fn reply(const Option *opt, uint32_t type, const void *data, uint32_t bytes)
{
    uint8_t head[NBD_OPTION_REPLY_HEAD];
    struct iovec iov[] = { { head, sizeof(head) }, { (void *)data, bytes } };

    st_be64(head, NBD_MAGIC_REPLY);
    st_be32(head + 8, opt->type);
    st_be32(head + 12, type);
    st_be32(head + 16, bytes);
    return nbd_socket_write(&opt->conn->socket, iov, bytes ? 2 : 1) < 0 ? LOST : MORE;
}

static Verdict co_fn refuse(const Option *opt, uint32_t type, const char *text)
{
    TRACE(nbd_option_refused, "option %u: %s", opt->type, text);
    return reply(opt, type, text, strlen(text));
}

static Verdict co_fn ack(const Option *opt)
{
    return reply(opt, NBD_REP_ACK, NULL, 0);
}

/* ---- parsing ---- */

static bool take(Option *opt, void *to, uint32_t bytes)
{
    if (opt->left < bytes)
        return false;
    memcpy(to, opt->data, bytes);
    opt->data += bytes;
    opt->left -= bytes;
    return true;
}

static bool take_u32(Option *opt, uint32_t *ret)
{
    uint8_t bytes[4];

    if (!take(opt, bytes, sizeof(bytes)))
        return false;
    *ret = ld_be32(bytes);
    return true;
}

/* A length and so many bytes of text.  NULL: ill-formed; g_free. */
static char *take_string(Option *opt)
{
    uint32_t length;
    char *text;

    if (!take_u32(opt, &length) || length > NBD_STRING_MAX || length > opt->left ||
        memchr(opt->data, 0, length))
        return NULL;
    text = g_strndup((const char *)opt->data, length);
    opt->data += length;
    opt->left -= length;
    return text;
}

/* ---- what an export says of itself ---- */

static uint16_t export_flags(const NbdConn *conn)
{
    const BlockExport *export = conn->export;
    uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                     NBD_FLAG_SEND_CACHE;

    if (export->writable)
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    else
        flags |= NBD_FLAG_READ_ONLY;
    if (export->multi_conn)
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    if (conn->structured)
        flags |= NBD_FLAG_SEND_DF;
    if (conn->extended)
        flags |= NBD_FLAG_BLOCK_STAT_PAYLOAD;
    return flags;
}

/* Size and alignment are settled for the connection when it has chosen. */
static void choose(NbdConn *conn, BlockExport *export)
{
    int64_t size = block_node_size(block_user_node(export->user));

    conn->export = export;
    conn->size = MAX(size, 0);
}

static Verdict co_fn send_export_info(Option *opt)
{
    uint8_t info[12];

    st_be16(info, NBD_INFO_EXPORT);
    st_be64(info + 2, opt->conn->size);
    st_be16(info + 10, export_flags(opt->conn));
    return reply(opt, NBD_REP_INFO, info, sizeof(info));
}

static Verdict co_fn send_text_info(Option *opt, uint16_t what, const char *text)
{
    g_autoptr(GByteArray) info = g_byte_array_new();
    uint8_t head[2];

    st_be16(head, what);
    g_byte_array_append(info, head, sizeof(head));
    g_byte_array_append(info, (const uint8_t *)text, strlen(text));
    return reply(opt, NBD_REP_INFO, info->data, info->len);
}

/* Who asks for block sizes promises to keep to them, and is told what is best; all others may do
 * what they like ("Block size constraints"). */
static Verdict co_fn send_block_size(Option *opt, bool asked)
{
    BlockLimits limits = block_node_limits(block_user_node(opt->conn->export->user));
    uint32_t least = asked ? MIN(MAX(limits.request_alignment, 1), 65536) : 1;
    uint32_t best = MAX(MAX(limits.optimal_io, 4096), least);
    uint8_t info[14];

    opt->conn->min_block = least;
    st_be16(info, NBD_INFO_BLOCK_SIZE);
    st_be32(info + 2, least);
    st_be32(info + 6, is_power_of_2(best) && best <= NBD_PAYLOAD_MAX ? best : 4096);
    st_be32(info + 10, NBD_PAYLOAD_MAX);
    return reply(opt, NBD_REP_INFO, info, sizeof(info));
}

/* ---- options ---- */

/* No reply but the export, or the end.  The client has no say in anything else. */
static Verdict co_fn opt_export_name(Option *opt)
{
    NbdConn *conn = opt->conn;
    g_autofree char *name = opt->left > NBD_STRING_MAX || memchr(opt->data, 0, opt->left)
                                ? NULL
                                : g_strndup((const char *)opt->data, opt->left);
    BlockExport *export = name ? block_export_find_name(conn->server->exports, name) : NULL;
    uint8_t answer[10 + 124] = { 0 };

    if (!export || conn->extended) {       /* who knows extended headers knows GO, and must use it */
        TRACE(nbd_no_export, "'%s'", name ? name : "?");
        return LOST;
    }
    choose(conn, block_export_ref(export));
    conn->min_block = 1;
    st_be64(answer, conn->size);
    st_be16(answer + 8, export_flags(conn));
    if (send_bytes(conn, answer, conn->no_zeroes ? 10 : sizeof(answer)) < 0) {
        conn->export = NULL;
        block_export_unref(export);
        return LOST;
    }
    return CHOSEN;
}

/* "NBD_OPT_INFO and NBD_OPT_GO": a name, and numbers of what the client wants to know. */
static Verdict co_fn opt_info(Option *opt)
{
    NbdConn *conn = opt->conn;
    g_autofree char *name = take_string(opt);
    bool want_name = false, want_description = false, want_block_size = false;
    BlockExport *export;
    Verdict verdict;
    uint8_t number[2];

    if (!name || !take(opt, number, 2) || opt->left != 2u * ld_be16(number))
        return refuse(opt, NBD_REP_ERR_INVALID, "ill-formed request");
    while (take(opt, number, 2)) {
        want_name |= ld_be16(number) == NBD_INFO_NAME;
        want_description |= ld_be16(number) == NBD_INFO_DESCRIPTION;
        want_block_size |= ld_be16(number) == NBD_INFO_BLOCK_SIZE;
    }
    export = block_export_find_name(conn->server->exports, name);
    if (!export) {
        g_autofree char *text = g_strdup_printf("export '%s' not present", name);

        return refuse(opt, NBD_REP_ERR_UNKNOWN, text);
    }
    choose(conn, block_export_ref(export));
    verdict = MORE;
    if (want_name)
        verdict = send_text_info(opt, NBD_INFO_NAME, export->name);
    if (verdict == MORE && want_description && export->description)
        verdict = send_text_info(opt, NBD_INFO_DESCRIPTION, export->description);
    if (verdict == MORE)
        verdict = send_block_size(opt, want_block_size);
    if (verdict == MORE)
        verdict = send_export_info(opt);
    if (verdict == MORE)
        verdict = ack(opt);
    if (verdict == MORE && opt->type == NBD_OPT_GO)
        return CHOSEN;
    conn->export = NULL;
    block_export_unref(export);
    return verdict;
}

static void add_export(BlockExport *export, void *opaque)
{
    g_ptr_array_add(opaque, block_export_ref(export));
}

static void unref_export(void *export)
{
    block_export_unref(export);
}

/* The exports are held: sending waits. */
static Verdict co_fn opt_list(Option *opt)
{
    g_autoptr(GPtrArray) exports = g_ptr_array_new_with_free_func(unref_export);

    if (opt->left)
        return refuse(opt, NBD_REP_ERR_INVALID, "this option has no data");
    block_exports_foreach(opt->conn->server->exports, add_export, exports);
    for (unsigned i = 0; i < exports->len; i++) {
        const BlockExport *export = exports->pdata[i];
        g_autoptr(GByteArray) text = g_byte_array_new();
        uint8_t length[4];

        st_be32(length, strlen(export->name));
        g_byte_array_append(text, length, sizeof(length));
        g_byte_array_append(text, (const uint8_t *)export->name, strlen(export->name));
        if (export->description)
            g_byte_array_append(text, (const uint8_t *)export->description,
                                strlen(export->description));
        if (reply(opt, NBD_REP_SERVER, text->data, text->len) == LOST)
            return LOST;
    }
    return ack(opt);
}

static void forget_contexts(NbdConn *conn)
{
    g_array_set_size(conn->contexts, 0);
    g_clear_pointer(&conn->context_export, block_export_unref);
}

/* Where a client is, for the log: an address, or a process of this host; g_free. */
static char *whereabouts(int fd)
{
    struct ucred who;
    socklen_t length = sizeof(who);

    if (!char_addr_is_unix(fd) || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) < 0)
        return char_addr_of_socket(fd, true);
    return g_strdup_printf("process %d of user %u", (int)who.pid, who.uid);
}

/* Who has shown who it is may still not be one of those who may come in. */
static bool co_fn authorize(NbdConn *conn)
{
    Object *root = object_root((Object *)conn->server->exports);
    g_autoptr(GError) error = NULL;
    g_autofree char *who = NULL, *where = NULL;

    if (!conn->server->authz)
        return true;
    who = tls_session_peer(conn->socket.tls, &error);
    if (who && authz_allows(root, conn->server->authz, who, &error)) {
        TRACE(nbd_authorized, "connection %p: '%s'", (void *)conn, who);
        return true;
    }
    where = whereabouts(conn->socket.fd);
    TRACE(nbd_unauthorized, "connection %p: %s", (void *)conn, error->message);
    warn_report("NBD: a client (%s) is turned away: %s", where, error->message);
    nbd_socket_refuse(&conn->socket);
    return false;
}

static Verdict co_fn opt_starttls(Option *opt)
{
    NbdConn *conn = opt->conn;
    g_autoptr(GError) error = NULL;

    if (opt->left)
        return refuse(opt, NBD_REP_ERR_INVALID, "this option has no data");
    if (!conn->server->keys)
        return refuse(opt, NBD_REP_ERR_POLICY, "TLS not configured");
    if (conn->socket.tls)
        return refuse(opt, NBD_REP_ERR_INVALID, "TLS already enabled");
    if (conn->socket.end > conn->socket.start)
        return LOST;                       /* plain text smuggled in before the handshake */
    if (ack(opt) == LOST)
        return LOST;
    if (!nbd_socket_start_tls(&conn->socket, conn->server->keys, &error)) {
        TRACE(nbd_tls_failed, "%s", error->message);
        return LOST;
    }
    if (!authorize(conn))
        return LOST;
    /* What was agreed on before may be a man in the middle's word. */
    conn->structured = conn->extended = false;
    forget_contexts(conn);
    return MORE;
}

static Verdict co_fn opt_structured_reply(Option *opt)
{
    if (opt->left)
        return refuse(opt, NBD_REP_ERR_INVALID, "this option has no data");
    if (opt->conn->extended)
        return refuse(opt, NBD_REP_ERR_EXT_HEADER_REQD, "extended headers were agreed on");
    opt->conn->structured = true;
    return ack(opt);
}

/* All that structured replies are, and more. */
static Verdict co_fn opt_extended_headers(Option *opt)
{
    if (opt->left)
        return refuse(opt, NBD_REP_ERR_INVALID, "this option has no data");
    if (opt->conn->extended)
        return refuse(opt, NBD_REP_ERR_INVALID, "extended headers were agreed on already");
    opt->conn->structured = opt->conn->extended = true;
    return ack(opt);
}

/* The names chosen by the queries; false: ill-formed. */
static bool parse_queries(Option *opt, const BlockExport *export, bool list, GArray *ids)
{
    uint32_t count;

    if (!take_u32(opt, &count))
        return false;
    if (!count && list)
        nbd_context_match(export, "", true, ids);
    for (; count; count--) {
        g_autofree char *query = take_string(opt);

        if (!query)
            return false;
        if (*query)
            nbd_context_match(export, query, list, ids);
    }
    return !opt->left;
}

/* A list's contexts have no number yet. */
static Verdict co_fn send_context(Option *opt, const BlockExport *export, uint32_t id, bool list)
{
    g_autofree char *name = nbd_context_name(export, id);
    g_autoptr(GByteArray) text = g_byte_array_new();
    uint8_t number[4];

    st_be32(number, list ? 0 : id);
    g_byte_array_append(text, number, sizeof(number));
    g_byte_array_append(text, (const uint8_t *)name, strlen(name));
    return reply(opt, NBD_REP_META_CONTEXT, text->data, text->len);
}

/* "NBD_OPT_LIST_META_CONTEXT", "NBD_OPT_SET_META_CONTEXT" */
static Verdict co_fn opt_meta_context(Option *opt)
{
    bool list = opt->type == NBD_OPT_LIST_META_CONTEXT;
    NbdConn *conn = opt->conn;
    g_autoptr(GArray) ids = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    g_autofree char *name = NULL;
    BlockExport *export;
    Verdict verdict = MORE;

    if (!list)
        forget_contexts(conn);
    if (!conn->structured)
        return refuse(opt, NBD_REP_ERR_INVALID, "structured replies must be agreed on first");
    name = take_string(opt);
    if (!name)
        return refuse(opt, NBD_REP_ERR_INVALID, "ill-formed request");
    export = block_export_find_name(conn->server->exports, name);
    if (!export)
        return refuse(opt, NBD_REP_ERR_UNKNOWN, "there is no such export");
    if (!parse_queries(opt, export, list, ids))
        return refuse(opt, NBD_REP_ERR_INVALID, "ill-formed request");
    block_export_ref(export);
    for (unsigned i = 0; verdict == MORE && i < ids->len; i++)
        verdict = send_context(opt, export, g_array_index(ids, uint32_t, i), list);
    if (!list) {
        g_array_append_vals(conn->contexts, ids->data, ids->len);
        conn->context_export = block_export_ref(export);
    }
    block_export_unref(export);
    return verdict == LOST ? LOST : ack(opt);
}

/* ---- haggling ---- */

static Verdict co_fn handle(Option *opt)
{
    NbdConn *conn = opt->conn;

    if (conn->server->keys && !conn->own && !conn->socket.tls && opt->type != NBD_OPT_STARTTLS &&
        opt->type != NBD_OPT_ABORT)
        return opt->type == NBD_OPT_EXPORT_NAME
                   ? LOST
                   : refuse(opt, NBD_REP_ERR_TLS_REQD, "this server needs TLS");
    switch (opt->type) {
    case NBD_OPT_EXPORT_NAME:
        return opt_export_name(opt);
    case NBD_OPT_ABORT:
        ack(opt);
        return LOST;
    case NBD_OPT_LIST:
        return opt_list(opt);
    case NBD_OPT_STARTTLS:
        return opt_starttls(opt);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return opt_info(opt);
    case NBD_OPT_STRUCTURED_REPLY:
        return opt_structured_reply(opt);
    case NBD_OPT_EXTENDED_HEADERS:
        return opt_extended_headers(opt);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return opt_meta_context(opt);
    default:
        return refuse(opt, NBD_REP_ERR_UNSUP, "unsupported option");
    }
}

static Verdict co_fn one_option(NbdConn *conn)
{
    uint8_t head[NBD_OPTION_HEAD];
    Option opt = { .conn = conn };

    if (nbd_socket_read(&conn->socket, head, sizeof(head)) < 0 || ld_be64(head) != NBD_MAGIC_OPTION)
        return LOST;
    opt.type = ld_be32(head + 8);
    opt.left = ld_be32(head + 12);
    if (opt.left > OPTION_BYTES_MAX) {
        if (opt.type == NBD_OPT_EXPORT_NAME || nbd_socket_skip(&conn->socket, opt.left) < 0)
            return LOST;
        return refuse(&opt, NBD_REP_ERR_TOO_BIG, "option is too long");
    }
    g_byte_array_set_size(conn->payload, opt.left);
    if (nbd_socket_read(&conn->socket, conn->payload->data, opt.left) < 0)
        return LOST;
    opt.data = opt.left ? conn->payload->data : (const uint8_t *)"";
    return handle(&opt);
}

/* A client without NBD_FLAG_C_FIXED_NEWSTYLE knows nothing but NBD_OPT_EXPORT_NAME: that will do. */
static bool co_fn greet(NbdConn *conn)
{
    uint8_t hello[18], flags[4];
    uint32_t known = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES;

    st_be64(hello, NBD_MAGIC_INIT);
    st_be64(hello + 8, NBD_MAGIC_OPTION);
    st_be16(hello + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    if (send_bytes(conn, hello, sizeof(hello)) < 0 ||
        nbd_socket_read(&conn->socket, flags, sizeof(flags)) < 0 || ld_be32(flags) & ~known)
        return false;
    conn->no_zeroes = ld_be32(flags) & NBD_FLAG_C_NO_ZEROES;
    return true;
}

bool co_fn nbd_negotiate(NbdConn *conn)
{
    Verdict verdict = MORE;

    if (!greet(conn))
        return false;
    for (unsigned i = 0; verdict == MORE && i < OPTIONS_MAX; i++) {
        verdict = one_option(conn);
        co_pause();                        /* who sends many of them does not keep the loop from the others */
    }
    if (verdict != CHOSEN)
        return false;
    /* Contexts count for the export that they were chosen of. */
    if (conn->context_export != conn->export)
        forget_contexts(conn);
    return true;
}
