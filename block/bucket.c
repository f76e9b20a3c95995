/* Leaky buckets. */
#include "block/bucket.h"
#include "src/base/util.h"
#include <string.h>

const char *const throttle_words[] = { "bps-total", "bps-read", "bps-write", "iops-total",
                                       "iops-read", "iops-write", NULL };
const char *const throttle_short_words[] = { "bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr",
                                             NULL };

#define RATE_MAX 1000000000000000ull       /* a second: sums stay exact */

void throttle_config_init(ThrottleConfig *config)
{
    *config = (ThrottleConfig){ 0 };
    for (unsigned i = 0; i < THROTTLE__COUNT; i++)
        config->of[i].length = 1;
}

bool throttle_config_is_set(const ThrottleConfig *config)
{
    for (unsigned i = 0; i < THROTTLE__COUNT; i++)
        if (config->of[i].average)
            return true;
    return false;
}

static bool check_mixture(const ThrottleConfig *c, unsigned total, const char *what, GError **error)
{
    const ThrottleLimit *of = &c->of[total];

    if (of[0].average && (of[1].average || of[2].average))
        return fail(error, ERR_INVALID_PARAMETER, "%s total values and read/write values cannot be "
                    "used at the same time", what);
    if (of[0].max && (of[1].max || of[2].max))
        return fail(error, ERR_INVALID_PARAMETER, "%s_max total values and read/write values cannot "
                    "be used at the same time", what);
    return true;
}

static bool check_limit(const ThrottleLimit *limit, const char *name, GError **error)
{
    if (limit->average > RATE_MAX || limit->max > RATE_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "bps/iops/max values must be within [0, %llu]",
                    RATE_MAX);
    if (!limit->length)
        return fail(error, ERR_INVALID_PARAMETER, "the burst length cannot be 0");
    if (limit->length > 1 && !limit->max)
        return fail(error, ERR_INVALID_PARAMETER, "burst length set without burst rate (%s)", name);
    if (limit->max && !limit->average)
        return fail(error, ERR_INVALID_PARAMETER,
                    "bps_max/iops_max require corresponding bps/iops values (%s)", name);
    if (limit->max && limit->max < limit->average)
        return fail(error, ERR_INVALID_PARAMETER, "bps_max/iops_max cannot be lower than bps/iops (%s)",
                    name);
    if (limit->max && limit->length > RATE_MAX / limit->max)
        return fail(error, ERR_INVALID_PARAMETER, "burst length too high for this burst rate (%s)",
                    name);
    return true;
}

bool throttle_config_check(const ThrottleConfig *c, GError **error)
{
    if (!check_mixture(c, THROTTLE_BPS_TOTAL, "bps", error) ||
        !check_mixture(c, THROTTLE_IOPS_TOTAL, "iops", error))
        return false;
    if (c->iops_size && !c->of[THROTTLE_IOPS_TOTAL].average &&
        !c->of[THROTTLE_IOPS_READ].average && !c->of[THROTTLE_IOPS_WRITE].average)
        return fail(error, ERR_INVALID_PARAMETER, "iops size requires an iops value to be set");
    for (unsigned i = 0; i < THROTTLE__COUNT; i++)
        if (!check_limit(&c->of[i], throttle_words[i], error))
            return false;
    return true;
}

/* Members by name. */

uint64_t *throttle_config_member(ThrottleConfig *config, const char *name)
{
    if (!strcmp(name, "iops-size"))
        return &config->iops_size;
    for (unsigned i = 0; i < THROTTLE__COUNT; i++) {
        if (!g_str_has_prefix(name, throttle_words[i]))
            continue;
        name += strlen(throttle_words[i]);
        return !*name ? &config->of[i].average
               : !strcmp(name, "-max") ? &config->of[i].max
               : !strcmp(name, "-max-length") ? &config->of[i].length : NULL;
    }
    return NULL;
}

/* Calls @fn for the names of all members. */
static bool each_name(bool (*fn)(const char *name, void *opaque), void *opaque)
{
    static const char *const ends[] = { "", "-max", "-max-length" };

    for (unsigned i = 0; i < THROTTLE__COUNT; i++) {
        for (unsigned end = 0; end < G_N_ELEMENTS(ends); end++) {
            g_autofree char *name = g_strconcat(throttle_words[i], ends[end], NULL);

            if (!fn(name, opaque))
                return false;
        }
    }
    return fn("iops-size", opaque);
}

typedef struct Take {
    ThrottleConfig *config;
    json_object *options;
    GError **error;
} Take;

static bool take_one(const char *name, void *opaque)
{
    Take *take = opaque;
    uint64_t *member = throttle_config_member(take->config, name);
    bool ok = options_get_size(take->options, name, member, take->error);

    json_object_object_del(take->options, name);
    return ok;
}

bool throttle_config_take(ThrottleConfig *config, json_object *options, GError **error)
{
    Take take = { config, options, error };

    return each_name(take_one, &take);
}

static bool describe_one(const char *name, void *opaque)
{
    Take *take = opaque;

    json_object_object_add(take->options, name,
                           json_object_new_uint64(*throttle_config_member(take->config, name)));
    return true;
}

json_object *throttle_config_describe(const ThrottleConfig *config)
{
    ThrottleConfig copy = *config;
    Take take = { &copy, json_object_new_object(), NULL };

    each_name(describe_one, &take);
    return take.options;
}

/* The buckets. */

static void leak(const ThrottleConfig *config, ThrottleState *state, int64_t now_ns)
{
    double seconds = (now_ns - state->at_ns) / 1e9;

    if (seconds <= 0)
        return;
    state->at_ns = now_ns;
    for (unsigned i = 0; i < THROTTLE__COUNT; i++) {
        state->level[i] = MAX(state->level[i] - config->of[i].average * seconds, 0);
        state->burst[i] = MAX(state->burst[i] - config->of[i].max * seconds, 0);
    }
}

/* Without a burst a tenth of a second's worth passes at once: else every other request would wait. */
static double seconds_to_wait(const ThrottleLimit *limit, double level, double burst)
{
    double room = limit->max ? (double)limit->max * limit->length : limit->average / 10.0;
    double wait = 0;

    if (!limit->average)
        return 0;
    if (level > room)
        wait = (level - room) / limit->average;
    if (limit->length > 1 && burst > limit->max / 10.0)
        wait = MAX(wait, (burst - limit->max / 10.0) / limit->max);
    return wait;
}

/* The limits that a request falls under: both totals, and those of its direction. */
static void kinds_of(bool is_write, unsigned kinds[4])
{
    kinds[0] = THROTTLE_BPS_TOTAL;
    kinds[1] = THROTTLE_IOPS_TOTAL;
    kinds[2] = is_write ? THROTTLE_BPS_WRITE : THROTTLE_BPS_READ;
    kinds[3] = is_write ? THROTTLE_IOPS_WRITE : THROTTLE_IOPS_READ;
}

int64_t throttle_wait_ns(const ThrottleConfig *config, ThrottleState *state, bool is_write,
                         int64_t now_ns)
{
    unsigned kinds[4];
    double wait = 0;

    kinds_of(is_write, kinds);
    leak(config, state, now_ns);
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++)
        wait = MAX(wait, seconds_to_wait(&config->of[kinds[i]], state->level[kinds[i]],
                                         state->burst[kinds[i]]));
    return wait > 0 ? (int64_t)MIN(wait * 1e9, 1e17) + 1 : 0;
}

void throttle_account(const ThrottleConfig *config, ThrottleState *state, bool is_write,
                      uint64_t bytes)
{
    double operations = config->iops_size && bytes > config->iops_size
                            ? (double)bytes / config->iops_size
                            : 1;
    unsigned kinds[4];

    kinds_of(is_write, kinds);
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        bool is_bytes = kinds[i] <= THROTTLE_BPS_WRITE;
        double units = is_bytes ? (double)bytes : operations;

        state->level[kinds[i]] += units;
        state->burst[kinds[i]] += units;
    }
}
