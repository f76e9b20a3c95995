/* Replaying a log of what happened to disks in memory. */
#include <string.h>
#include <sys/mman.h>
#include "src/base/util.h"
#include "tests/unit/ram-cut.h"

enum { SECTORS = RAM_BYTES / RAM_SECTOR };

static RamEntry *entry_of(unsigned i)
{
    return &g_array_index(ram.log, RamEntry, i);
}

RamReplay *ram_replay_new(void)
{
    RamReplay *r = g_new0(RamReplay, 1);

    for (unsigned i = 0; i < RAM_DISKS; i++) {
        r->disks[i].data = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        g_assert_true(r->disks[i].data != MAP_FAILED);
        memcpy(r->disks[i].data, ram.disks[i].data, ram.disks[i].size);
        r->disks[i].version = g_new0(uint32_t, SECTORS);
        r->disks[i].size = r->disks[i].latest_size = ram.disks[i].size;
    }
    r->pending = g_array_new(FALSE, FALSE, sizeof(unsigned));
    return r;
}

void ram_replay_free(RamReplay *r)
{
    for (unsigned i = 0; i < RAM_DISKS; i++) {
        munmap(r->disks[i].data, RAM_BYTES);
        g_free(r->disks[i].version);
    }
    g_array_free(r->pending, TRUE);
    g_free(r);
}

/* ---- flushes ---- */

/* The part of @entry in the sector of byte @at. */
static uint64_t part_of(const RamEntry *entry, uint64_t at)
{
    return MIN(ALIGN_DOWN(at, RAM_SECTOR) + RAM_SECTOR, entry->offset + entry->bytes) - at;
}

/* A sector does not become older. */
static void make_stable(RamReplay *r, unsigned index)
{
    const RamEntry *entry = entry_of(index);
    struct RamStable *disk = &r->disks[entry->disk];

    for (uint64_t at = entry->offset, n; at < entry->offset + entry->bytes; at += n) {
        n = part_of(entry, at);
        if (disk->version[at / RAM_SECTOR] > index + 1)
            continue;
        memcpy(disk->data + at, entry->data + (at - entry->offset), n);
        disk->version[at / RAM_SECTOR] = index + 1;
    }
    disk->size = MAX(disk->size, entry->offset + entry->bytes);
}

static void flush(RamReplay *r, const RamEntry *flushed)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < r->pending->len; i++) {
        unsigned index = g_array_index(r->pending, unsigned, i);
        const RamEntry *entry = entry_of(index);

        if (entry->disk == flushed->disk &&
            g_array_index(ram.ended, unsigned, entry->request) <= flushed->begun)
            make_stable(r, index);
        else
            g_array_index(r->pending, unsigned, kept++) = index;
    }
    g_array_set_size(r->pending, kept);
}

/* File systems keep the order of sizes: what was cut off does not come back. */
static void resize(RamReplay *r, unsigned disk_index, uint64_t bytes)
{
    struct RamStable *disk = &r->disks[disk_index];

    if (bytes < disk->latest_size)
        memset(disk->data + bytes, 0, disk->latest_size - bytes);
    disk->latest_size = bytes;
    disk->size = MIN(disk->size, bytes);
    for (unsigned i = 0; i < r->pending->len; i++) {
        RamEntry *entry = entry_of(g_array_index(r->pending, unsigned, i));

        if (entry->disk == disk_index)
            entry->bytes = entry->offset < bytes ? MIN(entry->bytes, bytes - entry->offset) : 0;
    }
}

const RamEntry *ram_replay_step(RamReplay *r)
{
    const RamEntry *entry = r->at < ram.log->len ? entry_of(r->at) : NULL;

    if (!entry)
        return NULL;
    if (entry->what == RAM_WRITTEN) {
        g_array_append_val(r->pending, r->at);
        r->disks[entry->disk].latest_size = MAX(r->disks[entry->disk].latest_size,
                                                entry->offset + entry->bytes);
    } else if (entry->what == RAM_FLUSHED) {
        flush(r, entry);
    } else if (entry->what == RAM_RESIZED) {
        resize(r, entry->disk, entry->bytes);
    }
    r->at++;
    return entry;
}

/* ---- cuts ---- */

/* Writes that were not flushed survive by sectors: none, some, most or all. */
static void keep_some(const RamReplay *r, GRand *rand)
{
    static const unsigned chances[] = { 0, 1, 4, 7, 8 };   /* of 8 */
    unsigned chance = chances[g_rand_int_range(rand, 0, G_N_ELEMENTS(chances))];

    for (unsigned i = 0; i < r->pending->len; i++) {
        unsigned index = g_array_index(r->pending, unsigned, i);
        const RamEntry *entry = entry_of(index);
        const uint32_t *version = r->disks[entry->disk].version;
        RamDisk *disk = &ram.disks[entry->disk];

        for (uint64_t at = entry->offset, n; at < entry->offset + entry->bytes; at += n) {
            n = part_of(entry, at);
            if ((g_rand_int(rand) & 7) >= chance || at + n > disk->size ||
                version[at / RAM_SECTOR] > index + 1)
                continue;
            memcpy(disk->data + at, entry->data + (at - entry->offset), n);
        }
    }
}

static void restore(const RamReplay *r, unsigned index, uint64_t size)
{
    RamDisk *disk = &ram.disks[index];

    memset(disk->data, 0, MAX(disk->size, size));
    memcpy(disk->data, r->disks[index].data, size);
    disk->size = size;
}

void ram_replay_cut(const RamReplay *r, GRand *rand)
{
    for (unsigned i = 0; i < RAM_DISKS; i++)
        restore(r, i, g_rand_boolean(rand) ? r->disks[i].size : r->disks[i].latest_size);
    keep_some(r, rand);
}

unsigned ram_replay_tear(const RamReplay *r, unsigned first, unsigned end)
{
    unsigned sector = 0;

    for (unsigned i = 0; i < RAM_DISKS; i++)
        restore(r, i, r->disks[i].latest_size);
    for (unsigned i = 0; i < r->pending->len; i++) {
        const RamEntry *entry = entry_of(g_array_index(r->pending, unsigned, i));

        for (uint64_t at = entry->offset, n; at < entry->offset + entry->bytes; at += n, sector++) {
            n = part_of(entry, at);
            if (sector >= first && sector < end)
                memcpy(ram.disks[entry->disk].data + at, entry->data + (at - entry->offset), n);
        }
    }
    return sector;
}

/* ---- watching ---- */

static RamReplay *watched;

void ram_watch(void)
{
    g_clear_pointer(&watched, ram_replay_free);
    ram_log_start();
    watched = ram_replay_new();
}

void ram_power_cut(GRand *rand)
{
    while (ram_replay_step(watched))
        continue;
    ram_replay_cut(watched, rand);
    ram.fail_at = 0;
    ram.dead = false;
    ram_watch();
}
