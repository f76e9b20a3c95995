/* Finding out what there is to copy, and moving it. */
#include "block/jobs/copy.h"
#include "block/bitmap.h"
#include "block/chain.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What the first piece is, and how long. */
static void co_fn look(BlockNode *source, uint64_t grain, BlockCopy *copy)
{
    BlockMap map;

    if (block_co_map_above(source, NULL, copy->offset, copy->bytes, &map, NULL) < 0)
        map = (BlockMap){ .bytes = copy->bytes, .flags = BLOCK_MAP_DATA };
    copy->kind = map.flags & BLOCK_MAP_ZERO ? BLOCK_COPY_ZERO : BLOCK_COPY_DATA;
    if (map.bytes < copy->bytes) {
        if (map.bytes < grain)             /* of both kinds */
            copy->kind = BLOCK_COPY_DATA;
        copy->bytes = MIN(copy->bytes, MAX(map.bytes / grain, 1) * grain);
    }
    if (copy->kind == BLOCK_COPY_DATA)
        copy->bytes = MIN(copy->bytes, MAX(grain, BLOCK_COPY_CHUNK));
}

int co_fn block_copy_read(BlockNode *source, uint64_t offset, uint64_t bytes, uint64_t grain,
                          BlockCopy *copy)
{
    uint64_t size = block_node_size(source);
    struct iovec iov = { 0 };
    int ret;

    *copy = (BlockCopy){ .offset = offset, .bytes = bytes };
    if (offset >= size)
        return 0;
    copy->bytes = MIN(bytes, size - offset);
    look(source, grain, copy);
    if (copy->kind == BLOCK_COPY_ZERO)
        return 0;
    ret = -posix_memalign(&iov.iov_base, 4096, ALIGN_UP(copy->bytes, 4096));
    if (ret < 0)
        return ret;
    copy->data = iov.iov_base;
    iov.iov_len = copy->bytes;
    return block_node_co_read(source, offset, &iov, 1, iov.iov_len);
}

int co_fn block_copy_write(const BlockCopy *copy, BlockNode *target, uint64_t offset, uint64_t bytes,
                           unsigned flags)
{
    struct iovec iov = { copy->data + (offset - copy->offset), bytes };
    int ret;

    if (copy->kind == BLOCK_COPY_NOTHING)
        return 0;
    if (copy->kind == BLOCK_COPY_ZERO)
        return block_node_co_zero(target, offset, bytes, flags & ~BLOCK_COMPRESSED);
    flags &= ~BLOCK_MAY_UNMAP;
    ret = block_node_co_write(target, offset, &iov, 1, bytes, flags);
    if (ret == -ENOTSUP && flags & BLOCK_COMPRESSED)
        ret = block_node_co_write(target, offset, &iov, 1, bytes, flags & ~BLOCK_COMPRESSED);
    return ret;
}

void block_copy_clear(BlockCopy *copy)
{
    free(copy->data);
    copy->data = NULL;
}

int co_fn block_copy(BlockNode *source, BlockNode *target, uint64_t offset, uint64_t bytes,
                     unsigned flags, bool *ret_is_read)
{
    int ret = 0;

    for (uint64_t end = offset + bytes; ret == 0 && offset < end;) {
        BlockCopy copy;

        *ret_is_read = true;
        ret = block_copy_read(source, offset, end - offset, 1, &copy);
        if (ret == 0) {
            *ret_is_read = false;
            ret = block_copy_write(&copy, target, offset, copy.bytes, flags);
        }
        offset += copy.bytes;
        block_copy_clear(&copy);
    }
    return ret;
}

bool co_fn block_job_find_allocated(BlockJob *job, BlockUser *user, BlockNode *top, BlockNode *base,
                                    BlockBitmap *bitmap, bool clear, GError **error)
{
    uint64_t size = block_node_size(top);
    BlockMap map;

    for (uint64_t at = 0; at < size && block_job_pause_point(job); at += map.bytes) {
        int ret;

        block_user_begin(user);
        ret = block_co_map_above(top, base, at, size - at, &map, NULL);
        block_user_end(user);
        if (ret < 0)
            return fail_errno(error, -ret, "cannot find out what '%s' has of its own", top->name);
        if (!(map.flags & BLOCK_MAP_ALLOCATED) && clear)
            block_bitmap_clear(bitmap, at, map.bytes);
        else if (map.flags & BLOCK_MAP_ALLOCATED && !clear)
            block_bitmap_mark(bitmap, at, map.bytes);
    }
    return !job->cancelled;
}

uint64_t block_node_cluster_size(BlockNode *node)
{
    g_autoptr(json_object) info = block_node_image_info(block_node_skip_filters(node), NULL);
    json_object *size;

    return info && json_object_object_get_ex(info, "cluster-size", &size)
               ? json_object_get_int64(size) : 0;
}

bool block_job_get_on_error(json_object *options, const char *key, BlockOnError *policy,
                            GError **error)
{
    const char *word = NULL;
    int i = BLOCK_ON_ERROR_REPORT;

    if (!options_get_str(options, key, &word, error))
        return false;
    if (word && strcmp(word, "auto") &&
        !options_get_enum(options, key, block_on_error_words, &i, error))
        return false;
    *policy = i;
    return true;
}

bool co_fn block_job_chunk_failed(BlockJob *job, BlockOnError policy, bool is_read, int ret,
                                  bool *ret_ignored, GError **error)
{
    BlockErrorAction action = block_job_error_action(job, policy, is_read, -ret);

    *ret_ignored = action == BLOCK_ERROR_IGNORE;
    if (action == BLOCK_ERROR_REPORT)
        return fail_errno(error, -ret, "%s job '%s': %s failed", job->type->name, job->id,
                          is_read ? "reading the source" : "writing the target");
    return true;
}
