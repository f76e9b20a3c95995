/* What the commands write: sizes, JSON as QEMU's tools indent it, tables, progress. */
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "src/tools/img.h"

/* The unit in which there are fewer than a thousand, to three digits. */
char *img_size_text(uint64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    unsigned unit = 0;
    double value = bytes;

    while (value >= 1000 && unit < G_N_ELEMENTS(units) - 1) {
        value /= 1024;
        unit++;
    }
    return g_strdup_printf("%0.3g %s", value, units[unit]);
}

/* JSON, four spaces a level. */

static void print_value(json_object *value, unsigned depth);

static void newline(unsigned depth)
{
    printf("\n%*s", depth * 4, "");
}

static void print_members(json_object *value, unsigned depth)
{
    bool first = true;

    json_object_object_foreach(value, key, member)
    {
        g_autoptr(json_object) name = json_object_new_string(key);

        if (!first)
            putchar(',');
        first = false;
        newline(depth);
        printf("%s: ", json_object_to_json_string_ext(name, JSON_C_TO_STRING_NOSLASHESCAPE));
        print_value(member, depth);
    }
}

static void print_elements(json_object *value, unsigned depth)
{
    for (size_t i = 0; i < json_object_array_length(value); i++) {
        if (i)
            putchar(',');
        newline(depth);
        print_value(json_object_array_get_idx(value, i), depth);
    }
}

static void print_value(json_object *value, unsigned depth)
{
    switch (json_object_get_type(value)) {
    case json_type_object:
        putchar('{');
        print_members(value, depth + 1);
        newline(depth);
        putchar('}');
        return;
    case json_type_array:
        putchar('[');
        print_elements(value, depth + 1);
        newline(depth);
        putchar(']');
        return;
    default:
        printf("%s", json_object_to_json_string_ext(value, JSON_C_TO_STRING_NOSLASHESCAPE));
    }
}

void img_print_json(json_object *value)
{
    print_value(value, 0);
    putchar('\n');
}

/* Snapshots. */

static void print_snapshot(const BlockSnapshot *s)
{
    g_autofree char *size = img_size_text(s->vm_state_size);
    g_autofree char *count =
        s->icount == UINT64_MAX ? g_strdup("") : g_strdup_printf("%" G_GUINT64_FORMAT, s->icount);
    uint64_t seconds = s->vm_clock_nsec / 1000000000;
    char date[64] = "", clock[64];
    time_t at = s->date_sec;
    struct tm tm;

    if (localtime_r(&at, &tm))
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
    g_snprintf(clock, sizeof(clock), "%02u:%02u:%02u.%03u", (unsigned)(seconds / 3600),
               (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60),
               (unsigned)(s->vm_clock_nsec / 1000000 % 1000));
    printf("%-9s %-16s %8s%20s%13s%11s\n", s->id, s->name, size, date, clock, count);
}

void img_print_snapshots(GPtrArray *snapshots)
{
    if (!snapshots->len)
        return;
    printf("Snapshot list:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE",
           "VM CLOCK", "ICOUNT");
    for (unsigned i = 0; i < snapshots->len; i++)
        print_snapshot(snapshots->pdata[i]);
}

/* -o help. */


static int by_name(const void *a, const void *b)
{
    return strcmp((*(const BlockCreateOption *const *)a)->name,
                  (*(const BlockCreateOption *const *)b)->name);
}

static void add_options(GPtrArray *list, const BlockCreateOption *o, bool amend)
{
    for (; o && o->name; o++) {
        bool known = false;

        for (unsigned i = 0; i < list->len; i++)
            known |= !strcmp(((BlockCreateOption *)list->pdata[i])->name, o->name);
        if (!known && (!amend || o->amendable))
            g_ptr_array_add(list, (gpointer)o);
    }
}

static void print_options(GPtrArray *list)
{
    static const char *const kinds[] = { "<bool (on/off)>", "<size>", "<num>", "<str>" };

    if (list->len)
        qsort(list->pdata, list->len, sizeof(gpointer), by_name);
    for (unsigned i = 0; i < list->len; i++) {
        const BlockCreateOption *o = list->pdata[i];
        g_autofree char *name = g_strdup_printf("%s=%s", o->name, kinds[o->kind]);

        printf("  %-22s - %s\n", name, o->help);
    }
}

static const BlockImageVerbs *image_of(const char *format)
{
    const BlockDriver *driver = block_driver_find(format);

    return driver ? driver->image : NULL;
}

void img_print_create_options(const char *format, const char *filename)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    const BlockImageVerbs *image = image_of(format);

    if (image)
        add_options(list, image->create_options, false);
    if (filename) {
        add_options(list, image_of("file")->create_options, false);
        printf("Supported options:\n");
    } else {
        printf("Supported %s options:\n", format);
    }
    print_options(list);
    if (!filename)
        printf("\nThe protocol level may support further options.\n"
               "Specify the target filename to include those options.\n");
}

void img_print_amend_options(const char *format)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    const BlockImageVerbs *image = image_of(format);

    if (image) {
        add_options(list, image->create_options, true);
        add_options(list, image->amend_options, true);
    }
    printf("Amend options for '%s':\n", format);
    print_options(list);
}

/* Progress: each percent, or when SIGUSR1 asks (vireo-img.c). */

static void show(ImgProgress *p, double percent)
{
    p->shown = percent;
    printf("    (%3.2f/100%%)\r", percent);
    fflush(stdout);
}

void img_progress_begin(Img *img, uint64_t total)
{
    img->progress.total = total;
    img->progress.done = 0;
    if (img->progress.bar)
        show(&img->progress, 0);
}

void img_progress_add(Img *img, uint64_t n)
{
    ImgProgress *p = &img->progress;
    uint64_t done = __atomic_add_fetch(&p->done, n, __ATOMIC_RELAXED);
    double percent = p->total ? 100.0 * MIN(done, p->total) / p->total : 100;

    if (p->bar && loop_is_current(loop_main()) && percent >= p->shown + 1)
        show(p, percent);
}

void img_progress_end(Img *img)
{
    if (!img->progress.bar)
        return;
    show(&img->progress, 100);
    putchar('\n');
}
