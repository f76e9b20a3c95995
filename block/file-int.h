/* The state of the file and host_device drivers, shared by their files. */
#pragma once
#include "block/aio.h"
#include "block/image.h"

enum { FILE_LOCKING_AUTO, FILE_LOCKING_ON, FILE_LOCKING_OFF };

typedef struct FileOptions {
    const char *filename;
    int aio;                               /* AioKind, or -1 */
    int locking;
    uint64_t max_batch;
    bool drop_cache;                       /* means something when a migration ends */
} FileOptions;

typedef struct FileNode {
    AioFile aio;                           /* the descriptor and how it is worked */
    AioLane lane;                          /* aio.lane points here, if at all */
    int asked_aio, locking;                /* as the options say */
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

/* file.c */
bool file_options_parse(json_object *options, FileOptions *parsed, GError **error);
/* Which engine; @asked: AioKind, or -1.  *fallback gets why the default is not used (g_free). */
bool file_choose_engine(int asked, bool direct, AioKind *kind, char **fallback, GError **error);
/* The lane for small writes, where the engine was left to us and the page cache takes them. */
static inline AioLane *file_choose_lane(FileNode *file, int asked, bool direct)
{
    return asked < 0 && !direct && file->is_regular ? &file->lane : NULL;
}
bool file_is_passed(const char *filename);          /* /dev/fdset/N */
bool file_is_refusal(const GError *error);
/* System calls, for worker threads.  @mode: O_RDONLY or O_RDWR; -1 with an error. */
int file_open_descriptor(const char *filename, int mode, bool direct, GError **error);

/* file-reopen.c */
/* The same file opened anew, with the locks that the node has, in the place of its descriptor; *ret_old
 * (may be NULL) gets the one that was there.  For worker threads. */
bool file_swap(BlockNode *node, int mode, bool direct, int *ret_old, GError **error);
bool co_fn file_reopen_prepare(BlockNode *node, BlockReopen *reopen, GError **error);
void co_fn file_reopen_commit(BlockNode *node, BlockReopen *reopen);
void co_fn file_reopen_abort(BlockNode *node, BlockReopen *reopen);

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
