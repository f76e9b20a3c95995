/*
 * Copying the content of images into another one: many chunks under way at once, each read, looked
 * through for zeroes, and written in the order of the disk (or as it comes).
 */
#pragma once
#include "src/tools/img.h"

typedef struct ImgCopySource {
    ImgImage image;
    uint64_t start, bytes;                 /* the window of it that is copied */
} ImgCopySource;

typedef struct ImgCopy {
    ImgCopySource *sources;                /* one after the other */
    unsigned n_sources;
    ImgImage target;
    uint64_t zero_bytes;                   /* runs of zeroes shorter than this are written as data;
                                              0: all is */
    unsigned workers;                      /* chunks under way; 0: a default */
    uint64_t rate;                         /* bytes a second; 0: no limit */
    bool out_of_order;
    bool target_is_zero;                   /* what is not written reads as zeroes */
    bool target_has_backing;               /* what shows in @base, too, is left out */
    BlockNode *base;                       /* below the source; NULL: none */
    bool compressed;                       /* cluster by cluster */
    bool offload;                          /* the host may copy or share the data itself */
    bool salvage;                          /* what cannot be read becomes zeroes */
} ImgCopy;

/* Progress is told in bytes. */
bool img_copy(Img *img, ImgCopy *copy, GError **error);

/* ImageInfo's cluster-size; 0: the format has none. */
uint64_t img_cluster_size(BlockNode *node);
/* How many bytes from the start are all zeroes, or (with @zeroes false) how many come before the
 * next zeroes, in steps of @step. */
uint64_t img_zero_run(const uint8_t *data, uint64_t bytes, uint64_t step, bool *ret_zeroes);
