/*
 * Jobs: slow work on images that goes on in the background, with QEMU's states and verbs.
 *
 *   created -> running <-> paused          ready <-> standby: keeps up, may be completed
 *   running -> ready                       (mirror)
 *   running, ready -> waiting              its work is done; others of its group are not
 *   waiting -> pending                     all are; waits for job-finalize, unless auto-finalize
 *   pending -> concluded                   its changes have taken effect
 *   any -> aborting -> concluded           it failed or was cancelled, and nothing of it stays
 *   concluded -> null                      it is dismissed, and gone
 *
 * Threads: the main thread.  A job's work is a coroutine of the main loop, or several.
 */
#pragma once
#include "block/change.h"

typedef struct BlockJob BlockJob;
typedef struct BlockJobGroup BlockJobGroup;

typedef enum BlockJobStatus {
    BLOCK_JOB_CREATED, BLOCK_JOB_RUNNING, BLOCK_JOB_PAUSED, BLOCK_JOB_READY, BLOCK_JOB_STANDBY,
    BLOCK_JOB_WAITING, BLOCK_JOB_PENDING, BLOCK_JOB_ABORTING, BLOCK_JOB_CONCLUDED, BLOCK_JOB_NULL
} BlockJobStatus;

/* What a kind of job is.  Absent functions do nothing; all may wait. */
typedef struct BlockJobType {
    const char *name;                      /* QMP's JobType: "mirror" */
    size_t size;                           /* of its struct, whose first member is a BlockJob */
    bool is_block;                         /* works on a node: BLOCK_JOB_ events */
    bool co_fn (*run)(BlockJob *job, GError **error);       /* the work */
    /* The job, and all of its group, have done their work: prepare may still fail; then either all
     * of the group commit or all abort.  clean is always the last. */
    bool co_fn (*prepare)(BlockJob *job, GError **error);
    void co_fn (*commit)(BlockJob *job);
    void co_fn (*abort)(BlockJob *job);
    void co_fn (*clean)(BlockJob *job);
    bool (*complete)(BlockJob *job, GError **error);        /* job-complete, when ready */
    /* A cancel that is no failure: the job ends without its last step.  True: it does so. */
    bool (*finish_early)(BlockJob *job);
    void (*describe)(BlockJob *job, json_object *info);     /* adds members to BlockJobInfo */
    void (*free)(BlockJob *job);           /* what describe needs after clean; does not wait */
} BlockJobType;

struct BlockJob {
    const BlockJobType *type;
    BlockGraph *graph;
    char *id;
    BlockJobStatus status;
    BlockJobGroup *group;
    bool auto_finalize, auto_dismiss;
    bool user_paused, busy;
    bool cancelled;                        /* the work is to end soon, in failure */
    bool ended, ok;                        /* the work has; how */
    bool nospace, failed;                  /* io-status */
    unsigned pauses;
    uint64_t done, total;                  /* progress, in bytes or what the job counts */
    uint64_t speed;                        /* bytes a second; 0: no limit */
    int64_t next_ns;                       /* when the speed allows the next chunk */
    GError *error;                         /* why it failed */
    GPtrArray *users;                      /* of BlockUser; freed before it concludes */
    bool kicked;
    Coroutine *sleeper;
    unsigned refs;
};

/* What every command that makes a job takes: job-id, speed, auto-finalize, auto-dismiss. */
typedef struct BlockJobConfig {
    const char *id;
    uint64_t speed;
    bool auto_finalize, auto_dismiss;
} BlockJobConfig;
/* @fallback: the id if none is given; NULL: one must be. */
bool block_job_config(json_object *options, const char *fallback, BlockJobConfig *config,
                      GError **error);

/* A job of @type->size bytes, in state created.  @group: NULL: one of its own. */
BlockJob *block_job_new(const BlockJobType *type, BlockGraph *graph, const BlockJobConfig *config,
                        BlockJobGroup *group, GError **error);
void block_job_start(BlockJob *job);
/* Makes a job and starts it: @set_up does the rest of making it, while nobody else changes the graph and
 * the users above @node are held.  What it has done when it fails is for @type->clean.  Waits. */
typedef bool co_fn BlockJobSetUp(BlockJob *job, const void *args, GError **error);
bool block_job_launch(const BlockJobType *type, BlockNode *node, const BlockJobConfig *config,
                      BlockJobSetUp *set_up, const void *args, GError **error);
/* The same for a job that changes nothing in the graph: nobody is held. */
bool block_job_launch_beside(const BlockJobType *type, BlockGraph *graph, const BlockJobConfig *config,
                             BlockJobSetUp *set_up, const void *args, GError **error);
/* Undoes block_job_new: the job was not started, and is gone. */
void block_job_abandon(BlockJob *job);
/* A user of the job's; goes with it. */
BlockUser *block_job_use(BlockJob *job, BlockNode *node, unsigned perm, unsigned shared,
                         GError **error);
/* All of them go now: for a @type->clean that needs its nodes to be without them. */
void block_job_free_users(BlockJob *job);

BlockJobGroup *block_job_group_new(void);
void block_job_group_unref(BlockJobGroup *group);           /* the jobs in it keep it */

/* For the work itself. */
void block_job_set_status(BlockJob *job, BlockJobStatus status);
void block_job_ready(BlockJob *job);                        /* with its event */
/* Waits while the job is paused; false: it is to end. */
bool co_fn block_job_pause_point(BlockJob *job);
/* Waits until @bytes more may be moved at the job's speed, then as above. */
bool co_fn block_job_limit(BlockJob *job, uint64_t bytes);
/* Waits so long, or until something is asked of the job. */
void co_fn block_job_sleep(BlockJob *job, int64_t ns);
void block_job_kick(BlockJob *job);
/* What to do about a failed request, by on-source-error= or on-target-error=: emits
 * BLOCK_JOB_ERROR; on STOP the job is paused. */
BlockErrorAction block_job_error_action(BlockJob *job, BlockOnError policy, bool is_read, int err);

/* Chunks that are copied at once: coroutines that the job waits for. */
typedef struct BlockJobTasks {
    unsigned running, most;
    CoQueue room;
} BlockJobTasks;
void block_job_tasks_init(BlockJobTasks *tasks, unsigned most);
void co_fn block_job_task(BlockJobTasks *tasks, CoroutineFn *fn, void *opaque); /* waits for room */
void co_fn block_job_tasks_wait(BlockJobTasks *tasks);

/* QMP. */
BlockJob *block_job_find(BlockGraph *graph, const char *id);
BlockJob *block_job_next(BlockGraph *graph, BlockJob *job); /* NULL: the first, or the end */
bool block_job_pause(BlockJob *job, GError **error);
bool block_job_resume(BlockJob *job, GError **error);
bool block_job_cancel(BlockJob *job, bool force, GError **error);
bool block_job_complete(BlockJob *job, GError **error);
bool block_job_finalize(BlockJob *job, GError **error);     /* waits */
bool block_job_dismiss(BlockJob *job, GError **error);
bool block_job_set_speed(BlockJob *job, int64_t speed, GError **error);
json_object *block_job_info(BlockJob *job);                 /* JobInfo */
json_object *block_job_block_info(BlockJob *job);           /* BlockJobInfo */
/* Cancels all and waits for their end.  Before the graph is closed. */
void block_jobs_cancel_all(BlockGraph *graph);
