/* Images on disks in memory (ram-disk.h). */
#pragma once
#include "tests/unit/seeds.h"              /* first: assertions of the others name the seed, too */
#include "qcow2-util.h"
#include "block/image.h"
#include "src/base/sched.h"
#include "tests/unit/ram-disk.h"

typedef struct RamCreate {
    BlockGraph *graph;
    json_object *options;
    GError *error;
} RamCreate;

static inline void co_fn ram_create_run(void *opaque)
{
    RamCreate *c = opaque;

    block_co_create(c->graph, c->options, &c->error);
}

/* @options: "driver=qcow2,file=mem,size=…". */
static inline void ram_create_on(TestRoot *t, unsigned disk, const char *options)
{
    RamCreate c = { .graph = t->graph };

    test_open(t->graph, &c.error, "driver=ram,node-name=mem,disk=%u", disk);
    assert_no_error(c.error);
    c.options = options_parse(options, "driver", &c.error);
    assert_no_error(c.error);
    co_run_sync(ram_create_run, &c);
    assert_no_error(c.error);
    json_object_put(c.options);
    block_node_delete(t->graph, "mem", &c.error);
    assert_no_error(c.error);
}

/* The same on the first disk; the external data file is "data-file=memdata". */
static inline void ram_create(TestRoot *t, const char *options)
{
    GError *error = NULL;

    test_open(t->graph, &error, "driver=ram,node-name=memdata,disk=1");
    assert_no_error(error);
    ram_create_on(t, 0, options);
    block_node_delete(t->graph, "memdata", &error);
    assert_no_error(error);
}

static inline BlockUser *ram_open_image(TestRoot *t, const char *more, GError **error)
{
    BlockNode *node = test_open(t->graph, error, "driver=qcow2,node-name=disk,discard=unmap,"
                                "pass-discard-other=on,file.driver=ram%s", more);

    return node ? qcow2_attach(node) : NULL;
}

typedef struct RamCheck {
    BlockNode *node;
    unsigned fix;
    BlockCheck result;
    GError *error;
    int ret;
} RamCheck;

static inline void ram_check_line(const char *line, void *opaque)
{
    if (!strncmp(line, "ERROR", 5))
        fprintf(stderr, "%s\n", line);
}

static inline void co_fn ram_check_run(void *opaque)
{
    RamCheck *c = opaque;

    c->ret = block_co_check(c->node, &c->result, c->fix, &c->error);
}

static inline BlockCheck ram_check(BlockNode *node, unsigned fix)
{
    RamCheck c = { .node = node, .fix = fix, .result = { .report = ram_check_line } };

    co_run_sync(ram_check_run, &c);
    assert_no_error(c.error);
    ck_assert_int_eq(c.ret, 0);
    return c.result;
}
