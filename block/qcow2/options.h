/* The options of a qcow2 node (options.c). */
#pragma once
#include "block/qcow2/qcow2.h"

typedef struct Qcow2Options {
    uint64_t l2_cache_bytes, refcount_cache_bytes, slice_bytes;   /* 0: not given */
    uint64_t clean_seconds;
    unsigned overlap_mask;
    bool discard_request, discard_snapshot, discard_other, discard_no_unref;
    int lazy_refcounts;                    /* -1: as the header says */
    bool header_only;                      /* x-header-only: no key is needed for what is not data */
    bool check;                            /* x-check: opened to be repaired */
} Qcow2Options;

extern const char *const qcow2_option_names[];
/* Takes them out of @options, except the children's. */
bool qcow2_options_take(json_object *options, Qcow2Options *o, GError **error);
/* What can be had at any time; the caches' sizes: qcow2_make_caches. */
void qcow2_options_apply(Qcow2 *s, const Qcow2Options *o);
bool qcow2_check_slice(const Qcow2 *s, const Qcow2Options *o, GError **error);
/* The options are checked; new caches, with nothing in them. */
void qcow2_make_caches(Qcow2 *s, const Qcow2Options *o);
/* Alone, nothing is dirty: slices of L2 tables are not smaller than what has a checksum. */
void qcow2_widen_slices(Qcow2 *s);

/* children.c: the nodes below. */
bool co_fn qcow2_open_data_file(Qcow2 *s, json_object *options, GError **error);
bool co_fn qcow2_open_backing(Qcow2 *s, json_object *options, GError **error);
void qcow2_child_perm(BlockNode *node, const char *key, unsigned *perm, unsigned *shared);
void qcow2_child_changed(BlockNode *node, const char *key);

/* open.c */
bool co_fn qcow2_open(BlockNode *node, json_object *options, GError **error);
void co_fn qcow2_close(BlockNode *node);
bool co_fn qcow2_reopen_prepare(BlockNode *node, BlockReopen *reopen, GError **error);
void co_fn qcow2_reopen_commit(BlockNode *node, BlockReopen *reopen);
void co_fn qcow2_reopen_abort(BlockNode *node, BlockReopen *reopen);

/* info.c */
void qcow2_image_info(BlockNode *node, json_object *info);
void qcow2_describe(BlockNode *node, json_object *info);
