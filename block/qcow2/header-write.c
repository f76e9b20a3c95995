/*
 * Writing the header so that a power cut at any sector leaves what it was or what it is to be.
 *
 * A disk writes a sector of 512 bytes whole or not at all.  The header's first one has all fields, and says
 * where in the cluster the rest is: extensions, one after the other, and the backing file's name anywhere
 * behind them.  So a step from one header to another is
 *
 *   1. what the new one has in other sectors is written to where the old one has nothing; a flush
 *   2. the first sector is written; a flush
 *   3. what only the old one had in other sectors is cleared
 *
 * and it may be taken if no byte in other sectors that the old one uses means something else to the new one.
 *
 * Where fields change, and what extensions in the first sector say, all else stays where it is: one
 * write.  Else the header is laid out anew.  Where that would overwrite what the old one has, a step to a third
 * layout comes first.  It has a gap, an extension that means nothing, so that all that lies behind the
 * gap can be anywhere in the cluster.
 *
 * Requests may be under way while names change: they write to the first sector (where the refcount table is, for
 * one) and to the journal's marks.  So they are held while the first sector is written, which has their
 * fields then; others in which there are marks are left alone.
 *
 * Our own layout: fields; the extensions that change often (bitmaps, journal, checksums), in the first sector;
 * the gap, if there is one; other extensions, feature names, the end; the backing file's name.  The journal's marks
 * are the end of the cluster.
 */
#include "block/qcow2/journal.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512, STEPS_MAX = 4, PLACES_TRIED = 1024 };

/* "Feature name table": what to call what a reader does not know. */
static const struct {
    uint8_t type, bit;                     /* 0: incompatible, 1: compatible, 2: autoclear */
    const char *name;
} features[] = {
    { 0, 0, "dirty bit" },       { 0, 1, "corrupt bit" },        { 0, 2, "external data file" },
    { 0, 3, "compression type" }, { 0, 4, "extended L2 entries" }, { 1, 0, "lazy refcounts" },
    { 2, 0, "bitmaps" },         { 2, 1, "raw external data" },
    { 2, 56, "bitmap journal (vireo)" }, { 2, 57, "checksums of tables (vireo)" },
};

typedef struct Span {                      /* bytes of the cluster that mean something */
    uint64_t first, end;
} Span;

typedef struct Layout {
    uint8_t *data;                         /* the cluster */
    uint64_t size, used, limit;            /* used, limit: while it is made */
    GArray *spans;                         /* of Span */
} Layout;

typedef struct Item {                      /* an extension that the header is to have */
    uint32_t type, length;
    const void *data;
    bool in_first_sector, placed;
} Item;

typedef struct Writer {
    Qcow2 *s;
    GArray *items;                         /* of Item */
    Layout old, new;
    bool alone;                            /* requests are not under way; else only names change */
} Writer;

/* What a header has where. */

typedef struct Walk {
    const uint8_t *data;
    uint64_t next, end;
    uint64_t at;                           /* of the extension found: its data's offset */
    uint32_t type, length;
} Walk;

static uint64_t walk_start(Walk *w, const Layout *l)
{
    uint64_t name = ld_be64(l->data + 8);
    uint64_t fields = ld_be32(l->data + 4) < 3 ? QCOW2_V2_HEADER : ld_be32(l->data + 100);

    *w = (Walk){ .data = l->data, .next = fields, .end = name && name <= l->size ? name : l->size };
    return MIN(fields, l->size);
}

/* The end is an extension, too; behind it there are no more. */
static bool walk(Walk *w)
{
    if (w->next > w->end || w->end - w->next < 8)
        return false;
    w->type = ld_be32(w->data + w->next);
    w->length = w->type == QCOW2_EXT_END ? 0 : ld_be32(w->data + w->next + 4);
    w->at = w->next + 8;
    if (w->length > w->end - w->at)
        return false;
    w->next = w->type == QCOW2_EXT_END ? w->end : w->at + ALIGN_UP((uint64_t)w->length, 8);
    return true;
}

static void add_span(Layout *l, uint64_t first, uint64_t bytes)
{
    Span span = { first, MIN(first + bytes, l->size) };

    if (span.first < span.end)
        g_array_append_val(l->spans, span);
}

/* In a cluster that has no header, nothing means anything. */
static void find_spans(Layout *l)
{
    const uint8_t *bitmaps = NULL, *journal = NULL;
    uint64_t marks = 0;
    Walk w;

    g_array_set_size(l->spans, 0);
    if (ld_be32(l->data) != QCOW2_MAGIC)
        return;
    add_span(l, 0, walk_start(&w, l));
    while (walk(&w)) {
        add_span(l, w.at - 8, 8 + (w.type == QCOW2_EXT_GAP ? 0 : (uint64_t)w.length));
        if (w.type == QCOW2_EXT_BITMAPS && w.length >= 24)
            bitmaps = l->data + w.at;
        marks = w.type == QCOW2_EXT_JOURNAL ? qcow2_journal_mark_bytes(l->data + w.at, w.length,
                                                                       l->size) : marks;
        if (w.type == QCOW2_EXT_JOURNAL && marks)
            journal = l->data + w.at;
    }
    add_span(l, MIN(ld_be64(l->data + 8), l->size), ld_be32(l->data + 16));
    if (bitmaps && journal && ld_be32(l->data + 4) >= 3 &&
        ld_be64(l->data + 88) & QCOW2_AUTOCLEAR_JOURNAL &&
        qcow2_journal_directory(journal) == ld_be64(bitmaps + 16))
        add_span(l, l->size - marks, marks);
}

static bool may_step(const Layout *from, const Layout *to)
{
    for (unsigned i = 0; i < from->spans->len; i++)
        for (unsigned k = 0; k < to->spans->len; k++) {
            const Span *a = &g_array_index(from->spans, Span, i);
            const Span *b = &g_array_index(to->spans, Span, k);
            uint64_t first = MAX(MAX(a->first, b->first), SECTOR), end = MIN(a->end, b->end);

            if (first < end && memcmp(from->data + first, to->data + first, end - first))
                return false;
        }
    return true;
}

/* What the header is to be. */

static const uint32_t first_types[] = { QCOW2_EXT_BITMAPS, QCOW2_EXT_JOURNAL, QCOW2_EXT_CHECKSUMS };

bool qcow2_first_sector_has_room(const Qcow2 *s, uint64_t more)
{
    return s->header.version >= 3 &&
           QCOW2_HEADER_MAX + s->header.unknown_fields_length + 8 + 24 + 8 + QCOW2_JOURNAL_BYTES +
                   more <= SECTOR;
}

static bool is_first(uint32_t type)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(first_types); i++)
        if (type == first_types[i])
            return true;
    return false;
}

static void add_item(GArray *items, uint32_t type, const void *data, uint32_t length)
{
    Item item = { type, length, data, is_first(type), false };

    g_array_append_val(items, item);
}

static void add_kept(GArray *items, const Qcow2Header *h, uint32_t type)
{
    for (unsigned i = 0; i < h->extensions->len; i++) {
        const Qcow2Extension *e = &g_array_index(h->extensions, Qcow2Extension, i);

        if (type ? e->type == type : !is_first(e->type))
            add_item(items, e->type, e->data, e->length);
    }
}

static GArray *make_items(const Qcow2Header *h)
{
    GArray *items = g_array_new(FALSE, FALSE, sizeof(Item));

    for (unsigned i = 0; i < G_N_ELEMENTS(first_types); i++)
        add_kept(items, h, first_types[i]);
    if (h->backing_file && h->backing_format)
        add_item(items, QCOW2_EXT_BACKING_FORMAT, h->backing_format, strlen(h->backing_format));
    if (h->data_file)
        add_item(items, QCOW2_EXT_DATA_FILE, h->data_file, strlen(h->data_file));
    add_kept(items, h, 0);
    return items;
}

static void put_fields(const Qcow2Header *h, uint8_t *p)
{
    st_be32(p, QCOW2_MAGIC);
    st_be32(p + 4, h->version);
    st_be32(p + 20, h->cluster_bits);
    st_be64(p + 24, h->size);
    st_be32(p + 32, h->crypt_method);
    st_be32(p + 36, h->l1_size);
    st_be64(p + 40, h->l1_table_offset);
    st_be64(p + 48, h->refcount_table_offset);
    st_be32(p + 56, h->refcount_table_clusters);
    st_be32(p + 60, h->nb_snapshots);
    st_be64(p + 64, h->snapshots_offset);
    if (h->version < 3)
        return;
    st_be64(p + 72, h->incompatible);
    st_be64(p + 80, h->compatible);
    st_be64(p + 88, h->autoclear);
    st_be32(p + 96, h->refcount_order);
    st_be32(p + 100, QCOW2_HEADER_MAX + h->unknown_fields_length);
    p[104] = h->compression_type;
}

/* Into a header of the same version: not where its names are, or how long it is. */
static void put_fields_in_place(const Qcow2Header *h, uint8_t *data)
{
    uint8_t fields[QCOW2_HEADER_MAX] = { 0 };

    put_fields(h, fields);
    memcpy(data + 20, fields + 20, (h->version < 3 ? QCOW2_V2_HEADER : 100) - 20);
}

/* Marks: those that count now; a journal that is just being made has none.  Nothing else is in sectors that have
 * some, but in the first. */
static void put_marks(const Writer *w, Layout *l)
{
    const Qcow2Extension *e = qcow2_extension(w->s, QCOW2_EXT_JOURNAL);
    uint64_t bytes = e ? qcow2_journal_mark_bytes(e->data, e->length, l->size) : 0;

    if (w->s->journal)
        memcpy(l->data + l->size - bytes, w->old.data + l->size - bytes, bytes);
    else
        memset(l->data + l->size - bytes, 0, bytes);
    l->limit = l->size == SECTOR ? l->size - bytes : ALIGN_DOWN(l->size - bytes, SECTOR);
}

/* The layout that is there. */

static Item *item_for(const Writer *w, const Walk *extension)
{
    for (unsigned i = 0; i < w->items->len; i++) {
        Item *item = &g_array_index(w->items, Item, i);

        if (!item->placed && item->type == extension->type && item->length == extension->length)
            return item;
    }
    return NULL;
}

static bool has_same_name(const Qcow2Header *h, const Layout *l)
{
    uint64_t offset = ld_be64(l->data + 8), bytes = offset ? ld_be32(l->data + 16) : 0;

    return bytes == (h->backing_file ? strlen(h->backing_file) : 0) &&
           (!bytes || !memcmp(l->data + offset, h->backing_file, bytes));
}

/* New fields and contents in their old places; false: they do not fit there. */
static bool keep_layout(Writer *w)
{
    uint8_t *data = w->new.data;
    unsigned placed = 0;
    Walk walker;

    if (ld_be32(w->old.data) != QCOW2_MAGIC ||
        ld_be32(w->old.data + 4) != w->s->header.version || !has_same_name(&w->s->header, &w->old))
        return false;
    memcpy(data, w->old.data, w->old.size);
    put_marks(w, &w->new);
    put_fields_in_place(&w->s->header, data);
    walk_start(&walker, &w->old);
    while (walk(&walker)) {
        Item *item;

        if (walker.type == QCOW2_EXT_END || walker.type == QCOW2_EXT_GAP ||
            walker.type == QCOW2_EXT_FEATURE_NAMES)
            continue;
        item = item_for(w, &walker);
        if (!item || walker.at + item->length > w->new.limit)
            return false;
        if (item->length)
            memcpy(data + walker.at, item->data, item->length);
        item->placed = true;
        placed++;
    }
    find_spans(&w->new);
    return placed == w->items->len && may_step(&w->old, &w->new);
}

/* Our own layout. */

static bool put_extension(Layout *l, uint32_t type, const void *data, uint64_t length)
{
    uint64_t padded = ALIGN_UP(length, 8);

    if (l->used + 8 + padded > l->limit)
        return false;
    st_be32(l->data + l->used, type);
    st_be32(l->data + l->used + 4, length);
    if (length && data)
        memcpy(l->data + l->used + 8, data, length);
    l->used += 8 + padded;
    return true;
}

/* They are advice: left out where there is no room (small clusters). */
static bool put_feature_names(Layout *l)
{
    uint8_t table[G_N_ELEMENTS(features) * QCOW2_FEATURE_BYTES] = { 0 };

    for (unsigned i = 0; i < G_N_ELEMENTS(features); i++) {
        uint8_t *at = table + i * QCOW2_FEATURE_BYTES;

        at[0] = features[i].type;
        at[1] = features[i].bit;
        memcpy(at + 2, features[i].name, strlen(features[i].name));
    }
    return put_extension(l, QCOW2_EXT_FEATURE_NAMES, table, sizeof(table));
}

static bool put_items(const Writer *w, Layout *l, bool in_first_sector)
{
    for (unsigned i = 0; i < w->items->len; i++) {
        const Item *item = &g_array_index(w->items, Item, i);

        if (item->in_first_sector == in_first_sector &&
            !put_extension(l, item->type, item->data, item->length))
            return false;
    }
    return true;
}

static bool put_gap(Layout *l, uint64_t until)
{
    return until >= l->used + 8 &&
           put_extension(l, QCOW2_EXT_GAP, NULL, until - l->used - 8);
}

static bool put_backing_name(const Qcow2Header *h, Layout *l)
{
    uint64_t length = h->backing_file ? strlen(h->backing_file) : 0;

    if (!length)
        return true;
    if (length > QCOW2_BACKING_NAME_MAX || l->used + length > l->limit)
        return false;
    memcpy(l->data + l->used, h->backing_file, length);
    st_be64(l->data + 8, l->used);
    st_be32(l->data + 16, length);
    l->used += length;
    return true;
}

/* @rest: where the gap ends, 0: there is none; @names: with feature names.  False: no room. */
static bool lay_out(Writer *w, uint64_t rest, bool names)
{
    const Qcow2Header *h = &w->s->header;
    uint64_t fields = h->version < 3 ? QCOW2_V2_HEADER : QCOW2_HEADER_MAX + h->unknown_fields_length;
    Layout *l = &w->new;

    if (fields > l->size)
        return false;
    memset(l->data, 0, l->size);
    put_marks(w, l);
    put_fields(h, l->data);
    if (h->version >= 3 && h->unknown_fields_length)
        memcpy(l->data + QCOW2_HEADER_MAX, h->unknown_fields, h->unknown_fields_length);
    l->used = fields;
    if (!put_items(w, l, true) || (rest && !put_gap(l, rest)) || !put_items(w, l, false))
        return false;
    if (names && (h->version < 3 || !put_feature_names(l)))
        return false;
    if (!put_extension(l, QCOW2_EXT_END, NULL, 0) || !put_backing_name(h, l))
        return false;
    find_spans(l);
    return true;
}

static bool try_layout(Writer *w, uint64_t rest, bool names)
{
    return lay_out(w, rest, names) && may_step(&w->old, &w->new);
}

/* With a gap, and what is behind it as far away as there is a place for it. */
static bool try_with_gap(Writer *w, bool names)
{
    uint64_t step = MAX(8, ALIGN_DOWN(w->new.size / PLACES_TRIED, 8)), bytes, first;

    if (!lay_out(w, 0, names))
        return false;
    bytes = w->new.used;                   /* more than what is behind the gap */
    first = ALIGN_UP(w->s->header.version < 3 ? QCOW2_V2_HEADER : QCOW2_HEADER_MAX, 8);
    for (uint64_t at = ALIGN_DOWN(w->new.limit - bytes, 8) + first; at > first;
         at = at > step ? at - step : 0)
        if (try_layout(w, at, names))
            return true;
    return false;
}

/* Steps. */

/* What differs in all sectors but the first; *changed: there was something. */
static int co_fn write_rest(Qcow2 *s, const Layout *l, const uint8_t *to, bool *changed,
                            GError **error)
{
    uint64_t first = SECTOR, end = l->size;

    while (first < end && !memcmp(l->data + first, to + first, SECTOR))
        first += SECTOR;
    while (end > first && !memcmp(l->data + end - SECTOR, to + end - SECTOR, SECTOR))
        end -= SECTOR;
    *changed = first < end;
    return *changed ? qcow2_meta_write(s, first, to + first, end - first, "header",
                                       QCOW2_OL_MAIN_HEADER, error)
                    : 0;
}

/* The old one, and where it has nothing, the new one: in other sectors. */
static void join(const Layout *old, const Layout *new, uint8_t *both)
{
    memcpy(both, old->data, old->size);
    for (unsigned i = 0; i < new->spans->len; i++) {
        const Span *span = &g_array_index(new->spans, Span, i);
        uint64_t first = MAX(span->first, SECTOR);

        if (first < span->end)
            memcpy(both + first, new->data + first, span->end - first);
    }
}

/* What requests have changed meanwhile. */
static void take_over(const Writer *w, Layout *l)
{
    const Qcow2Journal *j = w->s->journal;

    put_fields_in_place(&w->s->header, l->data);
    if (l->size == SECTOR && j)
        memcpy(l->data + l->size - j->mark_bytes, j->marks, j->mark_bytes);
}

static int co_fn write_first(Writer *w, Layout *l, GError **error)
{
    int ret;

    if (!w->alone) {
        qcow2_gate_close(w->s);
        take_over(w, l);
    }
    ret = qcow2_meta_write(w->s, 0, l->data, SECTOR, "header", QCOW2_OL_MAIN_HEADER, error);
    if (!w->alone)
        qcow2_gate_open(w->s);
    return ret == 0 ? qcow2_flush_file(w->s, error) : ret;
}

/* As qcow2_header_put. */
static int co_fn switch_first(Writer *w, GError **error)
{
    int ret = write_first(w, &w->new, error);

    if (ret < 0 && write_first(w, &w->old, NULL) < 0)
        qcow2_header_give_up(w->s);
    return ret;
}

/* From w->old to w->new.  On failure the old one is in force. */
static int co_fn take_step(Writer *w, GError **error)
{
    uint8_t *both = qcow2_memory(w->s, w->old.size), *was = w->old.data;
    bool changed;
    int ret;

    if (!both) {
        fail_errno(error, ENOMEM, "'%s': writing the header", block_node_filename(w->s->file));
        return -ENOMEM;
    }
    join(&w->old, &w->new, both);
    ret = write_rest(w->s, &w->old, both, &changed, error);
    if (ret == 0 && changed)
        ret = qcow2_flush_file(w->s, error);
    if (ret == 0 && memcmp(was, w->new.data, SECTOR))
        ret = switch_first(w, error);
    if (ret == 0) {                        /* should clearing fail, there is more than means something */
        w->old.data = both;
        write_rest(w->s, &w->old, w->new.data, &changed, NULL);
        w->old.data = was;
    }
    free(both);
    return ret;
}

static bool choose(Writer *w, bool first)
{
    return try_layout(w, 0, true) || (first && try_with_gap(w, true)) || try_layout(w, 0, false) ||
           (first && try_with_gap(w, false));
}

static void step_taken(Writer *w)
{
    Layout was = w->old;

    w->old = w->new;
    w->new = was;
}

/* Feature names become a gap, as where they are there may be room for something else. */
static bool drop_names(Writer *w)
{
    bool found = false;
    Walk walker;

    memcpy(w->new.data, w->old.data, w->old.size);
    walk_start(&walker, &w->old);
    while (ld_be32(w->old.data) == QCOW2_MAGIC && walk(&walker)) {
        if (walker.type != QCOW2_EXT_FEATURE_NAMES || walker.at > SECTOR)
            continue;
        st_be32(w->new.data + walker.at - 8, QCOW2_EXT_GAP);
        found = true;
    }
    find_spans(&w->new);
    return found;
}

static int co_fn find_way(Writer *w, GError **error)
{
    bool fits;
    int ret;

    if (choose(w, true))
        return 0;
    if (drop_names(w)) {
        ret = take_step(w, error);
        if (ret < 0)
            return ret;
        step_taken(w);
        if (choose(w, true))
            return 0;
    }
    fits = lay_out(w, 0, false);
    fail(error, ERR_LIMIT, fits ? "'%s': a cluster of %" PRIu64 " bytes has no room to change the "
         "header and its names safely" : "'%s': the header and its names do not fit into a "
         "cluster of %" PRIu64 " bytes", block_node_filename(w->s->file), w->old.size);
    return -ENOSPC;
}

/* The first step counts; those after it only close the gap. */
static int co_fn change_layout(Writer *w, GError **error)
{
    int ret = find_way(w, error);

    if (ret < 0)
        return ret;
    for (unsigned i = 0; i < STEPS_MAX; i++) {
        ret = take_step(w, i ? NULL : error);
        if (ret < 0)
            return i ? 0 : ret;
        step_taken(w);
        if (!choose(w, false) || !memcmp(w->old.data, w->new.data, w->old.size))
            break;
    }
    return 0;
}

/* A power cut between two steps has left a gap.  As long as what is behind it is far away, there may be no
 * room for a journal's marks. */
static bool close_gap(Writer *w)
{
    Walk walker;

    walk_start(&walker, &w->old);
    while (ld_be32(w->old.data) == QCOW2_MAGIC && walk(&walker))
        if (walker.type == QCOW2_EXT_GAP)
            return choose(w, false);
    return false;
}

static int co_fn write_header(Writer *w, GError **error)
{
    int ret = qcow2_meta_read(w->s, 0, w->old.data, w->old.size, "header", error);

    if (ret < 0)
        return ret;
    find_spans(&w->old);
    return close_gap(w) || keep_layout(w) ? take_step(w, error) : change_layout(w, error);
}

static int co_fn write_all(Qcow2 *s, bool alone, GError **error)
{
    Writer w = { .s = s, .items = make_items(&s->header), .alone = alone };
    Layout *layouts[] = { &w.old, &w.new };
    int ret = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(layouts); i++) {
        layouts[i]->size = 1ull << s->header.cluster_bits;
        layouts[i]->data = qcow2_memory(s, layouts[i]->size);
        layouts[i]->spans = g_array_new(FALSE, FALSE, sizeof(Span));
        if (!layouts[i]->data)
            ret = -ENOMEM;
    }
    if (ret == 0)
        ret = write_header(&w, error);
    else
        fail_errno(error, ENOMEM, "'%s': writing the header", block_node_filename(s->file));
    for (unsigned i = 0; i < G_N_ELEMENTS(layouts); i++) {
        g_array_unref(layouts[i]->spans);
        free(layouts[i]->data);
    }
    g_array_unref(w.items);
    return ret;
}

int co_fn qcow2_header_write(Qcow2 *s, GError **error)
{
    return write_all(s, true, error);
}

int co_fn qcow2_header_write_names(Qcow2 *s, GError **error)
{
    return write_all(s, false, error);
}
