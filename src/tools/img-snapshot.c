/* snapshot: an image's internal snapshots. */
#include <errno.h>
#include <string.h>
#include <sys/time.h>
#include "src/tools/img.h"

typedef struct Snapshot {
    ImgImage image;
    int action;                            /* 'a', 'c', 'd' */
    const char *name;
    GError **error;
    int ret;
} Snapshot;

/* It is told by its name alone: an id that is another one's name must not hit. */
static int co_fn delete(Snapshot *s)
{
    g_autoptr(GPtrArray) all = block_snapshots(s->image.node);
    const BlockSnapshot *found = block_snapshot_find(all, NULL, s->name);

    if (found)
        return block_co_snapshot_delete(s->image.node, found->id, s->error);
    fail(s->error, ERR_NOT_FOUND, "snapshot not found");
    error_hint(s->error, "-l lists their names (TAG)");
    return -ENOENT;
}

static void co_fn snapshot_run(void *opaque)
{
    Snapshot *s = opaque;
    BlockSnapshot made = { .name = (char *)s->name, .icount = UINT64_MAX };
    struct timeval now;

    switch (s->action) {
    case 'c':
        gettimeofday(&now, NULL);
        made.date_sec = now.tv_sec;
        made.date_nsec = now.tv_usec * 1000;
        made.icount = 0;
        s->ret = block_co_snapshot_create(s->image.node, &made, s->error);
        g_free(made.id);
        break;
    case 'a':
        s->ret = block_co_snapshot_goto(s->image.node, s->name, s->error);
        break;
    default:
        s->ret = delete(s);
    }
}

static int run_snapshot(Img *img, GError **error)
{
    static const char verbs[] = "acd";
    static const char *const words[] = { "apply", "create", "delete" };
    Snapshot s = { .error = error };
    unsigned n = img_has(img, 'l');

    for (const char *verb = verbs; *verb; verb++) {
        if (!img_has(img, *verb))
            continue;
        s.action = *verb;
        s.name = img_value(img, *verb);
        n++;
    }
    if (n > 1)
        return img_usage(error, "Cannot mix '-l', '-a', '-c', '-d'");
    if (!img_open_given(img, img->operands[0], s.action ? IMG_WRITE | IMG_RESIZE : 0, &s.image,
                        error))
        return 1;
    if (s.action) {
        co_run_sync(snapshot_run, &s);
        if (s.ret < 0)
            error_prefix(error,
                         "Could not %s snapshot '%s': ", words[strchr(verbs, s.action) - verbs],
                         s.name);
    } else {
        g_autoptr(GPtrArray) list = block_snapshots(s.image.node);

        img_print_snapshots(list);
    }
    if (!img_finish(&s.image, s.ret < 0 ? NULL : error))
        return 1;
    return s.ret < 0;
}

static const ImgOption snapshot_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_SHARE,
    { 'l', "list", NULL, "list the snapshots (also without an option)" },
    { 'a', "apply", "SNAPSHOT", "the disk becomes what it was when the snapshot was taken" },
    { 'c', "create", "SNAPSHOT", "take a snapshot" },
    { 'd', "delete", "SNAPSHOT", "remove a snapshot" },
    { 0 }
};
const ImgCommand img_snapshot = {
    .name = "snapshot",
    .operands = "FILENAME",
    .help = "List, take, apply or remove internal snapshots",
    .run = run_snapshot,
    .options = snapshot_options,
    .min = 1,
    .max = 1,
};
