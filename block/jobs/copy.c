/* Moving a chunk from one node to another. */
#include "block/jobs/copy.h"
#include "block/chain.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int co_fn copy_data(BlockNode *source, BlockNode *target, uint64_t offset, uint64_t bytes,
                           unsigned flags, bool *ret_is_read)
{
    struct iovec iov = { NULL, MIN(bytes, BLOCK_COPY_CHUNK) };
    int ret = -posix_memalign(&iov.iov_base, 4096, ALIGN_UP(iov.iov_len, 4096));

    while (ret == 0 && bytes) {
        iov.iov_len = MIN(bytes, BLOCK_COPY_CHUNK);
        *ret_is_read = true;
        ret = block_node_co_read(source, offset, &iov, 1, iov.iov_len);
        if (ret < 0)
            break;
        *ret_is_read = false;
        ret = block_node_co_write(target, offset, &iov, 1, iov.iov_len, flags & ~BLOCK_MAY_UNMAP);
        if (ret == -ENOTSUP && flags & BLOCK_COMPRESSED)
            ret = block_node_co_write(target, offset, &iov, 1, iov.iov_len,
                                      flags & ~(BLOCK_MAY_UNMAP | BLOCK_COMPRESSED));
        offset += iov.iov_len;
        bytes -= iov.iov_len;
    }
    free(iov.iov_base);
    return ret;
}

int co_fn block_copy(BlockNode *source, BlockNode *target, uint64_t offset, uint64_t bytes,
                     unsigned flags, bool *ret_is_read)
{
    uint64_t size = block_node_size(source);
    int ret = 0;

    if (offset >= size)
        return 0;
    bytes = MIN(bytes, size - offset);
    while (ret == 0 && bytes) {
        BlockMap map = { .bytes = bytes };

        if (block_co_map_above(source, NULL, offset, bytes, &map, NULL) < 0)
            map = (BlockMap){ .bytes = bytes, .flags = BLOCK_MAP_DATA };
        *ret_is_read = false;
        if (map.flags & BLOCK_MAP_ZERO)
            ret = block_node_co_zero(target, offset, map.bytes, flags & ~BLOCK_COMPRESSED);
        else
            ret = copy_data(source, target, offset, map.bytes, flags, ret_is_read);
        offset += map.bytes;
        bytes -= map.bytes;
    }
    return ret;
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
                                  bool *ret_skip, GError **error)
{
    BlockErrorAction action = block_job_error_action(job, policy, is_read, -ret);

    *ret_skip = action == BLOCK_ERROR_IGNORE;
    if (action == BLOCK_ERROR_REPORT)
        return fail_errno(error, -ret, "%s job '%s': %s failed", job->type->name, job->id,
                          is_read ? "reading the source" : "writing the target");
    return true;
}
