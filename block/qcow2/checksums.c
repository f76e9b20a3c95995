#include "block/qcow2/checksums.h"
#include "src/base/crc32c.h"
#include "src/base/trace.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { AT_CRC = 0, AT_VERSION = 4, AT_OFFSET = 8, AT_BYTES = 16, AT_TABLE_CRC = 24, AT_BLOCK_BITS = 28,
       EXTENSION_BYTES = 32 };
enum { VERSION = 1, BLOCK_BITS_MAX = 12, RUN_FIXED = 16 };
enum { GROUP_BLOCKS = 16, GROUPS_MAX = 1 << 18, TRIES = 8 };
#define STORED_MAX (64 * MiB)

/* ---- sums in memory ---- */

typedef struct Group {                     /* the key is the number of its first block / GROUP_BLOCKS + 1 */
    uint64_t index;
    uint16_t known;                        /* a bit for each; never 0 */
    uint32_t sums[GROUP_BLOCKS];
} Group;

static uint64_t block_bytes(const Qcow2 *s)
{
    return 1ull << s->sums->block_bits;
}

static gpointer key_of(uint64_t group)
{
    return GSIZE_TO_POINTER(group + 1);
}

/* All of these under the mutex; @block: the host offset by block_bits. */

static const uint32_t *find(const Qcow2Sums *sums, uint64_t block)
{
    const Group *group = g_hash_table_lookup(sums->groups, key_of(block / GROUP_BLOCKS));

    return group && group->known >> block % GROUP_BLOCKS & 1 ? &group->sums[block % GROUP_BLOCKS]
                                                              : NULL;
}

/* Beyond the limit (tables of 16 GiB) no more are known. */
static void put(Qcow2Sums *sums, uint64_t block, uint32_t sum)
{
    Group *group = g_hash_table_lookup(sums->groups, key_of(block / GROUP_BLOCKS));

    if (!group && g_hash_table_size(sums->groups) >= GROUPS_MAX)
        return;
    if (!group) {
        group = g_new0(Group, 1);
        group->index = block / GROUP_BLOCKS;
        g_hash_table_insert(sums->groups, key_of(group->index), group);
    }
    group->known |= 1u << block % GROUP_BLOCKS;
    group->sums[block % GROUP_BLOCKS] = sum;
}

static void drop(Qcow2Sums *sums, uint64_t block)
{
    Group *group = g_hash_table_lookup(sums->groups, key_of(block / GROUP_BLOCKS));

    if (!group)
        return;
    group->known &= ~(1u << block % GROUP_BLOCKS);
    if (!group->known)
        g_hash_table_remove(sums->groups, key_of(group->index));
}

static void drop_range(Qcow2Sums *sums, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + bytes;

    for (uint64_t block = offset >> sums->block_bits; block << sums->block_bits < end; block++)
        drop(sums, block);
}

void qcow2_sums_note_gone(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    pthread_mutex_lock(&s->sums->mutex);
    drop_range(s->sums, offset, bytes);
    pthread_mutex_unlock(&s->sums->mutex);
}

static uint32_t add_zeroes(uint32_t sum, uint64_t bytes)
{
    static const uint8_t zeroes[1 << BLOCK_BITS_MAX];

    return crc32c(sum, zeroes, bytes);
}

void qcow2_sums_note_zeroed(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    uint32_t sum = add_zeroes(0, block_bytes(s));

    pthread_mutex_lock(&s->sums->mutex);
    for (uint64_t at = offset; at < offset + bytes; at += block_bytes(s))
        put(s->sums, at >> s->sums->block_bits, sum);
    pthread_mutex_unlock(&s->sums->mutex);
}

void qcow2_sums_forget(Qcow2 *s)
{
    if (!s->sums)
        return;
    pthread_mutex_lock(&s->sums->mutex);
    g_hash_table_remove_all(s->sums->groups);
    pthread_mutex_unlock(&s->sums->mutex);
}

bool qcow2_sums_accept(Qcow2 *s, const Qcow2Mismatch *m)
{
    uint64_t block = m->offset >> s->sums->block_bits;
    const uint32_t *sum;
    bool same;

    pthread_mutex_lock(&s->sums->mutex);
    sum = find(s->sums, block);
    same = sum && *sum == m->stored;
    if (same)
        put(s->sums, block, m->found);
    pthread_mutex_unlock(&s->sums->mutex);
    return same;
}

void qcow2_sums_start(Qcow2 *s, bool told)
{
    s->sums = g_new0(Qcow2Sums, 1);
    pthread_mutex_init(&s->sums->mutex, NULL);
    co_mutex_init(&s->sums->use_lock);
    s->sums->block_bits = MIN(s->cluster_bits, BLOCK_BITS_MAX);
    s->sums->told = s->sums->sound = told;
    s->sums->groups = g_hash_table_new_full(NULL, NULL, NULL, g_free);
}

void qcow2_sums_free(Qcow2 *s)
{
    Qcow2Sums *sums = g_steal_pointer(&s->sums);

    if (!sums)
        return;
    g_hash_table_destroy(sums->groups);
    pthread_mutex_destroy(&sums->mutex);
    g_free(sums);
}

/* ---- tables: reading ---- */

static uint64_t changes(Qcow2Sums *sums)
{
    uint64_t n;

    pthread_mutex_lock(&sums->mutex);
    n = sums->changes;
    pthread_mutex_unlock(&sums->mutex);
    return n;
}

/* False: it is not what it was.  Where writes are under way nothing is learned, as it may be older than they
 * are. */
static bool check_block(Qcow2 *s, uint64_t offset, uint32_t found, uint64_t since)
{
    Qcow2Sums *sums = s->sums;
    const uint32_t *sum;
    bool ok = true;

    pthread_mutex_lock(&sums->mutex);
    sum = find(sums, offset >> sums->block_bits);
    if (sum)
        ok = *sum == found;
    else if (s->writable && sums->changes == since && !sums->writing)
        put(sums, offset >> sums->block_bits, found);
    pthread_mutex_unlock(&sums->mutex);
    return ok;
}

static bool known_sum(Qcow2Sums *sums, uint64_t offset, uint32_t *ret)
{
    const uint32_t *sum;

    pthread_mutex_lock(&sums->mutex);
    sum = find(sums, offset >> sums->block_bits);
    *ret = sum ? *sum : 0;
    pthread_mutex_unlock(&sums->mutex);
    return sum != NULL;
}

/* A table's last block may be short. */
static uint32_t sum_block(const Qcow2 *s, const uint8_t *data, uint64_t bytes)
{
    return add_zeroes(crc32c(0, data, bytes), block_bytes(s) - bytes);
}

/* It is read again, by itself.  False: what was read before may be what a write has replaced. */
static bool co_fn confirm(Qcow2 *s, Qcow2Mismatch *m, uint64_t bytes)
{
    uint8_t *data = qcow2_memory(s, bytes);
    uint32_t after = 0;
    bool same = known_sum(s->sums, m->offset, &m->stored) && data &&
                qcow2_meta_read(s, m->offset, data, bytes, m->what, NULL) == 0 &&
                known_sum(s->sums, m->offset, &after) && after == m->stored;

    if (same)
        m->found = sum_block(s, data, bytes);
    free(data);
    return same && m->found != m->stored;
}

/* False: not all of it could be compared. */
static bool co_fn compare(Qcow2 *s, uint64_t offset, const uint8_t *data, uint64_t bytes,
                          const char *what, uint64_t since, GArray *found)
{
    Qcow2Mismatch m = { .what = what, .table = ALIGN_DOWN(offset, s->cluster_size) };
    uint64_t size = block_bytes(s), part;

    for (m.offset = ALIGN_UP(offset, size); m.offset < offset + bytes; m.offset += size) {
        part = MIN(size, offset + bytes - m.offset);
        if (check_block(s, m.offset, sum_block(s, data + (m.offset - offset), part), since))
            continue;
        if (!confirm(s, &m, part))
            return false;
        g_array_append_val(found, m);
    }
    return true;
}

int co_fn qcow2_table_look(Qcow2 *s, uint64_t offset, void *buffer, uint64_t bytes, const char *what,
                           GArray *found, GError **error)
{
    unsigned before = found->len;

    for (unsigned i = 0;; i++) {
        uint64_t since = s->sums ? changes(s->sums) : 0;
        int ret = qcow2_meta_read(s, offset, buffer, bytes, what, error);

        if (ret < 0 || !s->sums || compare(s, offset, buffer, bytes, what, since, found))
            return ret;
        g_array_set_size(found, before);
        if (i == TRIES)
            return 0;                      /* it is written all the time: nothing is said of it */
    }
}

char *qcow2_mismatch_text(const char *verb, const Qcow2Mismatch *m)
{
    return g_strdup_printf("%s checksum of the %s at offset 0x%" PRIx64 ": the block at 0x%" PRIx64
                           " has %08" PRIx32 ", stored is %08" PRIx32, verb, m->what, m->table,
                           m->offset, m->found, m->stored);
}

static int co_fn tell(Qcow2 *s, const Qcow2Mismatch *m, GError **error)
{
    g_autofree char *text = qcow2_mismatch_text("wrong", m);

    fail(error, ERR_CORRUPT, "'%s': %s", block_node_filename(s->file), text);
    error_hint(error, "vireo-img check tells whether it fits the other tables; check -r all takes it as it "
               "is");
    return qcow2_corruption(s, true, m->offset, block_bytes(s), "%s", text);
}

int co_fn qcow2_table_read(Qcow2 *s, uint64_t offset, void *buffer, uint64_t bytes, const char *what,
                           GError **error)
{
    g_autoptr(GArray) found = NULL;
    int ret;

    if (G_LIKELY(!s->sums) || !s->sums->told)
        return qcow2_meta_read(s, offset, buffer, bytes, what, error);
    found = g_array_new(FALSE, FALSE, sizeof(Qcow2Mismatch));
    ret = qcow2_table_look(s, offset, buffer, bytes, what, found, error);
    return ret == 0 && found->len ? tell(s, &g_array_index(found, Qcow2Mismatch, 0), error) : ret;
}

/* ---- tables: writing ---- */

/* Until it is written nothing is known of it. */
static void begin_write(Qcow2Sums *sums, uint64_t offset, uint64_t bytes)
{
    pthread_mutex_lock(&sums->mutex);
    sums->writing++;
    sums->changes++;
    drop_range(sums, offset, bytes);
    pthread_mutex_unlock(&sums->mutex);
}

static void end_write(Qcow2Sums *sums)
{
    pthread_mutex_lock(&sums->mutex);
    sums->writing--;
    sums->changes++;
    pthread_mutex_unlock(&sums->mutex);
}

typedef struct Cursor {
    const struct iovec *iov;
    size_t done;                           /* of the first one */
} Cursor;

/* The next @bytes; skipping does not look at them. */
static uint32_t sum_of(Cursor *c, uint64_t bytes, bool skip)
{
    uint32_t sum = 0;

    while (bytes) {
        uint64_t part = MIN(bytes, c->iov->iov_len - c->done);

        if (!skip)
            sum = crc32c(sum, (const uint8_t *)c->iov->iov_base + c->done, part);
        bytes -= part;
        c->done += part;
        if (c->done == c->iov->iov_len)
            *c = (Cursor){ c->iov + 1, 0 };
    }
    return sum;
}

/* Before the write is noted as ended, so that nobody learns in between what was there before.  A block of
 * which only the end was written stays unknown. */
static void note_written(Qcow2 *s, uint64_t offset, const struct iovec *iov, uint64_t bytes)
{
    uint64_t size = block_bytes(s), first = MIN(ALIGN_UP(offset, size), offset + bytes);
    Cursor cursor = { iov, 0 };

    sum_of(&cursor, first - offset, true);
    for (uint64_t at = first; at < offset + bytes; at += size) {
        uint64_t part = MIN(size, offset + bytes - at);
        uint32_t sum = add_zeroes(sum_of(&cursor, part, false), size - part);

        pthread_mutex_lock(&s->sums->mutex);
        put(s->sums, at >> s->sums->block_bits, sum);
        pthread_mutex_unlock(&s->sums->mutex);
    }
}

int co_fn qcow2_table_writev(Qcow2 *s, uint64_t offset, const struct iovec *iov, int iovcnt,
                             uint64_t bytes, const char *what, unsigned own, GError **error)
{
    int ret = 0;

    if (G_LIKELY(!s->sums))
        return qcow2_meta_writev(s, offset, iov, iovcnt, bytes, what, own, error);
    ret = qcow2_sums_begin_use(s, error);
    if (ret < 0)
        return ret;
    begin_write(s->sums, offset, bytes);
    ret = qcow2_meta_writev(s, offset, iov, iovcnt, bytes, what, own, error);
    if (ret == 0)
        note_written(s, offset, iov, bytes);
    end_write(s->sums);
    return ret;
}

int co_fn qcow2_table_write(Qcow2 *s, uint64_t offset, const void *buffer, uint64_t bytes,
                            const char *what, unsigned own, GError **error)
{
    struct iovec iov = { (void *)buffer, bytes };

    return qcow2_table_writev(s, offset, &iov, 1, bytes, what, own, error);
}

/* ---- the extension ---- */

bool qcow2_sums_on(const Qcow2 *s)
{
    const Qcow2Extension *e = s->header.version >= 3 ? qcow2_extension(s, QCOW2_EXT_CHECKSUMS) : NULL;

    return e && e->length == EXTENSION_BYTES && ld_be32(e->data + AT_VERSION) == VERSION;
}

static void set_extension(Qcow2 *s, uint64_t offset, uint64_t bytes, uint32_t crc)
{
    uint8_t data[EXTENSION_BYTES] = { 0 };

    st_be32(data + AT_VERSION, VERSION);
    st_be64(data + AT_OFFSET, offset);
    st_be64(data + AT_BYTES, bytes);
    st_be32(data + AT_TABLE_CRC, crc);
    st_be32(data + AT_BLOCK_BITS, MIN(s->cluster_bits, BLOCK_BITS_MAX));
    st_be32(data + AT_CRC, crc32c(0, data + AT_VERSION, EXTENSION_BYTES - AT_VERSION));
    qcow2_extension_set(s, QCOW2_EXT_CHECKSUMS, data, sizeof(data));
}

void qcow2_sums_set_on(Qcow2 *s, bool on)
{
    if (on)
        set_extension(s, 0, 0, 0);
    else
        qcow2_extension_set(s, QCOW2_EXT_CHECKSUMS, NULL, 0);
}

/* In the first sector, with those of bitmaps and their journal. */
bool qcow2_sums_has_room(const Qcow2 *s)
{
    return qcow2_first_sector_has_room(s, 8 + EXTENSION_BYTES);
}

/* ---- stored sums ---- */

static bool parse(Qcow2 *s, const uint8_t *table, uint64_t bytes)
{
    uint64_t size = block_bytes(s);

    for (uint64_t at = 0; at < bytes;) {
        uint64_t offset, n;

        if (bytes - at < RUN_FIXED)
            return false;
        offset = ld_be64(table + at);
        n = ld_be64(table + at + 8);
        at += RUN_FIXED;
        if (offset % size || offset > INT64_MAX || !n || n > (bytes - at) / 4 ||
            n > (INT64_MAX - offset) / size)
            return false;
        for (uint64_t i = 0; i < n; i++, at += 4)
            put(s->sums, (offset >> s->sums->block_bits) + i, ld_be32(table + at));
    }
    return true;
}

static bool co_fn load_from(Qcow2 *s, const uint8_t *extension)
{
    uint64_t offset = ld_be64(extension + AT_OFFSET), bytes = ld_be64(extension + AT_BYTES);
    uint8_t *table;
    bool ok;

    if (ld_be32(extension + AT_CRC) !=
            crc32c(0, extension + AT_VERSION, EXTENSION_BYTES - AT_VERSION) ||
        ld_be32(extension + AT_BLOCK_BITS) != s->sums->block_bits || bytes > STORED_MAX || !bytes ||
        offset > (uint64_t)block_node_size(s->file) ||
        bytes > (uint64_t)block_node_size(s->file) - offset)
        return false;
    table = qcow2_memory(s, bytes);
    ok = table && qcow2_meta_read(s, offset, table, bytes, "checksums", NULL) == 0 &&
         crc32c(0, table, bytes) == ld_be32(extension + AT_TABLE_CRC) && parse(s, table, bytes);
    free(table);
    return ok;
}

void co_fn qcow2_sums_open(Qcow2 *s, bool check)
{
    bool valid = s->header.autoclear & QCOW2_AUTOCLEAR_CHECKSUMS;

    /* What another program writes meanwhile is no corruption. */
    if (!qcow2_sums_on(s) || (!valid && !s->writable) || block_node_force_share(s->node))
        return;
    qcow2_sums_start(s, !check);
    s->sums->stored = valid && load_from(s, qcow2_extension(s, QCOW2_EXT_CHECKSUMS)->data);
    if (s->sums->stored == valid)
        return;
    warn_report("'%s': the stored checksums of tables are damaged themselves: they are not used",
                block_node_filename(s->node));
    qcow2_sums_forget(s);
    if (!s->writable)
        qcow2_sums_free(s);
}

int co_fn qcow2_sums_end_stored(Qcow2 *s, GError **error)
{
    int ret = 0;

    co_mutex_lock(&s->sums->use_lock);
    if (qcow2_sums_stored(s))
        ret = qcow2_set_autoclear(s, 0, QCOW2_AUTOCLEAR_CHECKSUMS, error);
    if (ret == 0)
        __atomic_store_n(&s->sums->stored, 0, __ATOMIC_RELEASE);
    co_mutex_unlock(&s->sums->use_lock);
    return ret;
}

/* Storing. */

static int by_index(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const Group *)a)->index, y = ((const Group *)b)->index;

    return (x > y) - (x < y);
}

static void put_be64(GByteArray *table, uint64_t value)
{
    uint8_t bytes[8];

    st_be64(bytes, value);
    g_byte_array_append(table, bytes, sizeof(bytes));
}

static void put_be32(GByteArray *table, uint32_t value)
{
    uint8_t bytes[4];

    st_be32(bytes, value);
    g_byte_array_append(table, bytes, sizeof(bytes));
}

typedef struct Run {
    uint64_t next, n;                      /* the block that would go on with it */
    unsigned count_at;                     /* where the table has n */
} Run;

static void put_block(GByteArray *table, Run *run, const Qcow2Sums *sums, uint64_t block, uint32_t sum)
{
    if (!run->n || block != run->next) {
        put_be64(table, block << sums->block_bits);
        *run = (Run){ .count_at = table->len };
        put_be64(table, 0);
    }
    put_be32(table, sum);
    run->next = block + 1;
    st_be64(table->data + run->count_at, ++run->n);
}

static GByteArray *make_stored(const Qcow2Sums *sums)
{
    g_autoptr(GList) groups = g_list_sort(g_hash_table_get_values(sums->groups), by_index);
    GByteArray *table = g_byte_array_new();
    Run run = { 0 };

    for (GList *link = groups; link; link = link->next) {
        const Group *group = link->data;

        for (unsigned k = 0; k < GROUP_BLOCKS; k++)
            if (group->known >> k & 1)
                put_block(table, &run, sums, group->index * GROUP_BLOCKS + k, group->sums[k]);
    }
    return table;
}

/* The host offset behind the last cluster that has a refcount. */
static int co_fn used_end(Qcow2 *s, uint64_t *ret)
{
    uint64_t per_block = 1ull << s->refblock_bits, refcount;

    for (uint64_t i = s->reftable_size; i-- > 0;) {
        if (!(s->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK))
            continue;
        for (uint64_t k = per_block; k-- > 0;) {
            int err = qcow2_refcount_get(s, i * per_block + k, &refcount);

            if (err < 0)
                return err;
            if (refcount) {
                *ret = (i * per_block + k + 1) << s->cluster_bits;
                return 0;
            }
        }
    }
    return -EINVAL;
}

/* Where metadata has no refcount, nothing is written to what looks free. */
static int co_fn write_stored(Qcow2 *s, const GByteArray *table, uint64_t *ret_offset, GError **error)
{
    uint64_t bytes = ALIGN_UP((uint64_t)table->len, block_bytes(s));
    uint8_t *data = qcow2_memory(s, bytes);
    int ret = data ? used_end(s, ret_offset) : -ENOMEM;

    if (ret == 0 && qcow2_overlap_hit(s, *ret_offset, bytes))
        ret = -EINVAL;
    if (ret == 0) {
        memset(data + table->len, 0, bytes - table->len);
        memcpy(data, table->data, table->len);
        ret = qcow2_meta_write(s, *ret_offset, data, bytes, "checksums", 0, error);
        /* Should the file have become longer, what it has there is not zeroes. */
        qcow2_not_fresh(s, ALIGN_UP(*ret_offset + bytes, s->cluster_size));
    }
    free(data);
    return ret == 0 ? qcow2_flush_file(s, error) : ret;
}

/* The extension and the bit, in one sector. */
static int co_fn publish(Qcow2 *s, const GByteArray *table, uint64_t offset, GError **error)
{
    int ret;

    set_extension(s, offset, table->len, crc32c(0, table->data, table->len));
    s->header.autoclear |= QCOW2_AUTOCLEAR_CHECKSUMS;
    ret = qcow2_header_write(s, error);
    if (ret < 0)
        s->header.autoclear &= ~QCOW2_AUTOCLEAR_CHECKSUMS;
    else
        __atomic_store_n(&s->sums->stored, 1, __ATOMIC_RELEASE);
    return ret;
}

void co_fn qcow2_sums_store(Qcow2 *s)
{
    g_autoptr(GByteArray) table = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t offset;
    int ret;

    if (!s->sums || !s->sums->sound || qcow2_sums_stored(s))
        return;                            /* or nothing was written since they were */
    table = make_stored(s->sums);
    ret = table->len && table->len <= STORED_MAX ? write_stored(s, table, &offset, &error) : -EFBIG;
    if (ret == 0)
        ret = publish(s, table, offset, &error);
    if (ret < 0)
        TRACE(qcow2_checksums_not_stored, "'%s': %s", block_node_filename(s->node),
              error ? error->message : g_strerror(-ret));
}
