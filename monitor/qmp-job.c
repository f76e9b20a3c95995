/* QMP: jobs. */
#include "block/job.h"
#include "schema/commands.h"

json_object *qmp_query_jobs(Vm *vm, GError **error)
{
    json_object *list = json_object_new_array();

    for (BlockJob *job = NULL; (job = block_job_next(vm->block, job));)
        json_object_array_add(list, block_job_info(job));
    return list;
}

json_object *qmp_query_block_jobs(Vm *vm, GError **error)
{
    json_object *list = json_object_new_array();

    for (BlockJob *job = NULL; (job = block_job_next(vm->block, job));)
        if (job->type->is_block)
            json_object_array_add(list, block_job_block_info(job));
    return list;
}

static BlockJob *find_job(Vm *vm, const char *id, GError **error)
{
    BlockJob *job = block_job_find(vm->block, id);

    if (!job) {
        fail(error, ERR_NOT_FOUND, "Job not found");
        error_object(error, "%s", id);
    }
    return job;
}

static BlockJob *find_block_job(Vm *vm, const char *id, GError **error)
{
    BlockJob *job = block_job_find(vm->block, id);

    if (job && job->type->is_block)
        return job;
    fail(error, ERR_DEVICE_NOT_ACTIVE, "Block job '%s' not found", id);
    error_object(error, "%s", id);
    return NULL;
}

bool qmp_job_pause(Vm *vm, const char *id, GError **error)
{
    BlockJob *job = find_job(vm, id, error);

    return job && block_job_pause(job, error);
}

bool qmp_job_resume(Vm *vm, const char *id, GError **error)
{
    BlockJob *job = find_job(vm, id, error);

    return job && block_job_resume(job, error);
}

bool qmp_job_cancel(Vm *vm, const char *id, GError **error)
{
    BlockJob *job = find_job(vm, id, error);

    return job && block_job_cancel(job, true, error);
}

bool qmp_job_complete(Vm *vm, const char *id, GError **error)
{
    BlockJob *job = find_job(vm, id, error);

    return job && block_job_complete(job, error);
}

bool qmp_job_finalize(Vm *vm, const char *id, GError **error)
{
    BlockJob *job = find_job(vm, id, error);

    return job && block_job_finalize(job, error);
}

bool qmp_job_dismiss(Vm *vm, const char *id, GError **error)
{
    BlockJob *job = find_job(vm, id, error);

    return job && block_job_dismiss(job, error);
}

bool qmp_block_job_set_speed(Vm *vm, const char *device, int64_t speed, GError **error)
{
    BlockJob *job = find_block_job(vm, device, error);

    return job && block_job_set_speed(job, speed, error);
}

bool qmp_block_job_cancel(Vm *vm, const char *device, bool has_force, bool force, GError **error)
{
    BlockJob *job = find_block_job(vm, device, error);

    if (job && job->user_paused && !(has_force && force))
        return fail(error, ERR_BAD_STATE, "The block job for device '%s' is currently paused",
                    device);
    return job && block_job_cancel(job, has_force && force, error);
}

bool qmp_block_job_pause(Vm *vm, const char *device, GError **error)
{
    BlockJob *job = find_block_job(vm, device, error);

    return job && block_job_pause(job, error);
}

bool qmp_block_job_resume(Vm *vm, const char *device, GError **error)
{
    BlockJob *job = find_block_job(vm, device, error);

    return job && block_job_resume(job, error);
}

bool qmp_block_job_complete(Vm *vm, const char *device, GError **error)
{
    BlockJob *job = find_block_job(vm, device, error);

    return job && block_job_complete(job, error);
}

bool qmp_block_job_finalize(Vm *vm, const char *id, GError **error)
{
    return qmp_job_finalize(vm, id, error);
}

bool qmp_block_job_dismiss(Vm *vm, const char *id, GError **error)
{
    return qmp_job_dismiss(vm, id, error);
}
