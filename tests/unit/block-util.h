/* What the tests of the block layer share: a graph, nodes from text, requests that wait. */
#pragma once
#include <fcntl.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "block/block.h"
#include "block/driver.h"
#include "src/object/object.h"
#include "tests/test.h"

typedef struct TestRoot {
    Object *root;
    BlockGraph *graph;
} TestRoot;

static inline TestRoot test_root(void)
{
    TestRoot t = { object_new_by_name("container", NULL), NULL };

    ck_assert_ptr_nonnull(t.root);
    t.graph = block_graph_new(t.root, NULL);
    ck_assert_ptr_nonnull(t.graph);
    return t;
}

static inline void test_root_free(TestRoot *t)
{
    block_graph_close(t->graph);
    object_unparent(OBJECT(t->graph));
    object_unref(t->root);
}

/* Options in either syntax; format arguments as printf. */
G_GNUC_PRINTF(3, 4)
static inline BlockNode *test_open(BlockGraph *graph, GError **error, const char *format, ...)
{
    va_list args;
    g_autofree char *text = NULL;
    g_autoptr(json_object) options = NULL;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    options = options_parse(text, "driver", error);
    return options ? block_node_open(graph, options, error) : NULL;
}

static inline BlockNode *test_drive(BlockGraph *graph, const char **iface, GError **error,
                                    const char *text)
{
    g_autoptr(json_object) options = options_parse(text, "file", error);

    return options ? block_drive_open(graph, options, iface, error) : NULL;
}

/* The error's text or hint has @part; frees it. */
static inline void assert_error(GError **error, const char *part)
{
    const char *hint;

    ck_assert_msg(*error != NULL, "no error; expected one with '%s'", part);
    hint = error_get_hint(*error);
    ck_assert_msg(strstr((*error)->message, part) || (hint && strstr(hint, part)),
                  "error '%s' (hint '%s') has no '%s'", (*error)->message, hint ? hint : "", part);
    g_clear_error(error);
}

#define assert_no_error(error)                                                                     \
    ck_assert_msg(!(error), "unexpected error: %s", (error) ? (error)->message : "")

/* Somebody who reads and writes, and lets others do all. */
static inline BlockUser *test_user(BlockNode *node)
{
    GError *error = NULL;
    BlockUser *user = block_user_new(node, "test", BLOCK_PERM_READ | BLOCK_PERM_WRITE,
                                     BLOCK_PERM_ALL, &error);

    assert_no_error(error);
    return user;
}

/* Requests, from outside coroutines. */
typedef enum TestOp { OP_READ, OP_WRITE, OP_ZERO, OP_DISCARD, OP_FLUSH } TestOp;

typedef struct TestRequest {
    BlockUser *user;
    TestOp op;
    uint64_t offset, bytes;
    const struct iovec *iov;
    int iovcnt;
    unsigned flags;
    int ret;
} TestRequest;

static inline int co_fn test_request_co(TestRequest *r)
{
    switch (r->op) {
    case OP_READ:
        return block_co_read(r->user, r->offset, r->iov, r->iovcnt, r->bytes);
    case OP_WRITE:
        return block_co_write(r->user, r->offset, r->iov, r->iovcnt, r->bytes, r->flags);
    case OP_ZERO:
        return block_co_zero(r->user, r->offset, r->bytes, r->flags);
    case OP_DISCARD:
        return block_co_discard(r->user, r->offset, r->bytes);
    case OP_FLUSH:
        return block_co_flush(r->user);
    }
    return -1;
}

static inline void co_fn test_request_run(void *opaque)
{
    TestRequest *r = opaque;

    r->ret = test_request_co(r);
}

static inline int test_request(BlockUser *user, TestOp op, uint64_t offset, void *buffer,
                               uint64_t bytes, unsigned flags)
{
    struct iovec iov = { buffer, bytes };
    TestRequest r = { user, op, offset, bytes, &iov, 1, flags, -1 };

    co_run_sync(test_request_run, &r);
    return r.ret;
}

static inline bool all_bytes(const void *data, size_t length, uint8_t value)
{
    const uint8_t *bytes = data;

    for (size_t i = 0; i < length; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

static inline void test_secret(TestRoot *t, const char *id, const char *data)
{
    g_autoptr(json_object) options = json_object_new_object();
    GError *error = NULL;

    json_object_object_add(options, "qom-type", json_object_new_string("secret"));
    json_object_object_add(options, "id", json_object_new_string(id));
    json_object_object_add(options, "data", json_object_new_string(data));
    ck_assert_ptr_nonnull(object_create_user(t->root, options, &error));
    assert_no_error(error);
}

/* A directory on a file system that takes O_DIRECT, or NULL.  Made once; removed at the end. */
static inline const char *test_dir(void)
{
    static char *dir;

    if (!dir) {
        const char *at = g_getenv("VIREO_TEST_DIR");

        dir = g_strdup_printf("%s/vireo-block-XXXXXX", at ? at : g_get_tmp_dir());
        if (!g_mkdtemp(dir))
            g_error("cannot make %s", dir);
    }
    return dir;
}

static inline char *test_file(const char *name, uint64_t bytes)
{
    char *path = g_strdup_printf("%s/%s", test_dir(), name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, bytes) < 0)
        g_error("cannot make %s", path);
    close(fd);
    return path;
}

static inline void test_dir_remove(void)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", test_dir());

    if (system(command))
        fprintf(stderr, "%s failed\n", command);
}

/* What is started from here on, QEMU's tools, need not measure for long how fast they are (quick-clock.c). */
static inline void test_quick_clock(void)
{
    const char *library = g_getenv("VIREO_QUICK_CLOCK");

    if (library)
        g_setenv("LD_PRELOAD", library, TRUE);
}

/* As run_tests, with test_dir made before the forks, and removed. */
static inline int run_block_tests(const char *name, void (*add)(TCase *tc))
{
    int failed;

    test_dir();
    failed = run_tests(name, add);
    test_dir_remove();
    return failed;
}

static inline bool test_direct_io(void)
{
    g_autofree char *path = test_file("direct-probe", 4096);
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    unlink(path);
    return fd >= 0;
}
