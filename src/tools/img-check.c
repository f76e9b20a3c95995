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

/* Repairs by plan: what block-scrub makes and takes. */

typedef struct Scrub {
    BlockNode *node;
    BlockScrub scrub;
    GError *error;
} Scrub;

static bool co_fn go_on(BlockScrub *scrub, uint64_t bytes)
{
    return true;
}

static void co_fn scrub_run(void *opaque)
{
    Scrub *s = opaque;

    block_co_scrub(s->node, &s->scrub, &s->error);
}

static bool write_plan(const BlockScrub *scrub, const char *filename, GError **error)
{
    const char *text = json_object_to_json_string_ext(scrub->plan, JSON_C_TO_STRING_PRETTY);
    g_autofree char *line = g_strconcat(text, "\n", NULL);

    return g_file_set_contents(filename, line, -1, error);
}

static int scrub_status(const Img *img, const BlockScrub *s, GError **error)
{
    for (size_t i = 0; i < json_object_array_length(s->findings); i++)
        img_print(img, "%s\n", json_object_get_string(json_object_object_get(
                                   json_object_array_get_idx(s->findings, i), "message")));
    img_print(img, "%" PRIu64 " live, %" PRIu64 " reusable, %" PRIu64 " leaked clusters, %" PRIu64
              " errors\n", s->live, s->reusable, s->leaked, s->errors);
    if (s->unreadable) {
        fail(error, ERR_IO, "Check failed");
        return 1;
    }
    if (!s->applied && !s->refused)
        return s->errors ? 2 : s->leaked ? 3 : 0;
    img_print(img, "%" PRIu64 " acts done, %" PRIu64 " refused\n", s->applied, s->refused);
    return s->refused || s->errors + s->leaked > s->applied ? 2 : 0;
}

/* @plan: a file that gets one; @apply: a file with the one to be carried out; one of them is NULL. */
static int scrub_image(const Img *img, BlockNode *node, const char *plan, const char *apply,
                       GError **error)
{
    Scrub s = { .node = node, .scrub = { .pace = go_on } };
    int status = 1;

    if (apply) {
        s.scrub.apply = json_object_from_file(apply);
        if (!s.scrub.apply) {
            fail(error, ERR_INVALID_PARAMETER, "'%s' cannot be read, or is not JSON", apply);
            return 1;
        }
    }
    co_run_sync(scrub_run, &s);
    if (s.error)
        g_propagate_error(error, s.error);
    else if (apply || write_plan(&s.scrub, plan, error))
        status = scrub_status(img, &s.scrub, error);
    block_scrub_clear(&s.scrub);
    return status;
}

static int run_check(Img *img, GError **error)
{
    const char *plan = img_value(img, IMG_PLAN), *apply = img_value(img, IMG_APPLY);
    const char *repair = img_value(img, 'r');
    Check c = { .img = img };
    int status;

    if (repair && !strcmp(repair, "leaks"))
        c.fix = BLOCK_FIX_LEAKS;
    else if (repair && !strcmp(repair, "all"))
        c.fix = BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS;
    else if (repair)
        return img_usage(error, "-r needs 'leaks' or 'all', not '%s'", repair);
    if (!!repair + !!plan + !!apply > 1)
        return img_usage(error, "only one of -r, --plan and --apply can be given");
    if (!img_open_given(img, img->operands[0], IMG_REPAIR | (c.fix || apply ? IMG_WRITE | IMG_RESIZE : 0),
                        &c.image, error))
        return 1;
    status = plan || apply ? scrub_image(img, c.image.node, plan, apply, error)
                           : check_image(&c, error);
    if (!img_finish(&c.image, *error ? NULL : error))
        status = 1;
    return status;
}

static const ImgOption check_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_SHARE, IMG_JSON, IMG_SOURCE_CACHE,
    { 'r', "repair", "leaks|all", "mend what is found: leaked clusters only, or all that can be" },
    { IMG_PLAN, "plan", "FILE", "write to FILE what a repair would do, as JSON" },
    { IMG_APPLY, "apply", "FILE", "do what FILE says, where the image is still as it was" },
    { 0 }
};
const ImgCommand img_check = {
    .name = "check", .operands = "FILENAME", .help = "Look for errors in an image, and mend them",
    .run = run_check, .options = check_options, .min = 1, .max = 1,
};
