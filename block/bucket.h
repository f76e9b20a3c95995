/*
 * Rates with bursts, as leaky buckets: requests pour their bytes (or one operation each) in, the average
 * rate leaks out, and who finds the bucket full waits.  Pure: time comes from the caller, in ns.
 *
 * A limit may be exceeded up to `max` for `length` seconds: then the bucket holds max * length, and with a
 * length of more than a second a second bucket, which leaks at max, keeps the burst itself even.
 */
#pragma once
#include "src/base/options.h"

typedef enum ThrottleKind { THROTTLE_BPS_TOTAL, THROTTLE_BPS_READ, THROTTLE_BPS_WRITE,
                            THROTTLE_IOPS_TOTAL, THROTTLE_IOPS_READ, THROTTLE_IOPS_WRITE,
                            THROTTLE__COUNT } ThrottleKind;
extern const char *const throttle_words[];         /* "bps-total", … */
extern const char *const throttle_short_words[];   /* "bps", "bps_rd", …: -drive, query-block */

typedef struct ThrottleLimit {
    uint64_t average, max;                 /* a second; 0: no limit, no burst */
    uint64_t length;                       /* seconds that a burst lasts */
} ThrottleLimit;

struct ThrottleConfig {
    ThrottleLimit of[THROTTLE__COUNT];
    uint64_t iops_size;                    /* larger requests count as several; 0: as one */
};
typedef struct ThrottleConfig ThrottleConfig;

typedef struct ThrottleState {
    double level[THROTTLE__COUNT], burst[THROTTLE__COUNT];
    int64_t at_ns;                         /* when it was so */
} ThrottleState;

void throttle_config_init(ThrottleConfig *config);
bool throttle_config_check(const ThrottleConfig *config, GError **error);
bool throttle_config_is_set(const ThrottleConfig *config);
/* Takes "bps-total", "bps-total-max", "bps-total-max-length", …, "iops-size" out of @options. */
bool throttle_config_take(ThrottleConfig *config, json_object *options, GError **error);
/* The same members, all of them. */
json_object *throttle_config_describe(const ThrottleConfig *config);
/* One member by its name; NULL: it has no such. */
uint64_t *throttle_config_member(ThrottleConfig *config, const char *name);

/* How long a request has to wait now; 0: it may go, and is to be accounted. */
int64_t throttle_wait_ns(const ThrottleConfig *config, ThrottleState *state, bool is_write,
                         int64_t now_ns);
void throttle_account(const ThrottleConfig *config, ThrottleState *state, bool is_write,
                      uint64_t bytes);
