/* The verbs on whole images (image.c has their table). */
#pragma once
#include "block/qcow2/qcow2.h"

/* create.c */
extern const BlockCreateOption qcow2_create_options[], qcow2_amend_options[];
typedef struct Qcow2Create {               /* create_options, checked */
    uint64_t size, cluster_size, refcount_bits;
    unsigned version;
    int preallocation;                     /* BlockPrealloc */
    uint8_t compression_type;
    bool data_file_raw, lazy_refcounts, extended_l2, checksums;
    const char *backing_file, *backing_format, *data_file;   /* of the options; NULL: none */
    json_object *encrypt;                  /* of the options; NULL: not encrypted */
} Qcow2Create;
bool qcow2_create_parse(json_object *options, Qcow2Create *c, GError **error);
int co_fn qcow2_co_create(BlockGraph *graph, json_object *options, GError **error);

/* measure.c */
int co_fn qcow2_co_measure(json_object *options, BlockNode *source, BlockMeasure *measure,
                           GError **error);

/* resize.c */
int co_fn qcow2_co_resize(BlockNode *node, uint64_t bytes, GError **error);
int co_fn qcow2_co_make_empty(BlockNode *node, GError **error);
int co_fn qcow2_co_preallocate(BlockNode *node, uint64_t offset, uint64_t bytes, BlockPrealloc how,
                               GError **error);

/* amend.c */
int co_fn qcow2_co_amend(BlockNode *node, json_object *options, bool force, GError **error);
int co_fn qcow2_co_set_backing(BlockNode *node, const char *filename, const char *format,
                               GError **error);

extern const BlockImageVerbs qcow2_image_verbs;
