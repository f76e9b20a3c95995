/*
 * The NBD protocol: numbers and sizes.  Section names are those of the protocol's document
 * (github.com/NetworkBlockDevice/nbd, doc/proto.md).  All numbers travel big-endian.
 */
#pragma once
#include <stdint.h>

enum { NBD_DEFAULT_PORT = 10809 };

/* "Newstyle negotiation" */
#define NBD_MAGIC_INIT UINT64_C(0x4e42444d41474943)      /* "NBDMAGIC" */
#define NBD_MAGIC_OPTION UINT64_C(0x49484156454f5054)    /* "IHAVEOPT" */
#define NBD_MAGIC_REPLY UINT64_C(0x0003e889045565a9)
enum { NBD_FLAG_FIXED_NEWSTYLE = 1, NBD_FLAG_NO_ZEROES = 2 };
enum { NBD_FLAG_C_FIXED_NEWSTYLE = 1, NBD_FLAG_C_NO_ZEROES = 2 };
enum { NBD_OPTION_HEAD = 16, NBD_OPTION_REPLY_HEAD = 20, NBD_STRING_MAX = 4096 };

/* "Option types" */
enum NbdOption {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11,
};

/* "Option reply types" */
#define NBD_REP_ACK 1u
#define NBD_REP_SERVER 2u
#define NBD_REP_INFO 3u
#define NBD_REP_META_CONTEXT 4u
#define NBD_REP_ERR_UNSUP 0x80000001u
#define NBD_REP_ERR_POLICY 0x80000002u
#define NBD_REP_ERR_INVALID 0x80000003u
#define NBD_REP_ERR_TLS_REQD 0x80000005u
#define NBD_REP_ERR_UNKNOWN 0x80000006u
#define NBD_REP_ERR_TOO_BIG 0x80000009u
#define NBD_REP_ERR_EXT_HEADER_REQD 0x8000000au

enum NbdInfo { NBD_INFO_EXPORT = 0, NBD_INFO_NAME = 1, NBD_INFO_DESCRIPTION = 2,
               NBD_INFO_BLOCK_SIZE = 3 };

/* "Transmission flags" */
enum {
    NBD_FLAG_HAS_FLAGS = 1 << 0,
    NBD_FLAG_READ_ONLY = 1 << 1,
    NBD_FLAG_SEND_FLUSH = 1 << 2,
    NBD_FLAG_SEND_FUA = 1 << 3,
    NBD_FLAG_SEND_TRIM = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
    NBD_FLAG_SEND_CACHE = 1 << 10,
    NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
    NBD_FLAG_BLOCK_STAT_PAYLOAD = 1 << 12,
};

/* "Request message": compact, or extended where that was agreed on: lengths of 64 bits */
#define NBD_MAGIC_REQUEST 0x25609513u
#define NBD_MAGIC_EXTENDED_REQUEST 0x21e41c71u
enum { NBD_REQUEST_HEAD = 28, NBD_EXTENDED_REQUEST_HEAD = 32 };
enum NbdCommand {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};
enum {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
    NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,     /* extended headers: the length is that of a payload */
};

/* "Simple reply message", "Structured reply chunk message", "Extended reply chunk message" */
#define NBD_MAGIC_SIMPLE_REPLY 0x67446698u
#define NBD_MAGIC_STRUCTURED_REPLY 0x668e33efu
#define NBD_MAGIC_EXTENDED_REPLY 0x6e8a278cu
enum { NBD_SIMPLE_REPLY_HEAD = 16, NBD_CHUNK_HEAD = 20, NBD_EXTENDED_CHUNK_HEAD = 32 };
enum { NBD_REPLY_FLAG_DONE = 1 };
#define NBD_REPLY_TYPE_NONE 0u
#define NBD_REPLY_TYPE_OFFSET_DATA 1u
#define NBD_REPLY_TYPE_OFFSET_HOLE 2u
#define NBD_REPLY_TYPE_BLOCK_STATUS 5u
#define NBD_REPLY_TYPE_BLOCK_STATUS_EXT 6u
#define NBD_REPLY_TYPE_ERROR 0x8001u

/* "Error values" */
enum {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

/* "base:allocation" metadata context; QEMU's contexts (its docs/interop/nbd.txt) */
enum { NBD_STATE_HOLE = 1, NBD_STATE_ZERO = 2 };
enum { NBD_STATE_DIRTY = 1 };
#define NBD_CONTEXT_ALLOCATION "base:allocation"
#define NBD_CONTEXT_DEPTH "qemu:allocation-depth"
#define NBD_CONTEXT_BITMAP "qemu:dirty-bitmap:"

/* What everybody must take (section "Block size constraints"). */
enum { NBD_PAYLOAD_MAX = 32 << 20 };
