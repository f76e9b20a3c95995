/* info: what an image is. */
#include <inttypes.h>
#include <string.h>
#include "src/tools/img.h"

static bool bool_member(json_object *obj, const char *key)
{
    json_object *value;

    return json_object_object_get_ex(obj, key, &value) && json_object_get_boolean(value);
}

static void print_specific(json_object *value, unsigned depth);

static void print_named(json_object *member, const char *name, unsigned depth)
{
    bool composite = json_object_is_type(member, json_type_object) ||
                     json_object_is_type(member, json_type_array);

    printf("%*s%s:%c", depth * 4, "", name, composite ? '\n' : ' ');
    print_specific(member, depth + 1);
    if (!composite)
        putchar('\n');
}

static void print_specific(json_object *value, unsigned depth)
{
    if (json_object_is_type(value, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            g_autofree char *name = g_strdup_printf("[%zu]", i);

            print_named(json_object_array_get_idx(value, i), name, depth);
        }
    } else if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, key, member)
        {
            g_autofree char *name = g_strdelimit(g_strdup(key), "-", ' ');

            print_named(member, name, depth);
        }
    } else {
        printf("%s", json_object_get_string(value));
    }
}

static void print_backing(json_object *info)
{
    const char *name = json_get_str(info, "backing-filename");
    const char *full = json_get_str(info, "full-backing-filename");
    const char *format = json_get_str(info, "backing-filename-format");

    if (!name)
        return;
    printf("backing file: %s", name);
    if (!full)
        printf(" (cannot determine actual path)");
    else if (strcmp(full, name))
        printf(" (actual path: %s)", full);
    printf("\n");
    if (format)
        printf("backing file format: %s\n", format);
}

static void print_info(BlockNode *node, json_object *info)
{
    g_autoptr(GPtrArray) snapshots = block_snapshots(node);
    json_object *member, *data;
    int64_t size = block_node_size(node);
    g_autofree char *disk = NULL, *virtual = img_size_text(size);

    disk = json_object_object_get_ex(info, "actual-size", &member)
               ? img_size_text(json_object_get_int64(member))
               : g_strdup("unavailable");
    printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRId64 " bytes)\ndisk size: %s\n",
           json_get_str(info, "filename"), json_get_str(info, "format"), virtual, size, disk);
    if (bool_member(info, "encrypted"))
        printf("encrypted: yes\n");
    if (json_object_object_get_ex(info, "cluster-size", &member))
        printf("cluster_size: %" PRId64 "\n", json_object_get_int64(member));
    if (bool_member(info, "dirty-flag"))
        printf("cleanly shut down: no\n");
    print_backing(info);
    img_print_snapshots(snapshots);
    if (json_object_object_get_ex(info, "format-specific", &member) &&
        json_object_object_get_ex(member, "data", &data)) {
        printf("Format specific information:\n");
        print_specific(data, 1);
    }
}

/* One image: its ImageInfo; *ret_below, *ret_format: its backing file. */
static json_object *info_of(Img *img, const ImgOpen *how, bool first, GError **error)
{
    ImgImage image;
    json_object *info;

    if (!img_open(img, how, &image, error))
        return NULL;
    block_node_refresh(image.node);
    info = block_node_image_info(image.node, error);
    if (info) {
        if (!img->json) {
            printf("%s", first ? "" : "\n");
            print_info(image.node, info);
        }
    }
    img_close(&image);
    return info;
}

static bool all_infos(Img *img, json_object *list, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    ImgOpen how = { .name = img->operands[0], .format = img_value(img, 'f'),
                    .flags = IMG_NO_BACKING | IMG_HEADER_ONLY |
                             (img_has(img, 'U') ? IMG_FORCE_SHARE : 0) |
                             (img_has(img, IMG_IMAGE_OPTS) ? IMG_IS_OPTIONS : 0) };

    while (how.name) {
        json_object *info;

        if (!g_hash_table_add(seen, g_strdup(how.name)))
            return fail(error, ERR_INVALID_PARAMETER, "Backing file '%s' creates an infinite loop.",
                        how.name);
        info = info_of(img, &how, json_object_array_length(list) == 0, error);
        if (!info)
            return false;
        json_object_array_add(list, info);
        how.flags &= ~IMG_IS_OPTIONS;
        how.format = json_get_str(info, "backing-filename-format");
        how.name = json_get_str(info, "full-backing-filename");
        if (!img_has(img, IMG_BACKING_CHAIN))
            return true;
        if (!how.name && json_get_str(info, "backing-filename"))
            return fail(error, ERR_NOT_FOUND, "Could not determine the backing file name of '%s'",
                        json_get_str(info, "filename"));
    }
    return true;
}

static int run_info(Img *img, GError **error)
{
    g_autoptr(json_object) list = json_object_new_array();

    if (!all_infos(img, list, error))
        return 1;
    if (img->json)
        img_print_json(img_has(img, IMG_BACKING_CHAIN) ? list : json_object_array_get_idx(list, 0));
    return 0;
}

static const ImgOption info_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_SHARE, IMG_JSON,
    { IMG_BACKING_CHAIN, "backing-chain", NULL, "its backing file, and all below it, too" },
    { 't', "cache", "CACHE", "none, writeback, writethrough, directsync or unsafe" },
    { 0 }
};
const ImgCommand img_info = {
    .name = "info", .operands = "FILENAME", .help = "Tell what an image is",
    .run = run_info, .options = info_options, .min = 1, .max = 1,
};
