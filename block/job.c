/* Jobs: states, verbs, events, groups. */
#include "block/job.h"
#include "block/node.h"
#include "src/object/event.h"
#include <errno.h>
#include <string.h>

/* The jobs that succeed or fail together. */
struct BlockJobGroup {
    unsigned refs;
    GPtrArray *jobs;                       /* of BlockJob */
    bool aborting, finalizing;
};

static const char *const status_words[] = { "created", "running", "paused", "ready", "standby",
                                            "waiting", "pending", "aborting", "concluded", "null" };

static void job_ref(BlockJob *job)
{
    job->refs++;
}

static void job_unref(BlockJob *job)
{
    if (--job->refs)
        return;
    if (job->type->free)
        job->type->free(job);
    block_job_group_unref(job->group);
    g_clear_error(&job->error);
    g_ptr_array_free(job->users, TRUE);
    g_free(job->id);
    g_free(job);
}

BlockJobGroup *block_job_group_new(void)
{
    BlockJobGroup *group = g_new0(BlockJobGroup, 1);

    group->refs = 1;
    group->jobs = g_ptr_array_new();
    return group;
}

void block_job_group_unref(BlockJobGroup *group)
{
    if (--group->refs)
        return;
    g_ptr_array_free(group->jobs, TRUE);
    g_free(group);
}

/* Events. */

static void emit(BlockJob *job, const char *event, json_object *data)
{
    event_emit((Object *)job->graph, event, data);
}

void block_job_set_status(BlockJob *job, BlockJobStatus status)
{
    json_object *data = json_object_new_object();

    job->status = status;
    json_add_str(data, "id", job->id);
    json_add_str(data, "status", status_words[status]);
    emit(job, "JOB_STATUS_CHANGE", data);
}

static void emit_block_event(BlockJob *job, const char *event, bool with_error)
{
    json_object *data = json_object_new_object();

    if (!job->type->is_block) {
        json_object_put(data);
        return;
    }
    json_add_str(data, "type", job->type->name);
    json_add_str(data, "device", job->id);
    json_add_int(data, "len", job->total);
    json_add_int(data, "offset", job->done);
    json_add_int(data, "speed", job->speed);
    if (with_error && job->error)
        json_add_str(data, "error", job->error->message);
    emit(job, event, data);
}

static void emit_pending(BlockJob *job)
{
    json_object *data = json_object_new_object();

    json_add_str(data, "type", job->type->name);
    json_add_str(data, "id", job->id);
    emit(job, "BLOCK_JOB_PENDING", data);
}

/* Making. */

static bool id_is_well_formed(const char *id)
{
    return g_ascii_isalpha(id[0]) && !id[strspn(id, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-._")];
}

bool block_job_config(json_object *options, const char *fallback, BlockJobConfig *config,
                      GError **error)
{
    int64_t speed = 0;

    *config = (BlockJobConfig){ .id = fallback, .auto_finalize = true, .auto_dismiss = true };
    if (!options_get_str(options, "job-id", &config->id, error) ||
        !options_get_i64(options, "speed", &speed, error) ||
        !options_get_bool(options, "auto-finalize", &config->auto_finalize, error) ||
        !options_get_bool(options, "auto-dismiss", &config->auto_dismiss, error))
        return false;
    if (speed < 0)
        return fail(error, ERR_INVALID_PARAMETER, "Parameter 'speed' expects a non-negative value");
    config->speed = speed;
    return true;
}

BlockJob *block_job_new(const BlockJobType *type, BlockGraph *graph, const BlockJobConfig *config,
                        BlockJobGroup *group, GError **error)
{
    const char *id = config->id;
    BlockJob *job;

    if (!id || !*id)
        fail(error, ERR_MISSING_PARAMETER, "An explicit job ID is required for this node");
    else if (!id_is_well_formed(id))
        fail(error, ERR_INVALID_PARAMETER, "Invalid job ID '%s'", id);
    else if (block_job_find(graph, id))
        fail(error, ERR_EXISTS, "Job ID '%s' already in use", id);
    else {
        job = g_malloc0(type->size);
        job->type = type;
        job->graph = graph;
        job->id = g_strdup(id);
        job->refs = 1;
        job->speed = config->speed;
        job->auto_finalize = config->auto_finalize;
        job->auto_dismiss = config->auto_dismiss;
        job->users = g_ptr_array_new();
        job->group = group ? group : block_job_group_new();
        job->group->refs += !!group;
        g_ptr_array_add(job->group->jobs, job);
        g_ptr_array_add(graph->jobs, job);
        block_job_set_status(job, BLOCK_JOB_CREATED);
        return job;
    }
    return NULL;
}

BlockUser *block_job_use(BlockJob *job, BlockNode *node, unsigned perm, unsigned shared,
                         GError **error)
{
    g_autofree char *name = g_strdup_printf("%s job '%s'", job->type->name, job->id);
    BlockUser *user = block_user_new(node, name, perm, shared, error);

    if (user) {
        block_user_set_owner(user, job);
        g_ptr_array_add(job->users, user);
    }
    return user;
}

/* The end: what the group does together. */

static void co_fn dismiss(BlockJob *job)
{
    g_ptr_array_remove(job->graph->jobs, job);
    g_ptr_array_remove(job->group->jobs, job);
    block_job_set_status(job, BLOCK_JOB_NULL);
    job_unref(job);
}

void block_job_free_users(BlockJob *job)
{
    while (job->users->len)
        block_user_free(g_ptr_array_steal_index(job->users, job->users->len - 1));
}

static void co_fn conclude(BlockJob *job, bool ok, bool silent)
{
    if (ok && job->type->commit)
        job->type->commit(job);
    else if (!ok && job->type->abort)
        job->type->abort(job);
    if (job->type->clean)
        job->type->clean(job);
    block_job_free_users(job);
    if (!silent)
        emit_block_event(job, job->cancelled ? "BLOCK_JOB_CANCELLED" : "BLOCK_JOB_COMPLETED",
                         !job->cancelled);
    block_job_set_status(job, BLOCK_JOB_CONCLUDED);
    if (job->auto_dismiss || silent)
        dismiss(job);
}

/* Each job of the group, which may go from it meanwhile. */
static GPtrArray *group_jobs(BlockJobGroup *group)
{
    GPtrArray *jobs = g_ptr_array_new_with_free_func((GDestroyNotify)job_unref);

    for (unsigned i = 0; i < group->jobs->len; i++) {
        job_ref(group->jobs->pdata[i]);
        g_ptr_array_add(jobs, group->jobs->pdata[i]);
    }
    return jobs;
}

static void cancel_work(BlockJob *job)
{
    job->cancelled = true;
    block_job_kick(job);
}

/* Everybody has to have ended first: who has not is told to, and comes here again. */
static void co_fn abort_group(BlockJobGroup *group)
{
    g_autoptr(GPtrArray) jobs = group_jobs(group);
    bool all = true;

    group->aborting = true;
    for (unsigned i = 0; i < jobs->len; i++) {
        BlockJob *job = jobs->pdata[i];

        if (!job->ended) {
            all = false;
            cancel_work(job);
        } else if (job->status != BLOCK_JOB_ABORTING) {
            block_job_set_status(job, BLOCK_JOB_ABORTING);
        }
    }
    if (!all || group->finalizing)
        return;
    group->finalizing = true;
    for (unsigned i = 0; i < jobs->len; i++) {
        BlockJob *job = jobs->pdata[i];

        if (job->ok || !job->error) {
            job->cancelled = true;         /* by the failure of another, or by a client */
            if (!job->error)
                job->error = g_error_new(VIREO_ERROR, ERR_GENERIC, "%s", g_strerror(ECANCELED));
        }
        conclude(job, false, false);
    }
}

static void co_fn finalize_group(BlockJobGroup *group)
{
    g_autoptr(GPtrArray) jobs = group_jobs(group);
    bool ok = true;

    group->finalizing = true;
    for (unsigned i = 0; ok && i < jobs->len; i++) {
        BlockJob *job = jobs->pdata[i];

        if (job->type->prepare && !job->type->prepare(job, &job->error))
            ok = job->ok = false;
    }
    if (!ok || group->aborting) {          /* cancelled while it was being prepared */
        group->finalizing = false;
        abort_group(group);
        return;
    }
    for (unsigned i = 0; i < jobs->len; i++)
        conclude(jobs->pdata[i], true, false);
}

static bool all_wait(const BlockJobGroup *group)
{
    for (unsigned i = 0; i < group->jobs->len; i++)
        if (((BlockJob *)group->jobs->pdata[i])->status != BLOCK_JOB_WAITING)
            return false;
    return true;
}

static void co_fn succeeded(BlockJob *job)
{
    BlockJobGroup *group = job->group;
    bool wait_for_client = false;

    block_job_set_status(job, BLOCK_JOB_WAITING);
    if (!all_wait(group))
        return;
    for (unsigned i = 0; i < group->jobs->len; i++) {
        BlockJob *other = group->jobs->pdata[i];

        block_job_set_status(other, BLOCK_JOB_PENDING);
        if (!other->auto_finalize) {
            emit_pending(other);
            wait_for_client = true;
        }
    }
    if (!wait_for_client)
        finalize_group(group);
}

static void co_fn job_main(void *opaque)
{
    BlockJob *job = opaque;
    BlockJobGroup *group = job->group;

    job_ref(job);
    group->refs++;
    block_graph_begin(job->graph);
    co_pause();                            /* requests that were held while it was made go first */
    job->ok = job->type->run(job, &job->error) && !job->cancelled;
    job->ended = true;
    job->busy = false;
    if (job->ok && !group->aborting)
        succeeded(job);
    else
        abort_group(group);
    block_graph_end(job->graph);
    block_job_group_unref(group);
    job_unref(job);
}

void block_job_start(BlockJob *job)
{
    job->busy = true;
    block_job_set_status(job, BLOCK_JOB_RUNNING);
    co_start(job_main, job);
}

static void co_fn abandon_run(void *opaque)
{
    BlockJob *job = opaque;

    job->cancelled = true;
    block_job_set_status(job, BLOCK_JOB_ABORTING);
    conclude(job, false, true);
}

void block_job_abandon(BlockJob *job)
{
    co_run_sync(abandon_run, job);
}

typedef struct Launch {
    const BlockJobType *type;
    BlockGraph *graph;
    const BlockJobConfig *config;
    BlockJobSetUp *set_up;
    const void *args;
    BlockJob *job;                         /* made, perhaps not whole */
} Launch;

static bool co_fn make(void *opaque, GError **error)
{
    Launch *launch = opaque;

    launch->job = block_job_new(launch->type, launch->graph, launch->config, NULL, error);
    return launch->job && launch->set_up(launch->job, launch->args, error);
}

static bool start_made(const Launch *launch, bool ok)
{
    if (ok)
        block_job_start(launch->job);
    else if (launch->job)
        block_job_abandon(launch->job);
    return ok;
}

bool block_job_launch(const BlockJobType *type, BlockNode *node, const BlockJobConfig *config,
                      BlockJobSetUp *set_up, const void *args, GError **error)
{
    Launch launch = { type, node->graph, config, set_up, args, NULL };

    return start_made(&launch, block_change(node->graph, node, make, &launch, error));
}

typedef struct Beside {
    Launch launch;
    GError **error;
    bool ok;
} Beside;

static void co_fn make_beside(void *opaque)
{
    Beside *beside = opaque;
    CoMutex *lock = &beside->launch.graph->change_lock;

    co_mutex_lock(lock);
    beside->ok = make(&beside->launch, beside->error);
    co_mutex_unlock(lock);
}

bool block_job_launch_beside(const BlockJobType *type, BlockGraph *graph, const BlockJobConfig *config,
                             BlockJobSetUp *set_up, const void *args, GError **error)
{
    Beside beside = { { type, graph, config, set_up, args, NULL }, error, false };

    co_run_sync(make_beside, &beside);
    return start_made(&beside.launch, beside.ok);
}

/* For the work. */

void block_job_ready(BlockJob *job)
{
    block_job_set_status(job, BLOCK_JOB_READY);
    emit_block_event(job, "BLOCK_JOB_READY", false);
}

void block_job_kick(BlockJob *job)
{
    job->kicked = true;
    if (job->sleeper)
        co_wake(job->sleeper);
}

static void kick_sleeper(void *opaque)
{
    block_job_kick(opaque);
}

/* @until_ns: -1: until something is asked of the job. */
static void co_fn sleep_until(BlockJob *job, int64_t until_ns)
{
    LoopTimer timer;

    loop_timer_init(&timer, loop_main(), kick_sleeper, job);
    if (until_ns >= 0)
        loop_timer_set(&timer, until_ns);
    job->sleeper = co_self();
    job->busy = false;
    while (!job->kicked)
        co_yield();
    job->busy = true;
    job->sleeper = NULL;
    job->kicked = false;
    loop_timer_cancel(&timer);
}

void co_fn block_job_sleep(BlockJob *job, int64_t ns)
{
    if (!job->cancelled)
        sleep_until(job, loop_clock_ns() + ns);
}

bool co_fn block_job_pause_point(BlockJob *job)
{
    BlockJobStatus before = job->status;

    if (job->cancelled || !job->pauses)
        return !job->cancelled;
    block_job_set_status(job, before == BLOCK_JOB_READY ? BLOCK_JOB_STANDBY : BLOCK_JOB_PAUSED);
    while (job->pauses && !job->cancelled)
        sleep_until(job, -1);
    block_job_set_status(job, before);
    return !job->cancelled;
}

bool co_fn block_job_limit(BlockJob *job, uint64_t bytes)
{
    int64_t now;

    if (!block_job_pause_point(job))
        return false;
    while (job->speed && (now = loop_clock_ns()) < job->next_ns) {
        sleep_until(job, job->next_ns);
        if (!block_job_pause_point(job))
            return false;
    }
    if (job->speed)
        job->next_ns = MAX(loop_clock_ns(), job->next_ns) +
                       (int64_t)((double)bytes / job->speed * 1e9);
    return true;
}

BlockErrorAction block_job_error_action(BlockJob *job, BlockOnError policy, bool is_read, int err)
{
    static const char *const words[] = { "report", "ignore", "stop" };
    json_object *data = json_object_new_object();
    BlockErrorAction action = BLOCK_ERROR_REPORT;

    if (policy == BLOCK_ON_ERROR_STOP || (policy == BLOCK_ON_ERROR_ENOSPC && err == ENOSPC))
        action = BLOCK_ERROR_STOP;
    else if (policy == BLOCK_ON_ERROR_IGNORE)
        action = BLOCK_ERROR_IGNORE;
    json_add_str(data, "device", job->id);
    json_add_str(data, "operation", is_read ? "read" : "write");
    json_add_str(data, "action", words[action]);
    emit(job, "BLOCK_JOB_ERROR", data);
    if (action == BLOCK_ERROR_STOP && !job->user_paused) {
        job->user_paused = true;
        job->pauses++;
    }
    if (action == BLOCK_ERROR_STOP && !job->failed && !job->nospace)
        *(err == ENOSPC ? &job->nospace : &job->failed) = true;
    return action;
}

void block_job_tasks_init(BlockJobTasks *tasks, unsigned most)
{
    *tasks = (BlockJobTasks){ .most = most };
    co_queue_init(&tasks->room);
}

typedef struct Task {
    BlockJobTasks *tasks;
    CoroutineFn *fn;
    void *opaque;
} Task;

static void co_fn run_task(void *opaque)
{
    g_autofree Task *task = opaque;

    task->fn(task->opaque);
    task->tasks->running--;
    co_queue_wake_all(&task->tasks->room);
}

void co_fn block_job_task(BlockJobTasks *tasks, CoroutineFn *fn, void *opaque)
{
    Task *task = g_new(Task, 1);

    while (tasks->running >= tasks->most)
        co_queue_wait(&tasks->room, NULL);
    *task = (Task){ tasks, fn, opaque };
    tasks->running++;
    co_start(run_task, task);
}

void co_fn block_job_tasks_wait(BlockJobTasks *tasks)
{
    while (tasks->running)
        co_queue_wait(&tasks->room, NULL);
}

/* Verbs. */

BlockJob *block_job_find(BlockGraph *graph, const char *id)
{
    for (unsigned i = 0; i < graph->jobs->len; i++)
        if (!strcmp(((BlockJob *)graph->jobs->pdata[i])->id, id))
            return graph->jobs->pdata[i];
    return NULL;
}

BlockJob *block_job_next(BlockGraph *graph, BlockJob *job)
{
    unsigned i = 0;

    if (job) {
        g_ptr_array_find(graph->jobs, job, &i);
        i++;
    }
    return i < graph->jobs->len ? graph->jobs->pdata[i] : NULL;
}

#define IN(status) (1u << BLOCK_JOB_##status)
#define WORKING (IN(CREATED) | IN(RUNNING) | IN(PAUSED) | IN(READY) | IN(STANDBY))

static bool check_verb(const BlockJob *job, unsigned allowed, const char *verb, GError **error)
{
    if (allowed >> job->status & 1)
        return true;
    fail(error, ERR_BAD_STATE, "Job '%s' in state '%s' cannot accept command verb '%s'", job->id,
         status_words[job->status], verb);
    return error_object(error, "%s", job->id);
}

bool block_job_pause(BlockJob *job, GError **error)
{
    if (!check_verb(job, WORKING, "pause", error))
        return false;
    if (job->user_paused)
        return fail(error, ERR_BAD_STATE, "Job is already paused");
    job->user_paused = true;
    job->pauses++;
    block_job_kick(job);
    return true;
}

bool block_job_resume(BlockJob *job, GError **error)
{
    if (!job->user_paused || !job->pauses)
        return fail(error, ERR_BAD_STATE, "Can't resume a job that was not paused");
    if (!check_verb(job, WORKING, "resume", error))
        return false;
    job->user_paused = job->nospace = job->failed = false;
    job->pauses--;
    block_job_kick(job);
    return true;
}

static void co_fn abort_run(void *opaque)
{
    BlockJobGroup *group = opaque;

    group->refs++;
    abort_group(group);
    block_job_group_unref(group);
}

bool block_job_cancel(BlockJob *job, bool force, GError **error)
{
    if (!check_verb(job, WORKING | IN(WAITING) | IN(PENDING), "cancel", error))
        return false;
    if (job->group->finalizing)
        return fail(error, ERR_BAD_STATE, "Job '%s' is being finalized", job->id);
    if (!force && job->type->finish_early && !job->ended && job->type->finish_early(job)) {
        block_job_kick(job);
        return true;
    }
    if (job->user_paused) {
        job->user_paused = false;
        job->pauses--;
    }
    cancel_work(job);
    if (job->ended)
        co_run_sync(abort_run, job->group);
    return true;
}

bool block_job_complete(BlockJob *job, GError **error)
{
    if (!check_verb(job, IN(READY) | IN(STANDBY), "complete", error))
        return false;
    if (job->cancelled || !job->type->complete)
        return fail(error, ERR_BAD_STATE, "The active block job '%s' cannot be completed", job->id);
    if (!job->type->complete(job, error))
        return false;
    block_job_kick(job);
    return true;
}

static void co_fn finalize_run(void *opaque)
{
    BlockJobGroup *group = opaque;

    group->refs++;
    finalize_group(group);
    block_job_group_unref(group);
}

bool block_job_finalize(BlockJob *job, GError **error)
{
    if (!check_verb(job, IN(PENDING), "finalize", error))
        return false;
    if (job->group->finalizing)
        return fail(error, ERR_BAD_STATE, "Job '%s' is being finalized", job->id);
    co_run_sync(finalize_run, job->group);
    return true;
}

bool block_job_dismiss(BlockJob *job, GError **error)
{
    if (!check_verb(job, IN(CONCLUDED), "dismiss", error))
        return false;
    dismiss(job);
    return true;
}

bool block_job_set_speed(BlockJob *job, int64_t speed, GError **error)
{
    if (!check_verb(job, WORKING, "set-speed", error))
        return false;
    if (speed < 0)
        return fail(error, ERR_INVALID_PARAMETER, "Parameter 'speed' expects a non-negative value");
    job->speed = speed;
    job->next_ns = 0;
    block_job_kick(job);
    return true;
}

/* Queries. */

json_object *block_job_info(BlockJob *job)
{
    json_object *info = json_object_new_object();

    json_add_str(info, "id", job->id);
    json_add_str(info, "type", job->type->name);
    json_add_str(info, "status", status_words[job->status]);
    json_add_int(info, "current-progress", job->done);
    json_add_int(info, "total-progress", job->total);
    if (job->error)
        json_add_str(info, "error", job->error->message);
    return info;
}

json_object *block_job_block_info(BlockJob *job)
{
    json_object *info = json_object_new_object();
    struct { const char *name; bool value; } bools[] = {
        { "busy", job->busy }, { "paused", job->pauses > 0 },
        { "ready", job->status == BLOCK_JOB_READY || job->status == BLOCK_JOB_STANDBY },
        { "auto-finalize", job->auto_finalize }, { "auto-dismiss", job->auto_dismiss },
    };

    json_add_str(info, "type", job->type->name);
    json_add_str(info, "device", job->id);
    json_add_int(info, "len", job->total);
    json_add_int(info, "offset", job->done);
    json_add_int(info, "speed", job->speed);
    json_add_str(info, "io-status", job->nospace ? "nospace" : job->failed ? "failed" : "ok");
    json_add_str(info, "status", status_words[job->status]);
    for (unsigned i = 0; i < G_N_ELEMENTS(bools); i++)
        json_object_object_add(info, bools[i].name, json_object_new_boolean(bools[i].value));
    if (job->error)
        json_add_str(info, "error", job->error->message);
    if (job->type->describe)
        job->type->describe(job, info);
    return info;
}

void block_jobs_cancel_all(BlockGraph *graph)
{
    while (graph->jobs->len) {
        BlockJob *job = graph->jobs->pdata[0];

        job->auto_dismiss = true;
        if (job->status == BLOCK_JOB_CONCLUDED)
            block_job_dismiss(job, NULL);
        else if (job->status == BLOCK_JOB_ABORTING || !block_job_cancel(job, true, NULL))
            loop_iterate(loop_main(), true);
        else if (graph->jobs->len && graph->jobs->pdata[0] == job)
            loop_iterate(loop_main(), true);
    }
}
