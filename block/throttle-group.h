/*
 * Groups that share a limit (object throttle-group, or made by the name of a drive's group), and their
 * members: a filter node, or a user.
 *
 * Threads: members wait in any thread; a group's state is under its own lock, which is held for a few
 * instructions.  Members with waiting requests take turns, whatever the depth of their queues.
 */
#pragma once
#include "block/block.h"
#include "block/bucket.h"

typedef struct ThrottleGroup ThrottleGroup;      /* type "throttle-group" */
typedef struct ThrottleMember ThrottleMember;

/* The group of that name; @make: a new one if there is none, which goes with its last member. */
ThrottleGroup *throttle_group_find(const Object *any, const char *name, bool make, GError **error);
const char *throttle_group_name(const ThrottleGroup *group);
ThrottleConfig throttle_group_config(ThrottleGroup *group);
/* Those who wait look again. */
bool throttle_group_set_config(ThrottleGroup *group, const ThrottleConfig *config, GError **error);

/* Main thread. */
ThrottleMember *throttle_member_new(ThrottleGroup *group);
void throttle_member_free(ThrottleMember *member);       /* nobody waits; NULL is fine */
ThrottleGroup *throttle_member_group(const ThrottleMember *member);
/* While released, nobody waits: what drains would last too long.  Counts. */
void throttle_member_release(ThrottleMember *member, bool on);
/* Returns when a request of so many bytes may be made, and has counted it. */
void co_fn throttle_member_wait(ThrottleMember *member, bool is_write, uint64_t bytes);
