/* block-scrub: a check of an image's metadata while it is in use, and repairs by plan. */
#pragma once
#include "block/job.h"

bool block_scrub(BlockGraph *graph, json_object *data, GError **error);
/* BlockScrubResult of the job with that id; owned by the caller. */
json_object *block_scrub_result(BlockGraph *graph, const char *id, GError **error);
