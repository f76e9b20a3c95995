/* See throttle-group.h. */
#include "block/throttle-group.h"
#include <pthread.h>
#include <string.h>

struct ThrottleGroup {
    Object obj;
    pthread_mutex_t lock;                  /* for all that follows */
    ThrottleConfig config;
    ThrottleState state;
    GQueue turns[2];                       /* [is_write]: of members that have waiting requests; the first
                                              one's first request goes next */
    unsigned members;                      /* main thread */
    bool by_name;                          /* goes with its last member */
};

typedef struct Waiter {
    Coroutine *co;
    GList link;
} Waiter;

struct ThrottleMember {
    ThrottleGroup *group;                  /* counted */
    GQueue waiting[2];                     /* under its lock: of Waiter */
    GList link[2];                         /* in its turns */
    unsigned released;                     /* under its lock */
};

/* Waiting. */

static Waiter *next_waiter(ThrottleGroup *group, bool is_write)
{
    ThrottleMember *member = g_queue_peek_head(&group->turns[is_write]);

    return member ? g_queue_peek_head(&member->waiting[is_write]) : NULL;
}

static void wake_next(ThrottleGroup *group, bool is_write)
{
    Waiter *next = next_waiter(group, is_write);

    if (next)
        co_wake(next->co);
}

static void enqueue(ThrottleMember *member, bool is_write, Waiter *waiter)
{
    waiter->link.data = waiter;
    if (!member->waiting[is_write].length) {
        member->link[is_write].data = member;
        g_queue_push_tail_link(&member->group->turns[is_write], &member->link[is_write]);
    }
    g_queue_push_tail_link(&member->waiting[is_write], &waiter->link);
}

/* Whose turn it was goes behind the others. */
static void dequeue(ThrottleMember *member, bool is_write, Waiter *waiter)
{
    GQueue *turns = &member->group->turns[is_write];

    g_queue_unlink(&member->waiting[is_write], &waiter->link);
    g_queue_unlink(turns, &member->link[is_write]);
    if (member->waiting[is_write].length)
        g_queue_push_tail_link(turns, &member->link[is_write]);
}

static void time_is_up(void *opaque)
{
    co_wake(opaque);
}

/* Until that time, or a wake; < 0: only a wake. */
static void co_fn doze(int64_t ns)
{
    Coroutine *co = co_self();
    LoopTimer timer;

    loop_timer_init(&timer, co_loop(co), time_is_up, co);
    if (ns >= 0)
        loop_timer_set(&timer, loop_clock_ns() + ns);
    co_yield();
    loop_timer_cancel(&timer);
}

static int64_t time_to_wait(ThrottleMember *member, bool is_write)
{
    ThrottleGroup *group = member->group;

    return member->released ? 0
                            : throttle_wait_ns(&group->config, &group->state, is_write,
                                               loop_clock_ns());
}

/* Under the lock, which is given back while it waits. */
static void co_fn wait_for_turn(ThrottleMember *member, bool is_write)
{
    ThrottleGroup *group = member->group;
    Waiter waiter = { .co = co_self() };
    int64_t ns;

    enqueue(member, is_write, &waiter);
    for (;;) {
        bool mine = next_waiter(group, is_write) == &waiter;

        ns = mine ? time_to_wait(member, is_write) : -1;
        if (member->released || ns == 0)
            break;
        pthread_mutex_unlock(&group->lock);
        doze(ns);
        pthread_mutex_lock(&group->lock);
    }
    dequeue(member, is_write, &waiter);
}

void co_fn throttle_member_wait(ThrottleMember *member, bool is_write, uint64_t bytes)
{
    ThrottleGroup *group = member->group;

    pthread_mutex_lock(&group->lock);
    if (!member->released &&
        (group->turns[is_write].length || time_to_wait(member, is_write) > 0))
        wait_for_turn(member, is_write);
    throttle_account(&group->config, &group->state, is_write, bytes);
    wake_next(group, is_write);
    pthread_mutex_unlock(&group->lock);
}

void throttle_member_release(ThrottleMember *member, bool on)
{
    pthread_mutex_lock(&member->group->lock);
    member->released += on ? 1 : -1;
    for (unsigned is_write = 0; on && is_write < 2; is_write++)
        for (GList *link = member->waiting[is_write].head; link; link = link->next)
            co_wake(((Waiter *)link->data)->co);
    pthread_mutex_unlock(&member->group->lock);
}

/* Members. */

ThrottleMember *throttle_member_new(ThrottleGroup *group)
{
    ThrottleMember *member = g_new0(ThrottleMember, 1);

    member->group = object_ref(group);
    group->members++;
    return member;
}

void throttle_member_free(ThrottleMember *member)
{
    ThrottleGroup *group;

    if (!member)
        return;
    group = member->group;
    if (!--group->members && group->by_name)
        object_unparent(OBJECT(group));
    object_unref(group);
    g_free(member);
}

ThrottleGroup *throttle_member_group(const ThrottleMember *member)
{
    return member->group;
}

/* Groups. */

const char *throttle_group_name(const ThrottleGroup *group)
{
    return group->obj.name;
}

ThrottleConfig throttle_group_config(ThrottleGroup *group)
{
    ThrottleConfig config;

    pthread_mutex_lock(&group->lock);
    config = group->config;
    pthread_mutex_unlock(&group->lock);
    return config;
}

bool throttle_group_set_config(ThrottleGroup *group, const ThrottleConfig *config, GError **error)
{
    if (!throttle_config_check(config, error))
        return false;
    pthread_mutex_lock(&group->lock);
    group->config = *config;
    group->state = (ThrottleState){ .at_ns = loop_clock_ns() };
    wake_next(group, false);
    wake_next(group, true);
    pthread_mutex_unlock(&group->lock);
    return true;
}

static void group_init(Object *obj)
{
    ThrottleGroup *group = (ThrottleGroup *)obj;

    pthread_mutex_init(&group->lock, NULL);
    throttle_config_init(&group->config);
    group->state.at_ns = loop_clock_ns();
}

static void group_finalize(Object *obj)
{
    pthread_mutex_destroy(&((ThrottleGroup *)obj)->lock);
}

static bool group_realize(Object *obj, GError **error)
{
    return throttle_config_check(&((ThrottleGroup *)obj)->config, error);
}

static json_object *get_limits(Object *obj, const Property *prop)
{
    ThrottleConfig config = throttle_group_config((ThrottleGroup *)obj);

    return throttle_config_describe(&config);
}

/* Before realize any mixture may stand for a while. */
static bool apply(Object *obj, const ThrottleConfig *config, GError **error)
{
    if (obj->realized)
        return throttle_group_set_config((ThrottleGroup *)obj, config, error);
    ((ThrottleGroup *)obj)->config = *config;
    return true;
}

static bool set_limits(Object *obj, const Property *prop, json_object *value, GError **error)
{
    g_autoptr(json_object) rest = NULL;
    ThrottleConfig config = throttle_group_config((ThrottleGroup *)obj);

    if (!json_object_is_type(value, json_type_object))
        return fail(error, ERR_WRONG_TYPE, "property 'limits' must be an object");
    json_object_deep_copy(value, &rest, NULL);
    return throttle_config_take(&config, rest, error) &&
           options_check_empty(rest, "property 'limits'", NULL, error) && apply(obj, &config, error);
}

static json_object *get_one(Object *obj, const Property *prop)
{
    ThrottleConfig config = throttle_group_config((ThrottleGroup *)obj);

    return json_object_new_uint64(*throttle_config_member(&config, prop->name + strlen("x-")));
}

static bool set_one(Object *obj, const Property *prop, json_object *value, GError **error)
{
    ThrottleConfig config = throttle_group_config((ThrottleGroup *)obj);

    return value_to_size(value, prop->name,
                         throttle_config_member(&config, prop->name + strlen("x-")), error) &&
           apply(obj, &config, error);
}

#define ONE(name, what) PROP_FN("x-" name, get_one, set_one, .runtime = true, .help = what)
#define LIMIT(name, what)                                                                          \
    ONE(name, what), ONE(name "-max", what ", in a burst"),                                        \
        ONE(name "-max-length", "seconds that such a burst may last")
static const Property group_props[] = {
    PROP_FN("limits", get_limits, set_limits, .runtime = true,
            .help = "all limits: bps-total, bps-total-max, bps-total-max-length, …, iops-size"),
    LIMIT("bps-total", "bytes a second"),
    LIMIT("bps-read", "bytes read a second"),
    LIMIT("bps-write", "bytes written a second"),
    LIMIT("iops-total", "requests a second"),
    LIMIT("iops-read", "reads a second"),
    LIMIT("iops-write", "writes a second"),
    ONE("iops-size", "larger requests count as several of this size"),
    {}
};

static const Type throttle_group_type = {
    .name = "throttle-group",
    .parent = "user-object",
    .help = "a limit of bytes and requests a second that disks share",
    .size = sizeof(ThrottleGroup),
    .user_creatable = true,
    .props = group_props,
    .init = group_init,
    .finalize = group_finalize,
    .realize = group_realize,
};
TYPE_REGISTER(throttle_group_type)

static ThrottleGroup *make_group(Object *parent, const char *name, GError **error)
{
    ThrottleGroup *group = (ThrottleGroup *)object_new(&throttle_group_type);
    bool ok = object_add_child(parent, name, OBJECT(group), error) &&
              object_realize(OBJECT(group), error);

    group->by_name = true;
    object_unref(group);                   /* the tree has it */
    return ok ? group : NULL;
}

ThrottleGroup *throttle_group_find(const Object *any, const char *name, bool make, GError **error)
{
    Object *root = object_root(any);
    Object *objects = object_child(root, "objects");
    Object *named = object_container(root, "throttle-groups");
    Object *found = objects ? object_child(objects, name) : NULL;

    if (!found || !object_is_a(found, "throttle-group"))
        found = object_child(named, name);
    if (found)
        return (ThrottleGroup *)found;
    if (make)
        return make_group(named, name, error);
    fail(error, ERR_NOT_FOUND, "Throttle group '%s' does not exist", name);
    error_object(error, "%s", name);
    error_hint(error, "make it with -object throttle-group,id=%s,…", name);
    return NULL;
}
