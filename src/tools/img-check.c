/* check: looks for errors in an image, and mends them. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "src/tools/img.h"

typedef struct Check {
    ImgImage image;
    BlockCheck check;
    unsigned fix;
    const Img *img;
    GError *error;
    int ret;
} Check;

static void report_line(const char *line, void *opaque)
{
    Check *c = opaque;

    if (!c->img->quiet)
        fprintf(c->img->json ? stderr : stdout, "%s\n", line);
}

static void co_fn check_run(void *opaque)
{
    Check *c = opaque;

    c->check = (BlockCheck){ .report = report_line, .opaque = c };
    c->ret = block_co_check(c->image.node, &c->check, c->fix, &c->error);
}

static void print_check(const Img *img, const BlockCheck *c)
{
    if (!c->corruptions && !c->leaks && !c->check_errors)
        img_print(img, "No errors were found on the image.\n");
    if (c->corruptions)
        img_print(img, "\n%" PRIu64 " errors were found on the image.\nData may be corrupted, or "
                  "further writes to the image may corrupt it.\n", c->corruptions);
    if (c->leaks)
        img_print(img,
                  "\n%" PRIu64 " leaked clusters were found on the image.\nThis means waste of "
                  "disk space, but no harm to data.\n",
                  c->leaks);
    if (c->check_errors)
        img_print(img, "\n%" PRIu64 " internal errors have occurred during the check.\n",
                  c->check_errors);
    if (c->total_clusters && c->allocated_clusters)
        img_print(img, "%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% "
                  "compressed clusters\n", c->allocated_clusters, c->total_clusters,
                  c->allocated_clusters * 100.0 / c->total_clusters,
                  c->fragmented_clusters * 100.0 / c->allocated_clusters,
                  c->compressed_clusters * 100.0 / c->allocated_clusters);
    if (c->image_end_offset)
        img_print(img, "Image end offset: %" PRIu64 "\n", c->image_end_offset);
}

static void print_check_json(const Img *img, const Check *c)
{
    const BlockCheck *r = &c->check;
    const struct {
        const char *key;
        uint64_t value;
    } members[] = {
        { "image-end-offset", r->image_end_offset }, { "corruptions", r->corruptions },
        { "leaks", r->leaks }, { "corruptions-fixed", r->corruptions_fixed },
        { "leaks-fixed", r->leaks_fixed }, { "total-clusters", r->total_clusters },
        { "allocated-clusters", r->allocated_clusters },
        { "fragmented-clusters", r->fragmented_clusters },
        { "compressed-clusters", r->compressed_clusters },
    };
    g_autoptr(json_object) obj = json_object_new_object();

    json_object_object_add(obj, "filename", json_object_new_string(img->operands[0]));
    json_object_object_add(obj, "format", json_object_new_string(block_node_driver(c->image.node)));
    json_object_object_add(obj, "check-errors", json_object_new_uint64(r->check_errors));
    for (unsigned i = 0; i < G_N_ELEMENTS(members); i++)
        if (members[i].value)
            json_object_object_add(obj, members[i].key, json_object_new_uint64(members[i].value));
    img_print_json(obj);
}

/* A repaired image is looked at again. */
static void check_again(Check *c)
{
    uint64_t corruptions = c->check.corruptions_fixed, leaks = c->check.leaks_fixed;

    if (!corruptions && !leaks)
        return;
    if (!c->img->json)
        img_print(c->img,
                  "The following inconsistencies were found and repaired:\n\n    %" PRIu64
                  " leaked clusters\n    %" PRIu64
                  " corruptions\n\nDouble checking the fixed image "
                  "now...\n",
                  leaks, corruptions);
    c->fix = 0;
    co_run_sync(check_run, c);
    c->check.corruptions_fixed = corruptions;
    c->check.leaks_fixed = leaks;
}

static int check_status(const Check *c, GError **error)
{
    if (c->check.check_errors) {
        fail(error, ERR_IO, "Check failed");
        return 1;
    }
    return c->check.corruptions ? 2 : c->check.leaks ? 3 : 0;
}

static int check_image(Check *c, GError **error)
{
    co_run_sync(check_run, c);
    if (c->ret == -ENOTSUP && !c->fix) {
        g_clear_error(&c->error);
        fail(error, ERR_UNSUPPORTED, "This image format does not support checks");
        return 63;
    }
    if (c->ret == 0)
        check_again(c);
    if (c->ret < 0) {
        g_propagate_error(error, c->error);
        error_prefix(error, "Check failed: ");
        return c->ret == -ENOTSUP ? 63 : 1;
    }
    if (c->img->json && !c->img->quiet)
        print_check_json(c->img, c);
    else
        print_check(c->img, &c->check);
    return check_status(c, error);
}

static int run_check(Img *img, GError **error)
{
    const char *repair = img_value(img, 'r');
    Check c = { .img = img };
    int status;

    if (repair && !strcmp(repair, "leaks"))
        c.fix = BLOCK_FIX_LEAKS;
    else if (repair && !strcmp(repair, "all"))
        c.fix = BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS;
    else if (repair)
        return img_usage(error, "-r needs 'leaks' or 'all', not '%s'", repair);
    if (!img_open_given(img, img->operands[0], c.fix ? IMG_WRITE | IMG_RESIZE | IMG_REPAIR : 0,
                        &c.image, error))
        return 1;
    status = check_image(&c, error);
    if (!img_finish(&c.image, *error ? NULL : error))
        status = 1;
    return status;
}

static const ImgOption check_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_SHARE, IMG_JSON, IMG_SOURCE_CACHE,
    { 'r', "repair", "leaks|all", "mend what is found: leaked clusters only, or all that can be" },
    { 0 }
};
const ImgCommand img_check = {
    .name = "check", .operands = "FILENAME", .help = "Look for errors in an image, and mend them",
    .run = run_check, .options = check_options, .min = 1, .max = 1,
};
