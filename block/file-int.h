/* The state of the file and host_device drivers, shared by their files. */
#pragma once
#include "block/aio.h"
#include "block/image.h"

typedef struct FileNode {
    AioFile aio;                           /* the descriptor and how it is worked */
    char *aio_fallback;                    /* why the default engine is not used; NULL: it is */
    bool is_device, is_regular;
    bool locks;
    unsigned perm, shared;                 /* as locked */
    uint32_t request_alignment, buffer_alignment;
    uint32_t discard_granularity;
    BlockSizes sizes;                      /* of the device; or of the file's block */
    gint64 length, allocated;              /* atomic: bytes when last asked, or -errno */
    bool no_discard, no_punch, no_zero_range;   /* atomic: found to be missing */
    uint64_t discards_ok, discards_failed, discard_bytes;   /* atomic */
} FileNode;

/* file-probe.c: system calls, for worker threads. */
bool file_probe(FileNode *file, const char *filename, bool direct, GError **error);
int64_t file_length(int fd);               /* of a regular file or device; -errno */
int file_ask_sizes(void *file);            /* sets length and allocated; 0 */

/* file-io.c: the verbs */
int co_fn file_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                       uint64_t bytes);
int co_fn file_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                        uint64_t bytes, unsigned flags);
int co_fn file_co_flush(BlockNode *node);
int co_fn file_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);
int co_fn file_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes);
int co_fn file_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map);
int co_fn file_co_copy_range(BlockNode *node, uint64_t offset, BlockNode *from,
                             uint64_t from_offset, uint64_t bytes);
int co_fn file_co_resize(BlockNode *node, uint64_t bytes, GError **error);

/* file-create.c */
extern const BlockImageVerbs file_image_verbs;
