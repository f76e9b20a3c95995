/*
 * Random reads or writes through the block layer, from one loop as an iothread has it:
 *
 *     block-rw OPTIONS DEPTH SECONDS [write]
 *
 * OPTIONS are those of -blockdev.  Prints operations a second, and the CPU time of each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "block/block.h"
#include "src/object/object.h"

#define BLOCK_BYTES 4096

typedef struct Bench {
    BlockUser *user;
    uint64_t blocks, done;
    int64_t end_ns;
    unsigned running;
    bool write;
    Loop *loop;
} Bench;

static void co_fn work(void *opaque)
{
    Bench *bench = opaque;
    struct iovec iov = { NULL, BLOCK_BYTES };
    uint64_t state = (uintptr_t)&iov | 1;

    if (posix_memalign(&iov.iov_base, 4096, BLOCK_BYTES))
        abort();
    memset(iov.iov_base, 0x5a, BLOCK_BYTES);
    do {
        uint64_t offset;
        int ret;

        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        offset = state % bench->blocks * BLOCK_BYTES;
        ret = bench->write ? block_co_write(bench->user, offset, &iov, 1, BLOCK_BYTES, 0)
                           : block_co_read(bench->user, offset, &iov, 1, BLOCK_BYTES);
        if (ret < 0) {
            fprintf(stderr, "request failed: %s\n", g_strerror(-ret));
            exit(1);
        }
        bench->done++;
    } while ((bench->done & 15) || loop_clock_ns() < bench->end_ns);
    free(iov.iov_base);
    if (!--bench->running)
        loop_quit(bench->loop);
}

static double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void start(void *opaque)
{
    Bench *bench = opaque;

    for (unsigned i = 0, depth = bench->running; i < depth; i++)
        co_start(work, bench);
}

static void run(Bench *bench, unsigned depth, double seconds)
{
    int64_t start_ns = loop_clock_ns();
    double cpu = cpu_seconds(), elapsed;

    bench->end_ns = start_ns + (int64_t)(seconds * 1e9);
    bench->running = depth;
    loop_post(bench->loop, start, bench);
    loop_run(bench->loop);
    elapsed = (loop_clock_ns() - start_ns) / 1e9;
    cpu = cpu_seconds() - cpu;
    printf("%.0f operations/s, %.2f us CPU each\n", bench->done / elapsed,
           cpu * 1e6 / bench->done);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_object) options = NULL;
    Object *root = object_new_by_name("container", NULL);
    BlockGraph *graph = block_graph_new(root, NULL);
    BlockNode *node;
    Bench bench = { 0 };

    if (argc < 4) {
        fprintf(stderr, "usage: %s OPTIONS DEPTH SECONDS [write]\n", argv[0]);
        return 1;
    }
    bench.write = argc > 4 && !strcmp(argv[4], "write");
    options = options_parse(argv[1], "driver", &error);
    node = options ? block_node_open(graph, options, &error) : NULL;
    if (node)
        bench.user = block_user_new(node, "benchmark", BLOCK_PERM_READ |
                                    (bench.write ? BLOCK_PERM_WRITE : 0), BLOCK_PERM_ALL, &error);
    bench.loop = bench.user ? loop_new("bench", &error) : NULL;
    if (!bench.loop) {
        error_report(error);
        return 1;
    }
    bench.blocks = block_node_size(node) / BLOCK_BYTES;
    run(&bench, atoi(argv[2]), atof(argv[3]));
    loop_free(bench.loop);
    block_user_free(bench.user);
    block_graph_close(graph);
    return 0;
}
