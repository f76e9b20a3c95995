/* The commands of the transmission phase, and what is answered. */
#include <errno.h>
#include <string.h>
#include "block/chain.h"
#include "block/nbd/server-int.h"
#include "src/base/trace.h"
#include "src/base/util.h"

/* Reads below MAP_MIN are read without asking for holes.  A read with more than CHUNKS_MAX changes
 * between data and holes sends the rest as data; holes below HOLE_MIN are not worth a chunk. */
#define AREA_STEP (4 * GiB)
enum { STATUS_LENGTH = 8, STATUS_ID = 4 };               /* bytes of what BLOCK_STATUS brings along */
enum { MAP_MIN = 64 << 10, CHUNKS_MAX = 64, HOLE_MIN = 4096, CACHE_STEP = 1 << 20 };

/* ---- answers ---- */

static uint32_t error_of(int err)
{
    switch (err) {
    case EPERM:
    case EROFS:
    case EACCES:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

/* Bytes of a chunk's head. */
static size_t chunk_head(const NbdRequest *req)
{
    return req->conn->extended ? NBD_EXTENDED_CHUNK_HEAD : NBD_CHUNK_HEAD;
}

/* Fills it in; returns what comes behind it. */
static uint8_t *put_chunk(const NbdRequest *req, uint8_t *head, uint16_t type, bool done,
                          uint32_t length)
{
    bool extended = req->conn->extended;

    st_be32(head, extended ? NBD_MAGIC_EXTENDED_REPLY : NBD_MAGIC_STRUCTURED_REPLY);
    st_be16(head + 4, done ? NBD_REPLY_FLAG_DONE : 0);
    st_be16(head + 6, type);
    memcpy(head + 8, &req->cookie, sizeof(req->cookie));
    if (extended) {
        st_be64(head + 16, req->offset);
        st_be64(head + 24, length);
    } else {
        st_be32(head + 16, length);
    }
    return head + chunk_head(req);
}

static void put_simple(const NbdRequest *req, uint8_t *head, uint32_t error)
{
    st_be32(head, NBD_MAGIC_SIMPLE_REPLY);
    st_be32(head + 4, error);
    memcpy(head + 8, &req->cookie, sizeof(req->cookie));
}

static void reply_simple(NbdRequest *req, uint32_t error)
{
    put_simple(req, req->head, error);
    req->iov[0] = (struct iovec){ req->head, NBD_SIMPLE_REPLY_HEAD };
    req->iovcnt = 1;
    nbd_conn_reply(req);
}

/* The answer that has no data. */
static void reply_none(NbdRequest *req)
{
    put_chunk(req, req->head, NBD_REPLY_TYPE_NONE, true, 0);
    req->iov[0] = (struct iovec){ req->head, chunk_head(req) };
    req->iovcnt = 1;
    nbd_conn_reply(req);
}

/* A client that knows structured replies gets the reason in words. */
void nbd_request_fail(NbdRequest *req, uint32_t error, const char *text)
{
    size_t length = strlen(text);
    uint8_t *rest;

    g_clear_pointer(&req->more, g_free);
    g_clear_pointer(&req->more_iov, g_free);
    TRACE(nbd_request_failed, "type %u offset %" PRIu64 " length %" PRIu64 ": %u", req->type,
          req->offset, req->length, error);
    if (!req->conn->structured) {
        reply_simple(req, error);
        return;
    }
    rest = put_chunk(req, req->head, NBD_REPLY_TYPE_ERROR, true, 6 + length);
    st_be32(rest, error);
    st_be16(rest + 4, length);
    req->iov[0] = (struct iovec){ req->head, chunk_head(req) + 6 };
    req->iov[1] = (struct iovec){ (void *)text, length };    /* all callers' texts stay */
    req->iovcnt = length ? 2 : 1;
    nbd_conn_reply(req);
}

/* @ret: 0 or -errno of a command that has no data to tell. */
static void reply_done(NbdRequest *req, int ret)
{
    if (ret < 0)
        nbd_request_fail(req, error_of(-ret), g_strerror(-ret));
    else if (req->conn->extended)          /* there are no simple replies any more */
        reply_none(req);
    else
        reply_simple(req, 0);
}

/* ---- checks ---- */

/* Flags that each command may have ("Request types"). */
static const uint16_t flags_of[] = {
    [NBD_CMD_READ] = NBD_CMD_FLAG_DF | NBD_CMD_FLAG_FUA,
    [NBD_CMD_WRITE] = NBD_CMD_FLAG_FUA,
    [NBD_CMD_DISC] = UINT16_MAX,
    [NBD_CMD_FLUSH] = NBD_CMD_FLAG_FUA,
    [NBD_CMD_TRIM] = NBD_CMD_FLAG_FUA,
    [NBD_CMD_CACHE] = NBD_CMD_FLAG_FUA,
    [NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
    [NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_REQ_ONE | NBD_CMD_FLAG_FUA,
};

static bool is_write(const NbdRequest *req)
{
    return req->type == NBD_CMD_WRITE || req->type == NBD_CMD_TRIM ||
           req->type == NBD_CMD_WRITE_ZEROES;
}

static uint16_t allowed_flags(const NbdRequest *req)
{
    bool payload = req->type == NBD_CMD_WRITE || req->type == NBD_CMD_BLOCK_STATUS;

    return flags_of[req->type] | (req->conn->extended && payload ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
}

/* What a BLOCK_STATUS brings along: a length and some of the contexts.  do_status looks inside. */
static bool is_status_payload(const NbdRequest *req)
{
    uint64_t ids = (req->payload - STATUS_LENGTH) / STATUS_ID;

    return req->payload >= STATUS_LENGTH + STATUS_ID && ids <= req->conn->contexts->len &&
           (req->payload - STATUS_LENGTH) % STATUS_ID == 0;
}

uint32_t nbd_request_check(const NbdRequest *req)
{
    const NbdConn *conn = req->conn;
    bool known = req->type < G_N_ELEMENTS(flags_of);

    if (!known || req->flags & ~allowed_flags(req))
        return NBD_EINVAL;
    if (req->type == NBD_CMD_BLOCK_STATUS && req->flags & NBD_CMD_FLAG_PAYLOAD_LEN)
        return is_status_payload(req) ? 0 : NBD_EINVAL;
    if (req->flags & NBD_CMD_FLAG_DF && !conn->structured)
        return NBD_EINVAL;
    if (req->type == NBD_CMD_FLUSH)
        return 0;
    if (is_write(req) && !conn->export->writable)
        return NBD_EPERM;
    if (req->offset > conn->size || req->length > conn->size - req->offset)
        return is_write(req) ? NBD_ENOSPC : NBD_EINVAL;
    if ((req->offset | req->length) & (conn->min_block - 1))
        return NBD_EINVAL;
    if (req->type == NBD_CMD_READ && req->length > NBD_PAYLOAD_MAX)
        return NBD_EOVERFLOW;
    if (req->type == NBD_CMD_BLOCK_STATUS && (!conn->contexts->len || !req->length))
        return NBD_EINVAL;
    return 0;
}

/* ---- reading ---- */

typedef struct Part {
    uint64_t bytes;
    bool hole;
} Part;

/* Whether all of it is known to be data, so that the image need not be asked. */
static bool known_data(const NbdRequest *req)
{
    const NbdConn *conn = req->conn;

    return req->offset >= conn->data_start && req->offset + req->length <= conn->data_end;
}

/* What was data once is sent as data for ever: at worst its zeroes are sent, too. */
static void remember_data(NbdConn *conn, uint64_t start, uint64_t end)
{
    if (start == conn->data_end) {
        conn->data_end = end;
    } else {
        conn->data_start = start;
        conn->data_end = end;
    }
}

/* Cuts the request into data and holes; how many parts.  Neighbours differ. */
static unsigned co_fn find_parts(NbdRequest *req, Part *parts)
{
    NbdConn *conn = req->conn;
    uint64_t at = req->offset, end = req->offset + req->length;
    unsigned n = 0;

    while (at < end) {
        BlockMap map;
        bool hole;
        uint64_t bytes = end - at;

        /* The answer may reach past the request: data that is known then is not asked for again. */
        if (n == CHUNKS_MAX - 1 ||
            block_co_map(conn->export->user, NULL, at, conn->size - at, &map, NULL) < 0)
            map = (BlockMap){ .bytes = bytes, .flags = BLOCK_MAP_DATA };
        hole = map.flags & BLOCK_MAP_ZERO && map.bytes >= HOLE_MIN;
        if (!(map.flags & BLOCK_MAP_ZERO))
            remember_data(conn, at, at + map.bytes);
        bytes = MIN(bytes, map.bytes);
        if (n && parts[n - 1].hole == hole)
            parts[n - 1].bytes += bytes;
        else
            parts[n++] = (Part){ bytes, hole };
        at += bytes;
    }
    return n;
}

static int co_fn read_parts(NbdRequest *req, const Part *parts, unsigned count)
{
    uint64_t done = 0;
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < count; i++) {
        struct iovec iov = { (uint8_t *)req->buffer + done, parts[i].bytes };

        if (!parts[i].hole)
            ret = block_co_read(req->conn->export->user, req->offset + done, &iov, 1, iov.iov_len);
        done += parts[i].bytes;
    }
    return ret;
}

/* "NBD_REPLY_TYPE_OFFSET_DATA", "NBD_REPLY_TYPE_OFFSET_HOLE" */
static void reply_parts(NbdRequest *req, const Part *parts, unsigned count)
{
    size_t most = chunk_head(req) + 12;    /* with the offset, and a hole's length */
    uint8_t *head = req->head, *rest;
    struct iovec *iov = req->iov;
    uint64_t done = 0;

    if (count > 1) {
        head = req->more = g_malloc(count * most);
        iov = req->more_iov = g_new(struct iovec, 2 * count);
    }
    for (unsigned i = 0; i < count; i++) {
        bool hole = parts[i].hole;
        uint64_t bytes = parts[i].bytes;

        rest = put_chunk(req, head, hole ? NBD_REPLY_TYPE_OFFSET_HOLE : NBD_REPLY_TYPE_OFFSET_DATA,
                         i + 1 == count, hole ? 12 : 8 + bytes);
        st_be64(rest, req->offset + done);
        *iov++ = (struct iovec){ head, chunk_head(req) + (hole ? 12 : 8) };
        if (hole)
            st_be32(rest + 8, bytes);
        else
            *iov++ = (struct iovec){ (uint8_t *)req->buffer + done, bytes };
        done += bytes;
        head += most;
    }
    req->iovcnt = iov - (req->more_iov ? req->more_iov : req->iov);
    nbd_conn_reply(req);
}

static void reply_simple_data(NbdRequest *req)
{
    put_simple(req, req->head, 0);
    req->iov[0] = (struct iovec){ req->head, NBD_SIMPLE_REPLY_HEAD };
    req->iov[1] = (struct iovec){ req->buffer, req->length };
    req->iovcnt = 2;
    nbd_conn_reply(req);
}

static void co_fn do_read(NbdRequest *req)
{
    NbdConn *conn = req->conn;
    bool whole = !conn->structured || req->flags & NBD_CMD_FLAG_DF || req->length < MAP_MIN ||
                 known_data(req);
    Part parts[CHUNKS_MAX] = { { req->length, false } };
    unsigned count = 1;
    int ret;

    if (!req->length) {                    /* nothing to put into a chunk of data */
        if (conn->structured)
            reply_none(req);
        else
            reply_simple(req, 0);
        return;
    }
    req->buffer = nbd_conn_buffer(conn, req->length, &req->buffer_bytes);
    if (!req->buffer) {
        req->buffer_bytes = 0;
        nbd_request_fail(req, NBD_ENOMEM, "out of memory");
        return;
    }
    conn->bytes_in_flight += req->buffer_bytes;
    if (!whole)
        count = find_parts(req, parts);
    ret = read_parts(req, parts, count);
    if (ret < 0)
        nbd_request_fail(req, error_of(-ret), "reading failed");
    else if (conn->structured)
        reply_parts(req, parts, count);
    else
        reply_simple_data(req);
}

/* ---- the other commands ---- */

static int co_fn do_write(NbdRequest *req)
{
    struct iovec iov = { req->buffer, req->length };

    return block_co_write(req->conn->export->user, req->offset, &iov, 1, req->length,
                          req->flags & NBD_CMD_FLAG_FUA ? BLOCK_FUA : 0);
}

/* A long area piece by piece: its client may leave before its end comes.  Pieces end where clusters do,
 * however large. */
static int co_fn in_steps(NbdRequest *req, int co_fn (*fn)(NbdRequest *req, uint64_t at, uint64_t bytes))
{
    uint64_t at = req->offset, end = req->offset + req->length;
    int ret = 0;

    while (ret == 0 && at < end) {
        uint64_t bytes = MIN(end - at, ALIGN_DOWN(at + AREA_STEP, AREA_STEP) - at);

        if (req->conn->ended && at > req->offset)
            return -ESHUTDOWN;
        ret = fn(req, at, bytes);
        at += bytes;
    }
    return ret;
}

static int co_fn zero_step(NbdRequest *req, uint64_t at, uint64_t bytes)
{
    unsigned flags = 0;

    if (req->flags & NBD_CMD_FLAG_FUA)
        flags |= BLOCK_FUA;
    if (!(req->flags & NBD_CMD_FLAG_NO_HOLE))
        flags |= BLOCK_MAY_UNMAP;
    if (req->flags & NBD_CMD_FLAG_FAST_ZERO)
        flags |= BLOCK_NO_FALLBACK;
    return block_co_zero(req->conn->export->user, at, bytes, flags);
}

static int co_fn trim_step(NbdRequest *req, uint64_t at, uint64_t bytes)
{
    return block_co_discard(req->conn->export->user, at, bytes);
}

static int co_fn do_trim(NbdRequest *req)
{
    int ret = in_steps(req, trim_step);

    if (ret == 0 && req->flags & NBD_CMD_FLAG_FUA)
        ret = block_co_flush(req->conn->export->user);
    return ret;
}

/* "NBD_CMD_CACHE": what is read now is found faster soon. */
static int co_fn do_cache(NbdRequest *req)
{
    NbdConn *conn = req->conn;
    uint64_t at = req->offset, left = req->length;
    int ret = 0;

    req->buffer = nbd_conn_buffer(conn, MIN(MAX(left, 1), CACHE_STEP), &req->buffer_bytes);
    if (!req->buffer) {
        req->buffer_bytes = 0;
        return -ENOMEM;
    }
    conn->bytes_in_flight += req->buffer_bytes;
    while (ret == 0 && left && !conn->ended) {
        struct iovec iov = { req->buffer, MIN(left, CACHE_STEP) };

        ret = block_co_read(conn->export->user, at, &iov, 1, iov.iov_len);
        at += iov.iov_len;
        left -= iov.iov_len;
    }
    return ret;
}

static bool has_id(const GArray *ids, uint32_t id)
{
    for (unsigned i = 0; i < ids->len; i++) {
        if (g_array_index(ids, uint32_t, i) == id)
            return true;
    }
    return false;
}

/* The length and contexts that the payload names; each must have been chosen, and is named once. */
static bool take_status_payload(NbdRequest *req, GArray *ids)
{
    const NbdConn *conn = req->conn;
    const uint8_t *at = req->buffer, *end = at + req->payload;

    req->length = ld_be64(at);
    for (at += STATUS_LENGTH; at < end; at += STATUS_ID) {
        uint32_t id = ld_be32(at);

        if (!has_id(conn->contexts, id) || has_id(ids, id))
            return false;
        g_array_append_val(ids, id);
    }
    return req->length && req->offset <= conn->size && req->length <= conn->size - req->offset &&
           !((req->offset | req->length) & (conn->min_block - 1));
}

/* One chunk ("NBD_REPLY_TYPE_BLOCK_STATUS", "NBD_REPLY_TYPE_BLOCK_STATUS_EXT").  0 or -errno. */
static int co_fn put_status(NbdRequest *req, uint32_t id, bool last, GByteArray *text)
{
    bool wide = req->conn->extended;
    unsigned at = text->len, head = chunk_head(req), before = head + (wide ? 8 : 4);
    uint8_t *rest;
    int ret;

    g_byte_array_set_size(text, at + before);
    ret = nbd_context_status(req->conn->export, id, req->offset, req->length,
                             req->flags & NBD_CMD_FLAG_REQ_ONE, wide, text);
    if (ret < 0)
        return ret;
    rest = put_chunk(req, text->data + at,
                     wide ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS, last,
                     text->len - at - head);
    st_be32(rest, id);
    if (wide)
        st_be32(rest + 4, ret);            /* how many */
    return 0;
}

/* One chunk for each context. */
static void co_fn do_status(NbdRequest *req)
{
    g_autoptr(GByteArray) text = g_byte_array_new();
    g_autoptr(GArray) some = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    const GArray *ids = req->conn->contexts;
    int ret = 0;

    if (req->flags & NBD_CMD_FLAG_PAYLOAD_LEN) {
        if (!take_status_payload(req, some)) {
            nbd_request_fail(req, NBD_EINVAL, "not what can be asked for");
            return;
        }
        ids = some;
    }
    for (unsigned i = 0; ret == 0 && i < ids->len; i++)
        ret = put_status(req, g_array_index(ids, uint32_t, i), i + 1 == ids->len, text);
    if (ret < 0) {
        nbd_request_fail(req, error_of(-ret), "cannot find out what is where");
        return;
    }
    req->iov[0].iov_len = text->len;
    req->iov[0].iov_base = req->more = g_byte_array_free(g_steal_pointer(&text), FALSE);
    req->iovcnt = 1;
    nbd_conn_reply(req);
}

void co_fn nbd_request_run(void *opaque)
{
    NbdRequest *req = opaque;

    switch (req->type) {
    case NBD_CMD_READ:
        do_read(req);
        break;
    case NBD_CMD_WRITE:
        reply_done(req, do_write(req));
        break;
    case NBD_CMD_FLUSH:
        reply_done(req, block_co_flush(req->conn->export->user));
        break;
    case NBD_CMD_TRIM:
        reply_done(req, do_trim(req));
        break;
    case NBD_CMD_CACHE:
        reply_done(req, do_cache(req));
        break;
    case NBD_CMD_WRITE_ZEROES:
        reply_done(req, in_steps(req, zero_step));
        break;
    case NBD_CMD_BLOCK_STATUS:
        do_status(req);
        break;
    }
}
