/*
 * A qcow2 image's life.  The first byte says how the input is meant:
 *
 *   even: a kind of image, made by ourselves (the next two bytes), changes of its metadata
 *         (fuzz-qcow2-damage.c), options, then operations to the end of the input;
 *   odd:  how many bytes of operations there are, these, then an image as it is.
 *
 * Nothing may crash, leak, take long or much memory.  What an image holds that was not damaged is
 * compared with a flat model after each operation, and check must find no error in it; neither may a
 * request that failed cost more than leaked clusters.
 *
 * FUZZ_VERBOSE=1 names the operations of an input.
 */
#include "block/node.h"
#include "tests/fuzz/fuzz-qcow2.h"

static const Kind kinds[] = {
    { "cluster-size=512", 40 * KiB, 512 },
    { "cluster-size=512,version=v2", 48 * KiB, 512, .v2 = true },
    { "cluster-size=512,refcount-bits=1", 48 * KiB, 512, .narrow = true },
    { "cluster-size=1024,refcount-bits=64", 64 * KiB, 1024 },
    { "cluster-size=4096,refcount-bits=2", 96 * KiB, 4096, .narrow = true },
    { "cluster-size=4096", 128 * KiB, 4096 },
    { "cluster-size=65536", 256 * KiB, 65536 },
    { "cluster-size=16384,extended-l2=on", 160 * KiB, 16384 },
    { "cluster-size=65536,extended-l2=on,refcount-bits=8", 256 * KiB, 65536, .narrow = true },
    { "cluster-size=4096,compression-type=zstd,lazy-refcounts=on", 128 * KiB, 4096 },
    { "cluster-size=4096,data-file=memdata", 128 * KiB, 4096, .data_file = true },
    { "cluster-size=4096,data-file=memdata,data-file-raw=on", 96 * KiB, 4096, .data_file = true },
    { "cluster-size=4096,encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10", 64 * KiB,
      4096, .luks = true },
    { "cluster-size=16384,extended-l2=on,preallocation=metadata", 160 * KiB, 16384 },
    { "cluster-size=128k", 256 * KiB, 128 << 10 },
    { "cluster-size=512,refcount-bits=8", 256 * KiB, 512, .narrow = true },
    { "cluster-size=4096,checksums=on", 128 * KiB, 4096 },
};

/* ---- images ---- */

typedef struct Create {
    BlockGraph *graph;
    json_object *options;
} Create;

static void co_fn create_run(void *opaque)
{
    Create *c = opaque;
    g_autoptr(GError) error = NULL;

    block_co_create(c->graph, c->options, &error);
    if (error)
        fuzz_fail("%s", error->message);
}

static void open_memory(World *w, const char *text)
{
    g_autoptr(json_object) options = options_parse(text, "driver", NULL);

    g_assert_nonnull(block_node_open(w->graph, options, NULL));
}

static void create(World *w)
{
    g_autofree char *text = g_strdup_printf("driver=qcow2,file=mem,size=%" G_GUINT64_FORMAT ",%s%s",
                                            w->kind->size, w->kind->create, w->with & WITH_BACKING
                                                ? ",backing-file=base,backing-fmt=raw" : "");
    g_autoptr(json_object) options = options_parse(text, "driver", NULL);
    Create c = { w->graph, options };

    open_memory(w, "driver=ram,node-name=mem");
    open_memory(w, "driver=ram,node-name=memdata,disk=1");
    co_run_sync(create_run, &c);
    block_node_delete(w->graph, "mem", NULL);
    block_node_delete(w->graph, "memdata", NULL);
}

/* Operations that make images interesting. */
static const uint8_t fill_program[] = {
    1, 3, 0, 0, 2, 0x11, 3, 3, 0x22, 3, 4, 0x23, 3, 5, 0x24, 4, 1, 3, 7, 0, 1, 1, 1, 9, 0, 40, 0x31,
    1, 2, 12, 0, 1, 0x41, 4, 0, 3, 0, 0, 0, 6, 13, 0, 1, 20,
}, snapshot_program[] = {
    8, 0, 1, 1, 3, 0, 9, 0x55, 8, 1, 4, 1, 3, 2, 0, 1, 6,
}, bitmap_program[] = {
    16, 0, 16, 33, 1, 1, 5, 0, 3, 0x66,
};

static void run_program(World *w, unsigned with, const uint8_t *program, size_t size)
{
    Input in = { program, program + size };

    if (w->with & with)
        run_operations(w, &in);
}

static void make_backing(World *w)
{
    RamDisk *disk = &ram.disks[DISK_BACKING];

    disk->size = w->with & WITH_BACKING ? w->kind->size * 3 / 4 : 0;
    for (uint64_t i = 0; i < disk->size; i++)
        disk->data[i] = 0xb0 | (i >> 9 & 15);
    w->models.now.size = w->kind->size;
    memset(w->models.now.bytes, 0, MODEL_BYTES);
    show_backing(w);
}

static void make_image(World *w)
{
    make_backing(w);
    create(w);
    open_image(w, 0);
    run_program(w, WITH_CONTENT, fill_program, sizeof(fill_program));
    run_program(w, WITH_SNAPSHOTS, snapshot_program, sizeof(snapshot_program));
    run_program(w, WITH_BITMAPS, bitmap_program, sizeof(bitmap_program));
    close_image(w);
}

/* Made once for each kind. */
typedef struct Prepared {
    GBytes *disks[RAM_DISKS];
    Models models;
} Prepared;

static void copy_models(Models *to, const Models *from)
{
    to->now = from->now;

    for (unsigned i = 0; i < SNAPSHOTS; i++)
        to->snapshots[i] = from->snapshots[i] ? g_memdup2(from->snapshots[i], sizeof(Disk)) : NULL;
}

static Prepared *prepare(World *w)
{
    Prepared *p = g_new0(Prepared, 1);

    make_image(w);
    for (unsigned i = 0; i < RAM_DISKS; i++)
        p->disks[i] = g_bytes_new(ram.disks[i].data, ram.disks[i].size);
    p->models = w->models;
    memset(w->models.snapshots, 0, sizeof(w->models.snapshots));   /* they are p's now */
    return p;
}

static void take_image(World *w, unsigned kind, unsigned with)
{
    static Prepared *prepared[G_N_ELEMENTS(kinds)][WITH_ALL + 1];
    Prepared **p;

    w->kind = &kinds[kind % G_N_ELEMENTS(kinds)];
    w->with = with & WITH_ALL & (w->kind->data_file ? ~WITH_BACKING : WITH_ALL);
    p = &prepared[w->kind - kinds][w->with];
    if (!*p)
        *p = prepare(w);
    ram_clear();
    for (unsigned i = 0; i < RAM_DISKS; i++) {
        ram.disks[i].size = g_bytes_get_size((*p)->disks[i]);
        if (ram.disks[i].size)
            memcpy(ram.disks[i].data, g_bytes_get_data((*p)->disks[i], NULL), ram.disks[i].size);
    }
    copy_models(&w->models, &(*p)->models);
}

static void co_fn final_check(void *opaque)
{
    check_image(opaque, 0);
    compare_all(opaque);
}

static void finish(World *w)
{
    close_image(w);
    ram.fail_at = 0;
    if (w->sound) {
        open_image(w, 0);
        co_run_sync(final_check, w);
        close_image(w);
    }
    forget_snapshots(&w->models);
    while (loop_iterate(loop_main(), false))
        continue;
}

/* ---- inputs ---- */

/* What the image's owner is told would fill the log: the linker puts these in its place (--wrap). */
void __wrap_warn_report(const char *format, ...);
void __wrap_error_report(const GError *error);

void __wrap_warn_report(const char *format, ...)
{
}

void __wrap_error_report(const GError *error)
{
}

static World *world_new(void)
{
    static const char text[] = "{\"qom-type\": \"secret\", \"id\": \"key\", \"data\": \"open\"}";
    g_autoptr(json_object) secret = json_parse(text, strlen(text), NULL);
    World *w = g_new0(World, 1);

    w->root = object_new_by_name("container", NULL);
    w->graph = block_graph_new(w->root, NULL);
    g_assert_nonnull(object_create_user(w->root, secret, NULL));
    w->verbose = g_getenv("FUZZ_VERBOSE");
    return w;
}

static void run_made_image(World *w, Input *in)
{
    unsigned kind = take(in, 1), with = take(in, 1);
    RamDisk *image = &ram.disks[DISK_IMAGE];

    w->sound = true;
    take_image(w, kind, with);
    if (!w->kind->luks)
        w->sound = !damage_image(in, image->data, &image->size, RAM_BYTES);
    open_image(w, with >> 4);
    run_operations(w, in);
}

static void run_raw_image(World *w, Input *in)
{
    uint64_t wanted = take(in, 1);
    Input program = { in->p, in->p + MIN(wanted, (uint64_t)(in->end - in->p)) };
    RamDisk *image = &ram.disks[DISK_IMAGE];

    w->kind = NULL;
    w->with = 0;
    w->sound = false;
    image->size = in->end - program.end;
    memcpy(image->data, program.end, image->size);
    open_image(w, 0);
    run_operations(w, &program);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static World *world;
    Input in = { data, data + size };

    if (!world)
        world = world_new();
    if (size > 65536)
        return 0;
    fuzz_limit_cpu();
    ram_clear();
    world->failed = false;
    if (take(&in, 1) & 1)
        run_raw_image(world, &in);
    else
        run_made_image(world, &in);
    finish(world);
    return 0;
}
