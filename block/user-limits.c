/* What is set for a user at run time: limits of its requests, and histograms of how long they take. */
#include "block/node.h"
#include "block/throttle-group.h"
#include <string.h>

/* Limits. */

static void change_throttle(BlockUser *user, ThrottleMember *member)
{
    block_user_quiesce(user, true);
    throttle_member_free(user->throttle);
    user->throttle = member;
    block_user_find_merge_max(user);
    block_user_quiesce(user, false);
}

bool block_user_set_throttle(BlockUser *user, const char *group, const ThrottleConfig *config,
                             GError **error)
{
    ThrottleGroup *found;

    if (!throttle_config_check(config, error))
        return false;
    if (!throttle_config_is_set(config)) {
        if (user->throttle)
            change_throttle(user, NULL);
        return true;
    }
    found = throttle_group_find(OBJECT(user->graph), group, true, error);
    if (!found || !throttle_group_set_config(found, config, error))
        return false;
    if (!user->throttle || throttle_member_group(user->throttle) != found)
        change_throttle(user, throttle_member_new(found));
    return true;
}

static void add_int(json_object *obj, const char *key, const char *end, uint64_t value)
{
    g_autofree char *name = g_strconcat(key, end, NULL);

    json_object_object_add(obj, name, json_object_new_int64(value));
}

void block_user_describe_throttle(BlockUser *user, json_object *info)
{
    ThrottleGroup *group = user && user->throttle ? throttle_member_group(user->throttle) : NULL;
    ThrottleConfig config = { 0 };

    if (group)
        config = throttle_group_config(group);
    for (unsigned i = 0; i < THROTTLE__COUNT; i++) {
        add_int(info, throttle_short_words[i], "", config.of[i].average);
        if (!group)
            continue;
        add_int(info, throttle_short_words[i], "_max", config.of[i].max);
        add_int(info, throttle_short_words[i], "_max_length", config.of[i].length);
    }
    if (!group)
        return;
    add_int(info, "iops_size", "", config.iops_size);
    json_object_object_add(info, "group", json_object_new_string(throttle_group_name(group)));
}

/* Histograms. */

static unsigned bins(const BlockHistogram *histogram)
{
    return histogram->n + 1;
}

void block_user_histogram_add(BlockHistogram *h, int64_t ns)
{
    uint64_t *cell = block_cells_mine(&h->cells, bins(h) * sizeof(uint64_t));
    unsigned low = 0, high = h->n;

    while (low < high) {                   /* the first boundary above */
        unsigned middle = (low + high) / 2;

        if ((uint64_t)MAX(ns, 0) < h->boundaries[middle])
            high = middle;
        else
            low = middle + 1;
    }
    block_cell_add(&cell[low], 1);
}

static void histogram_free(BlockHistogram *histogram)
{
    if (histogram)
        block_cells_clear(&histogram->cells);
    g_free(histogram);
}

bool block_user_set_histogram(BlockUser *user, BlockAcct what, const uint64_t *boundaries, unsigned n,
                              GError **error)
{
    BlockHistogram *made = NULL;

    if (n > G_N_ELEMENTS(made->boundaries))
        return fail(error, ERR_LIMIT, "a histogram has at most %zu boundaries",
                    G_N_ELEMENTS(made->boundaries));
    for (unsigned i = 0; i < n; i++)
        if (boundaries[i] <= (i ? boundaries[i - 1] : 0))
            return fail(error, ERR_INVALID_PARAMETER,
                        "the boundaries of a histogram must be above 0 and ascend");
    if (n) {
        made = g_new0(BlockHistogram, 1);
        made->n = n;
        memcpy(made->boundaries, boundaries, n * sizeof(*boundaries));
    }
    block_user_quiesce(user, true);
    histogram_free(user->histograms[what]);
    user->histograms[what] = made;
    block_user_quiesce(user, false);
    return true;
}

static uint64_t count(const BlockHistogram *h, unsigned bin)
{
    uint64_t sum = 0;

    for (unsigned slot = 0; slot < BLOCK_SLOTS; slot++) {
        uint64_t *cell = __atomic_load_n(&h->cells.of[slot], __ATOMIC_ACQUIRE);

        if (cell)
            sum += __atomic_load_n(&cell[bin], __ATOMIC_RELAXED);
    }
    return sum;
}

static json_object *describe_histogram(const BlockHistogram *h)
{
    json_object *info = json_object_new_object();
    json_object *boundaries = json_object_new_array(), *counts = json_object_new_array();

    for (unsigned i = 0; i < h->n; i++)
        json_object_array_add(boundaries, json_object_new_uint64(h->boundaries[i]));
    for (unsigned i = 0; i < bins(h); i++)
        json_object_array_add(counts, json_object_new_uint64(count(h, i)));
    json_object_object_add(info, "boundaries", boundaries);
    json_object_object_add(info, "bins", counts);
    return info;
}

void block_user_describe_histograms(BlockUser *user, json_object *stats)
{
    static const struct {
        BlockAcct what;
        const char *key;
    } members[] = {
        { BLOCK_ACCT_READ, "rd_latency_histogram" },
        { BLOCK_ACCT_WRITE, "wr_latency_histogram" },
        { BLOCK_ACCT_FLUSH, "flush_latency_histogram" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(members); i++) {
        const BlockHistogram *h = user->histograms[members[i].what];

        if (h)
            json_object_object_add(stats, members[i].key, describe_histogram(h));
    }
}

void block_user_clear_limits(BlockUser *user)
{
    throttle_member_free(user->throttle);
    for (unsigned i = 0; i < BLOCK_ACCT__COUNT; i++)
        histogram_free(user->histograms[i]);
}
