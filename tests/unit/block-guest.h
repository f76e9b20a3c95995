/* A guest for tests of jobs: coroutines that write to a disk at random, and a plain array that says
 * what the disk must hold. */
#pragma once
#include "block-util.h"
#include "block/change.h"
#include "block/job.h"
#include "block/transaction.h"
#include "src/base/sched.h"
#include "src/base/util.h"
#include "src/object/event.h"

enum { GUEST_WRITERS = 4, GUEST_BLOCK = 4096 };

typedef struct Guest {
    BlockUser *user;
    uint64_t size;
    uint8_t *disk;                         /* what was written */
    GRand *random;
    unsigned running;
    uint64_t writes, failures;
    bool stop;
    bool owned[1024];                      /* blocks that a writer is at: no two at one */
} Guest;

static inline int co_fn guest_write(Guest *g, uint64_t offset, uint64_t bytes, uint8_t value)
{
    g_autofree uint8_t *data = g_malloc(bytes);
    struct iovec iov = { data, bytes };
    bool zero = value % 8 == 0;
    int ret;

    memset(data, zero ? 0 : value, bytes);
    ret = zero ? block_co_zero(g->user, offset, bytes, value % 16 ? 0 : BLOCK_MAY_UNMAP)
               : block_co_write(g->user, offset, &iov, 1, bytes, 0);
    if (ret == 0)                          /* no wait since the write has counted itself out */
        memcpy(g->disk + offset, data, bytes);
    return ret;
}

static inline void co_fn guest_writer(void *opaque)
{
    Guest *g = opaque;

    while (!g->stop) {
        uint64_t blocks = g->size / GUEST_BLOCK;
        uint64_t first = g_rand_int_range(g->random, 0, blocks);
        uint64_t most = 1 + g_rand_int(g->random) % 4, n = MIN(most, blocks - first), i;
        uint64_t cut = g_rand_int(g->random) % 4 ? 0 : 512;

        for (i = 0; i < n && !g->owned[first + i]; i++)
            g->owned[first + i] = true;
        if (i)
            g->failures += guest_write(g, first * GUEST_BLOCK + cut, i * GUEST_BLOCK - cut,
                                       g_rand_int(g->random)) < 0;
        g->writes++;
        while (i-- > 0)
            g->owned[first + i] = false;
        co_sleep_ns(0);
    }
    g->running--;
}

static inline Guest *guest_new(BlockNode *node, unsigned seed)
{
    Guest *g = g_new0(Guest, 1);
    GError *error = NULL;

    g->user = block_user_new(node, "the guest", BLOCK_PERM_READ | BLOCK_PERM_WRITE,
                             BLOCK_PERM_READ | BLOCK_PERM_WRITE_SAME | BLOCK_PERM_RESIZE, &error);
    assert_no_error(error);
    g->size = block_node_size(node);
    ck_assert_uint_le(g->size / GUEST_BLOCK, G_N_ELEMENTS(g->owned));
    g->disk = g_malloc0(g->size);
    g->random = g_rand_new_with_seed(seed);
    return g;
}

/* Fills part of the disk, with nothing else going on. */
typedef struct GuestFill {
    Guest *g;
    uint64_t offset, bytes;
    uint8_t value;
    int ret;
} GuestFill;

static inline void co_fn guest_fill_run(void *opaque)
{
    GuestFill *fill = opaque;

    fill->ret = guest_write(fill->g, fill->offset, fill->bytes, fill->value);
}

static inline void guest_fill(Guest *g, uint64_t offset, uint64_t bytes, uint8_t value)
{
    GuestFill fill = { g, offset, bytes, value, -1 };

    co_run_sync(guest_fill_run, &fill);
    ck_assert_int_eq(fill.ret, 0);
}

static inline void guest_start(Guest *g)
{
    g->stop = false;
    for (unsigned i = 0; i < GUEST_WRITERS; i++) {
        g->running++;
        co_start(guest_writer, g);
    }
}

static inline void guest_stop(Guest *g)
{
    g->stop = true;
    while (g->running)
        loop_iterate(loop_main(), true);
    ck_assert_uint_eq(g->failures, 0);
}

/* Lets the guest make @n more writes. */
static inline void guest_writes(Guest *g, unsigned n)
{
    uint64_t until = g->writes + n;

    while (g->writes < until)
        loop_iterate(loop_main(), true);
}

static inline void guest_free(Guest *g)
{
    block_user_free(g->user);
    g_rand_free(g->random);
    g_free(g->disk);
    g_free(g);
}

/* What a node holds must be @expected. */
static inline void check_disk(BlockNode *node, const uint8_t *expected, const char *what)
{
    GError *error = NULL;
    BlockUser *user = block_user_new(node, "the test", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);
    uint64_t size = block_node_size(node);
    g_autofree uint8_t *data = g_malloc0(size);

    assert_no_error(error);
    ck_assert_int_eq(test_request(user, OP_READ, 0, data, size, 0), 0);
    for (uint64_t i = 0; i < size; i++)
        if (data[i] != expected[i])
            ck_abort_msg("%s: byte %" PRIu64 " is %u, should be %u", what, i, data[i], expected[i]);
    block_user_free(user);
}

/* The events of a machine, in order: "JOB_STATUS_CHANGE j running". */
typedef struct Events {
    TestRoot *root;
    GString *log;
} Events;

static inline const char *event_member(json_object *data, const char *key)
{
    json_object *value;

    return data && json_object_object_get_ex(data, key, &value) ? json_object_get_string(value) : "";
}

static inline void note_event(const char *name, json_object *data, void *opaque)
{
    Events *e = opaque;
    const char *id = event_member(data, "id"), *status = event_member(data, "status");

    g_string_append_printf(e->log, "%s %s %s\n", name, *id ? id : event_member(data, "device"),
                           status);
}

static inline void events_on(Events *e, TestRoot *t)
{
    *e = (Events){ .root = t, .log = g_string_new(NULL) };
    event_sink_add(t->root, note_event, e);
}

static inline void events_off(Events *e)
{
    event_sink_remove(e->root->root, note_event, e);
    g_string_free(e->log, TRUE);
}

/* What test_root, events_on, guest_new and sched_seed began. */
static inline void job_test_end(TestRoot *t, Events *e, Guest *g)
{
    events_off(e);
    guest_free(g);
    test_root_free(t);
    sched_off();
}

static inline bool seen(Events *e, const char *line)
{
    g_autofree char *whole = g_strconcat(line, "\n", NULL);

    return strstr(e->log->str, whole) != NULL;
}

static inline void wait_event(Events *e, const char *line)
{
    while (!seen(e, line))
        loop_iterate(loop_main(), true);
}

/* An action in a coroutine; *ret_disk, if asked for, gets the guest's disk at that point
 * in time. */
typedef struct ActionRun {
    BlockGraph *graph;
    const char *type;
    json_object *data;
    Guest *guest;
    uint8_t *disk;
    GError *error;
    bool ok;
} ActionRun;

static inline void co_fn action_run(void *opaque)
{
    ActionRun *run = opaque;

    run->ok = block_action(run->graph, run->type, run->data, &run->error);
    if (run->guest)
        run->disk = g_memdup2(run->guest->disk, run->guest->size);
}

G_GNUC_PRINTF(4, 5)
static inline uint8_t *act(TestRoot *t, Guest *guest, const char *type, const char *format, ...)
{
    g_autofree char *text = NULL;
    g_autoptr(json_object) data = NULL;
    ActionRun run = { .graph = t->graph, .type = type, .guest = guest };
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    data = options_parse(text, NULL, NULL);
    ck_assert_ptr_nonnull(data);
    run.data = data;
    co_run_sync(action_run, &run);
    assert_no_error(run.error);
    ck_assert(run.ok);
    return run.disk;
}
