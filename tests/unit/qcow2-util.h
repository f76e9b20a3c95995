/* What the tests of qcow2 share: images made and judged by qemu-img, a disk's model in memory. */
#pragma once
#include "block-util.h"
#include "src/base/util.h"

/* Runs a command; its output is shown only when it fails.  Returns the exit code. */
G_GNUC_PRINTF(1, 2)
static inline int run_command(const char *format, ...)
{
    va_list args;
    g_autofree char *command = NULL, *out = NULL, *err = NULL;
    g_autoptr(GError) error = NULL;
    int status = -1;

    va_start(args, format);
    command = g_strdup_vprintf(format, args);
    va_end(args);
    if (!g_spawn_command_line_sync(command, &out, &err, &status, &error))
        g_error("%s: %s", command, error->message);
    if (status)
        fprintf(stderr, "%s: status %x\n%s%s\n", command, status, out, err);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* An image in the test's folder; g_free. */
static inline char *qcow2_create(const char *name, const char *options, uint64_t bytes)
{
    char *path = g_strdup_printf("%s/%s", test_dir(), name);

    ck_assert_int_eq(run_command("qemu-img create -q -f qcow2 %s%s %s %" PRIu64,
                                 *options ? "-o " : "", options, path, bytes), 0);
    return path;
}

static inline void qcow2_check_image(const char *path)
{
    ck_assert_msg(run_command("qemu-img check -q -f qcow2 %s", path) == 0, "check of %s", path);
}

/* What qemu-img reads is the model. */
static inline void qcow2_compare(const char *path, const uint8_t *model, uint64_t bytes)
{
    g_autofree char *raw = g_strdup_printf("%s/model.raw", test_dir());

    ck_assert(g_file_set_contents(raw, (const char *)model, bytes, NULL));
    ck_assert_msg(run_command("qemu-img compare -f qcow2 -F raw %s %s", path, raw) == 0,
                  "compare of %s", path);
}

static inline BlockUser *qcow2_attach(BlockNode *node)
{
    GError *error = NULL;
    BlockUser *user = block_user_new(node, "test", block_node_read_only(node)
                                                       ? BLOCK_PERM_READ
                                                       : BLOCK_PERM_READ | BLOCK_PERM_WRITE,
                                     BLOCK_PERM_ALL, &error);

    assert_no_error(error);
    return user;
}

/* @more: ",option=value…" */
static inline BlockUser *qcow2_open_user(TestRoot *t, const char *path, const char *more)
{
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, "driver=qcow2,node-name=disk,discard=unmap,"
                                "file.driver=file,file.filename=%s%s", path, more);

    assert_no_error(error);
    return qcow2_attach(node);
}

static inline void qcow2_close_user(TestRoot *t, BlockUser *user)
{
    GError *error = NULL;

    block_user_free(user);
    block_node_delete(t->graph, "disk", &error);
    assert_no_error(error);
}

/* Random requests against a model. */
typedef struct DiskModel {
    BlockUser *user;
    uint8_t *bytes;                        /* of the whole disk */
    uint64_t size;
    GRand *rand;
    uint64_t longest;                      /* of a request */
    bool discards_are_zeroes;
} DiskModel;

static inline void model_range(DiskModel *m, uint64_t *offset, uint64_t *bytes)
{
    static const uint64_t units[] = { 1, 512, 4096, 65536 };
    uint64_t unit = units[g_rand_int_range(m->rand, 0, 4)], limit = m->size / unit;

    *offset = g_rand_int_range(m->rand, 0, limit);
    *bytes = g_rand_int_range(m->rand, 1, m->longest / unit + 2);
    *bytes = MIN(MIN(*bytes, limit - *offset) * unit, m->longest);
    *offset *= unit;
}

static inline void co_fn model_step(DiskModel *m)
{
    uint64_t offset, bytes;
    int what = g_rand_int_range(m->rand, 0, 20);
    g_autofree uint8_t *buffer = NULL;
    struct iovec iov;

    model_range(m, &offset, &bytes);
    buffer = g_malloc(bytes);
    iov = (struct iovec){ buffer, bytes };
    if (what < 7) {
        ck_assert_int_eq(block_co_read(m->user, offset, &iov, 1, bytes), 0);
        if (memcmp(buffer, m->bytes + offset, bytes)) {
            uint64_t i = 0;

            while (buffer[i] == m->bytes[offset + i])
                i++;
            ck_abort_msg("read of %" PRIu64 " at %" PRIu64 " differs at %" PRIu64 ": %02x, not %02x",
                         bytes, offset, offset + i, buffer[i], m->bytes[offset + i]);
        }
    } else if (what < 14) {
        memset(buffer, g_rand_int_range(m->rand, 0, 256), bytes);
        memcpy(m->bytes + offset, buffer, bytes);
        ck_assert_int_eq(block_co_write(m->user, offset, &iov, 1, bytes, 0), 0);
    } else if (what < 17) {
        memset(m->bytes + offset, 0, bytes);
        ck_assert_int_eq(block_co_zero(m->user, offset, bytes,
                                       g_rand_boolean(m->rand) ? BLOCK_MAY_UNMAP : 0), 0);
    } else if (what < 18) {
        /* What is not discarded (parts of clusters) stays: so all of it is zeroed first. */
        memset(m->bytes + offset, 0, bytes);
        ck_assert_int_eq(block_co_zero(m->user, offset, bytes, 0), 0);
        ck_assert_int_eq(block_co_discard(m->user, offset, bytes), 0);
    } else {
        ck_assert_int_eq(block_co_flush(m->user), 0);
    }
}

typedef struct ModelRun {
    DiskModel *model;
    int steps;
} ModelRun;

static inline void co_fn model_run_co(void *opaque)
{
    ModelRun *run = opaque;

    for (int i = 0; i < run->steps; i++)
        model_step(run->model);
}

static inline void model_run(DiskModel *m, int steps)
{
    ModelRun run = { m, steps };

    co_run_sync(model_run_co, &run);
}
