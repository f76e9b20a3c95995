/*
 * The block device's data plane (virtio 1.2, 5.2.6): from a kick to the interrupt, in the queue's
 * loop and without a lock or an allocation.  A kick takes what is in the ring, some in a turn; each
 * request, or several that are adjacent on the disk, is a coroutine; what completes in one turn of the
 * loop is published together by a bottom half.
 */
#include "hw/virtio/virtio-blk-int.h"
#include "src/base/trace.h"
#include "src/base/util.h"

enum { HEADER_SIZE = sizeof(struct virtio_blk_outhdr), STATUS_SIZE = 1 };

/* Taken in one turn of the loop: the driver gets these answers while the next are being read.  So it is
 * also the most that are merged. */
enum { TURN_REQUESTS = 8 };

/* ---- The pool ---- */

void virtio_blk_queue_init(BlkQueue *q, VirtioBlk *blk, Virtqueue *vq, unsigned iov_max)
{
    q->blk = blk;
    q->vq = vq;
    q->stride =
        ALIGN_UP(sizeof(BlkRequest) + iov_max * (sizeof(struct iovec) + sizeof(uint64_t)), 64);
    /* One more than the ring holds: then it is virtq_pop that finds a ring which holds too many. */
    q->pool_size = vq->max_size + 1;
    q->pool = g_malloc0_n(q->pool_size, q->stride);
    virtio_blk_queue_clear(q);
}

void virtio_blk_queue_clear(BlkQueue *q)
{
    q->fresh = 0;
    q->free = q->parked = NULL;
    q->parked_tail = &q->parked;
    q->in_flight = 0;
}

void virtio_blk_queue_free(BlkQueue *q)
{
    g_clear_pointer(&q->pool, g_free);
}

static BlkRequest *request_get(BlkQueue *q)
{
    BlkRequest *req = q->free;

    if (G_LIKELY(req)) {
        q->free = req->next;
        return req;
    }
    if (q->fresh == q->pool_size)
        return NULL;
    req = (BlkRequest *)(q->pool + q->stride * q->fresh++);
    req->q = q;
    req->chain.iov_max = (q->stride - sizeof(*req)) / (sizeof(struct iovec) + sizeof(uint64_t));
    req->chain.iov = (struct iovec *)(req + 1);
    req->chain.gpa = (uint64_t *)(req->chain.iov + req->chain.iov_max);
    return req;
}

static void request_put(BlkRequest *req)
{
    req->next = req->q->free;
    req->q->free = req;
}

static void park(BlkRequest *req)
{
    req->next = NULL;
    *req->q->parked_tail = req;
    req->q->parked_tail = &req->next;
}

/* ---- Header, data, status ---- */

static bool is_data_out(const BlkRequest *req)
{
    return req->type == VIRTIO_BLK_T_OUT || req->type == VIRTIO_BLK_T_DISCARD ||
           req->type == VIRTIO_BLK_T_WRITE_ZEROES;
}

/*
 * The driver may lay out its buffers as it likes (2.7.4): the header is the first 16 readable
 * bytes, the status the last writable one.  The data between them is used in place, with the ends
 * of its first or last iovec moved until untrim.
 */
static void trim(BlkRequest *req)
{
    struct iovec *iov = req->chain.iov;

    if (is_data_out(req)) {
        unsigned first = 0, rest = HEADER_SIZE;
        while (first < req->chain.out_num && rest >= iov[first].iov_len)
            rest -= iov[first++].iov_len;
        req->data = iov + first;
        req->data_num = req->chain.out_num - first;
        req->data_bytes = req->chain.out_bytes - HEADER_SIZE;
        req->header_rest = rest;
        if (rest) {
            iov[first].iov_base = (char *)iov[first].iov_base + rest;
            iov[first].iov_len -= rest;
        }
        return;
    }
    struct iovec *last = iov + req->chain.out_num + req->chain.in_num - 1;
    req->data = iov + req->chain.out_num;
    last->iov_len -= STATUS_SIZE;
    req->data_num = req->chain.in_num - !last->iov_len;
    req->data_bytes = req->chain.in_bytes - STATUS_SIZE;
}

static void untrim(BlkRequest *req)
{
    if (!is_data_out(req)) {
        req->chain.iov[req->chain.out_num + req->chain.in_num - 1].iov_len += STATUS_SIZE;
    } else if (req->header_rest) {
        req->data->iov_base = (char *)req->data->iov_base - req->header_rest;
        req->data->iov_len += req->header_rest;
    }
}

/* ---- Completion ---- */

static void flush_bh(void *opaque)
{
    BlkQueue *q = opaque;
    virtq_flush(q->vq);
}

static void request_done(BlkQueue *q)
{
    if (__atomic_sub_fetch(&q->in_flight, 1, __ATOMIC_SEQ_CST) == 0 &&
        __atomic_load_n(&q->blk->draining, __ATOMIC_SEQ_CST))
        loop_kick(loop_main());
}

/* The trimmed request @req is finished. */
static void complete(BlkRequest *req, uint8_t status)
{
    BlkQueue *q = req->q;
    VirtqChain *chain = &req->chain;
    unsigned last = chain->out_num + chain->in_num - 1;
    size_t at;
    /* 2.7.8.2: len bytes from the first on have been written.  Of a failed read that is none: the
     * status comes behind its data, which may be gigabytes and is left alone. */
    bool whole = status == VIRTIO_BLK_S_OK || !req->data_bytes || is_data_out(req);

    untrim(req);
    at = chain->iov[last].iov_len - 1;
    *((uint8_t *)chain->iov[last].iov_base + at) = status;
    if (!whole)
        dma_dirty(q->vq->as, chain->gpa[last] + at, 1);
    virtq_push(q->vq, chain, whole ? chain->in_bytes : 0);
    request_put(req);
    loop_bh_schedule(&q->flush_bh);
    request_done(q);
}

/* An error of the image, not of the request: as rerror= and werror= say. */
static void finish(BlkRequest *req, int ret)
{
    VirtioBlk *blk = req->q->blk;

    if (G_LIKELY(!ret)) {
        complete(req, VIRTIO_BLK_S_OK);
        return;
    }
    TRACE(virtio_blk_error, "%s: type %u sector %" PRIu64 ": %d", virtio_name(&blk->vdev),
          req->type, req->sector, ret);
    switch (block_user_error_action(blk->user, req->type == VIRTIO_BLK_T_IN, -ret)) {
    case BLOCK_ERROR_REPORT:
        complete(req, VIRTIO_BLK_S_IOERR);
        break;
    case BLOCK_ERROR_IGNORE:
        complete(req, VIRTIO_BLK_S_OK);
        break;
    case BLOCK_ERROR_STOP:
        untrim(req);
        park(req);
        machine_request(blk->vdev.dev.machine, MACHINE_STOP, "io-error");
        request_done(req->q);
        break;
    }
}

/* ---- Requests ---- */

/* 5.2.6.2: whole blocks, inside of the device. */
static bool range_ok(const VirtioBlk *blk, uint64_t sector, uint64_t bytes)
{
    uint64_t capacity = __atomic_load_n(&blk->capacity, __ATOMIC_RELAXED);
    uint64_t block_mask = blk->logical_block_size - 1;

    return !(bytes & block_mask) && !(sector * SECTOR_SIZE & block_mask) && sector <= capacity &&
           bytes / SECTOR_SIZE <= capacity - sector;
}

static bool data_ok(const BlkRequest *req)
{
    const VirtioBlk *blk = req->q->blk;

    return range_ok(blk, req->sector, req->data_bytes) &&
           !(req->type == VIRTIO_BLK_T_OUT && blk->vdev.host_features & 1ull << VIRTIO_BLK_F_RO);
}

static void co_fn read_or_write(BlkRequest *req)
{
    VirtioBlk *blk = req->q->blk;
    bool read = req->type == VIRTIO_BLK_T_IN;
    uint64_t offset = req->sector * SECTOR_SIZE;

    if (!data_ok(req)) {
        block_user_account_invalid(blk->user, read ? BLOCK_ACCT_READ : BLOCK_ACCT_WRITE);
        complete(req, VIRTIO_BLK_S_IOERR);
        return;
    }
    finish(req,
           read ? block_co_read(blk->user, offset, req->data, req->data_num, req->data_bytes)
                : block_co_write(blk->user, offset, req->data, req->data_num, req->data_bytes, 0));
}

/* What a discard or write-zeroes request asks for; its status if that is refused (5.2.6.2). */
static uint8_t parse_segment(BlkRequest *req, struct virtio_blk_discard_write_zeroes *s)
{
    VirtioBlk *blk = req->q->blk;
    bool zero = req->type == VIRTIO_BLK_T_WRITE_ZEROES;

    if (!virtio_has_feature(&blk->vdev, zero ? VIRTIO_BLK_F_WRITE_ZEROES : VIRTIO_BLK_F_DISCARD))
        return VIRTIO_BLK_S_UNSUPP;
    /* max_discard_seg and max_write_zeroes_seg are 1. */
    if (req->data_bytes != sizeof(*s))
        return req->data_bytes && req->data_bytes % sizeof(*s) == 0 ? VIRTIO_BLK_S_IOERR
                                                                    : VIRTIO_BLK_S_UNSUPP;
    /* Counted from the start of the chain; its first iovec may have been moved by trim. */
    virtq_chain_read(&req->chain, HEADER_SIZE - req->header_rest, s, sizeof(*s));
    return VIRTIO_BLK_S_OK;
}

static void co_fn discard_or_zero(BlkRequest *req)
{
    VirtioBlk *blk = req->q->blk;
    bool zero = req->type == VIRTIO_BLK_T_WRITE_ZEROES;
    BlockAcct what = zero ? BLOCK_ACCT_ZERO : BLOCK_ACCT_UNMAP;
    struct virtio_blk_discard_write_zeroes s;
    uint8_t status = parse_segment(req, &s);

    if (status == VIRTIO_BLK_S_OK) {
        s.sector = GUINT64_FROM_LE(s.sector);
        s.num_sectors = GUINT32_FROM_LE(s.num_sectors);
        s.flags = GUINT32_FROM_LE(s.flags);
        /* Unknown flags, and unmap on a discard, are refused with UNSUPP (5.2.6.2). */
        if (s.flags & ~(zero ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
            status = VIRTIO_BLK_S_UNSUPP;
        else if (s.num_sectors >
                     (zero ? blk->max_write_zeroes_sectors : blk->max_discard_sectors) ||
                 !range_ok(blk, s.sector, (uint64_t)s.num_sectors * SECTOR_SIZE) ||
                 blk->vdev.host_features & 1ull << VIRTIO_BLK_F_RO)
            status = VIRTIO_BLK_S_IOERR;
    }
    if (status != VIRTIO_BLK_S_OK) {
        block_user_account_invalid(blk->user, what);
        complete(req, status);
        return;
    }
    uint64_t offset = s.sector * SECTOR_SIZE, bytes = (uint64_t)s.num_sectors * SECTOR_SIZE;
    unsigned flags = s.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP ? BLOCK_MAY_UNMAP : 0;
    finish(req, zero ? block_co_zero(blk->user, offset, bytes, flags)
                     : block_co_discard(blk->user, offset, bytes));
}

static void get_id(BlkRequest *req)
{
    char id[VIRTIO_BLK_ID_BYTES] = { 0 };
    const char *serial = req->q->blk->serial;

    if (serial)
        memcpy(id, serial, MIN(strlen(serial), sizeof(id)));
    virtq_chain_write(&req->chain, 0, id, MIN(req->data_bytes, sizeof(id)));
    complete(req, VIRTIO_BLK_S_OK);
}

static void co_fn request_co(void *opaque)
{
    BlkRequest *req = opaque;

    switch (req->type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        read_or_write(req);
        break;
    case VIRTIO_BLK_T_FLUSH:
        finish(req, block_co_flush(req->q->blk->user));
        break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        discard_or_zero(req);
        break;
    case VIRTIO_BLK_T_GET_ID:
        get_id(req);
        break;
    default:
        complete(req, VIRTIO_BLK_S_UNSUPP);
    }
}

static void request_begin(BlkRequest *req)
{
    __atomic_add_fetch(&req->q->in_flight, 1, __ATOMIC_SEQ_CST);
    trim(req);
    req->next = NULL;
}

/* ---- Adjacent requests ---- */

/* A read or write, or several in the order of the disk, linked by @next. */
typedef struct BlkRun {
    BlkRequest *first, *last;
    uint64_t end;                           /* sector */
    uint64_t bytes;
    unsigned parts;                         /* iovecs of the data */
} BlkRun;

/* What a turn has taken and not started. */
typedef struct BlkTurn {
    uint64_t merge_max;                     /* bytes of a run */
    unsigned num_runs;
    BlkRun runs[TURN_REQUESTS];
} BlkTurn;

/* Succeeds or fails as a whole: which of them fail, and what to do with each, is found out by doing
 * them one by one. */
static void co_fn run_co(void *opaque)
{
    BlkRequest *first = opaque, *next;
    BlockUser *user = first->q->blk->user;
    struct iovec iov[BLOCK_MERGE_IOV];
    uint64_t offset = first->sector * SECTOR_SIZE, bytes = 0;
    unsigned parts = 0, n = 0;
    int ret;

    for (BlkRequest *req = first; req; req = req->next) {
        memcpy(iov + parts, req->data, req->data_num * sizeof(*iov));
        parts += req->data_num;
        bytes += req->data_bytes;
        n++;
    }
    ret = first->type == VIRTIO_BLK_T_IN
              ? block_co_read_merged(user, offset, iov, parts, bytes, n)
              : block_co_write_merged(user, offset, iov, parts, bytes, n);
    for (BlkRequest *req = first; req; req = next) {
        next = req->next;
        if (G_LIKELY(!ret))
            complete(req, VIRTIO_BLK_S_OK);
        else
            co_start(request_co, req);
    }
}

/* Starts what was taken so far, in its order. */
static void turn_start(BlkTurn *turn)
{
    for (unsigned i = 0; i < turn->num_runs; i++) {
        BlkRequest *first = turn->runs[i].first;
        co_start(first->next ? run_co : request_co, first);
    }
    turn->num_runs = 0;
}

static bool run_join(BlkRun *run, BlkRequest *req, uint64_t merge_max)
{
    if (run->end != req->sector || run->first->type != req->type ||
        run->bytes + req->data_bytes > merge_max ||
        run->parts + req->data_num > BLOCK_MERGE_IOV || !data_ok(run->last) || !data_ok(req))
        return false;
    run->last = run->last->next = req;
    run->end += req->data_bytes / SECTOR_SIZE;
    run->bytes += req->data_bytes;
    run->parts += req->data_num;
    return true;
}

static void turn_add(BlkTurn *turn, BlkRequest *req)
{
    if (req->type != VIRTIO_BLK_T_IN && req->type != VIRTIO_BLK_T_OUT) {
        turn_start(turn);
        co_start(request_co, req);
        return;
    }
    for (unsigned i = 0; i < turn->num_runs; i++)
        if (run_join(&turn->runs[i], req, turn->merge_max))
            return;
    turn->runs[turn->num_runs++] = (BlkRun){
        .first = req, .last = req, .end = req->sector + req->data_bytes / SECTOR_SIZE,
        .bytes = req->data_bytes, .parts = req->data_num,
    };
}

/* ---- From the ring ---- */

/* False: the device is now broken. */
static bool request_parse(BlkRequest *req)
{
    struct virtio_blk_outhdr header;

    if (virtq_chain_read(&req->chain, 0, &header, sizeof(header)) != sizeof(header) ||
        req->chain.in_bytes < STATUS_SIZE) {
        virtio_break(&req->q->blk->vdev, "queue %u: request of %zu readable and %zu writable bytes",
                     virtq_index(req->q->vq), req->chain.out_bytes, req->chain.in_bytes);
        return false;
    }
    req->type = GUINT32_FROM_LE(header.type);
    req->sector = GUINT64_FROM_LE(header.sector);
    TRACE(virtio_blk_request, "%s queue %u: type %u sector %" PRIu64,
          virtio_name(&req->q->blk->vdev), virtq_index(req->q->vq), req->type, req->sector);
    return true;
}

/* Takes what is in the ring, but not for ever: other queues of the loop want to be served, too. */
static unsigned take_requests(BlkQueue *q, unsigned budget)
{
    VirtioBlk *blk = q->blk;
    BlkTurn turn;
    BlkRequest *req;

    turn.merge_max = blk->request_merging ? block_user_merge_max(blk->user) : 0;
    turn.num_runs = 0;
    while (budget && (req = request_get(q))) {
        if (!virtq_pop(q->vq, &req->chain)) {
            request_put(req);
            break;
        }
        if (!request_parse(req))
            break;
        request_begin(req);
        turn_add(&turn, req);
        budget--;
    }
    turn_start(&turn);
    return budget;
}

void virtio_blk_kick(VirtioDevice *vdev, Virtqueue *vq)
{
    BlkQueue *q = &VIRTIO_BLK(vdev)->queues[virtq_index(vq)];
    unsigned budget = MIN(virtq_size(vq), TURN_REQUESTS);

    virtq_flush(vq); /* what is finished goes out before more comes in */
    do {
        virtq_set_notification(vq, false);
        budget = take_requests(q, budget);
        if (!budget) {
            virtq_again(vq);
            return;
        }
    } while (!virtq_set_notification(vq, true));
}

/* ---- Start and stop ---- */

static void resubmit(void *opaque)
{
    BlkQueue *q = opaque;
    BlkRequest *req = q->parked;

    q->parked = NULL;
    q->parked_tail = &q->parked;
    while (req) {
        BlkRequest *next = req->next;
        if (!virtq_map_chain(q->vq, &req->chain) || !request_parse(req))
            return;
        request_begin(req);
        co_start(request_co, req);
        req = next;
    }
}

bool virtio_blk_start(VirtioDevice *vdev, GError **error)
{
    VirtioBlk *blk = VIRTIO_BLK(vdev);

    for (unsigned i = 0; i < vdev->num_queues; i++) {
        BlkQueue *q = &blk->queues[i];
        if (!q->vq->running)
            continue;
        loop_bh_init(&q->flush_bh, virtq_loop(q->vq), flush_bh, q);
        if (q->parked) {
            block_user_reset_io_status(blk->user);
            loop_call(virtq_loop(q->vq), resubmit, q);
        }
    }
    return true;
}

static bool idle(const VirtioBlk *blk)
{
    for (unsigned i = 0; i < blk->vdev.num_queues; i++)
        if (__atomic_load_n(&blk->queues[i].in_flight, __ATOMIC_SEQ_CST))
            return false;
    return true;
}

static void last_flush(void *opaque)
{
    BlkQueue *q = opaque;

    loop_bh_cancel(&q->flush_bh);
    virtq_flush(q->vq);
}

void virtio_blk_stop(VirtioDevice *vdev)
{
    VirtioBlk *blk = VIRTIO_BLK(vdev);

    __atomic_store_n(&blk->draining, true, __ATOMIC_SEQ_CST);
    while (!idle(blk))
        loop_iterate(loop_main(), true);
    __atomic_store_n(&blk->draining, false, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < vdev->num_queues; i++)
        if (blk->queues[i].vq->running)
            loop_call(virtq_loop(blk->queues[i].vq), last_flush, &blk->queues[i]);
}

/* ---- State: what is parked ---- */

void virtio_blk_save_parked(void *obj, StateWriter *w)
{
    VirtioBlk *blk = obj;
    unsigned count = 0;

    for (unsigned i = 0; i < blk->vdev.num_queues; i++)
        for (BlkRequest *req = blk->queues[i].parked; req; req = req->next)
            count++;
    state_put_u64(w, "parked", count);
    for (unsigned i = 0; i < blk->vdev.num_queues; i++) {
        for (BlkRequest *req = blk->queues[i].parked; req; req = req->next) {
            state_put_u64(w, "queue", i);
            virtq_save_chain(&req->chain, w);
        }
    }
}

static bool load_request(VirtioBlk *blk, StateReader *r, GError **error)
{
    uint64_t queue;
    BlkRequest *req;

    if (!state_get_u64(r, "queue", blk->vdev.num_queues - 1, &queue, error))
        return false;
    req = request_get(&blk->queues[queue]);
    if (!req)
        return fail(error, ERR_CORRUPT, "queue %u has more parked requests than it can hold",
                    (unsigned)queue);
    if (!virtq_load_chain(&req->chain, r, error))
        return false;
    park(req);
    return true;
}

bool virtio_blk_load_parked(void *obj, StateReader *r, GError **error)
{
    VirtioBlk *blk = obj;
    uint64_t count;

    for (unsigned i = 0; i < blk->vdev.num_queues; i++)
        virtio_blk_queue_clear(&blk->queues[i]);
    if (!state_get_u64(r, "parked", UINT32_MAX, &count, error))
        return false;
    while (count--)
        if (!load_request(blk, r, error))
            return false;
    return true;
}
