/*
 * bare IMAGE DEPTH direct|cached poll|sleep SECONDS: what the disk itself gives: the guest's random reads
 * (payload/disk.c: the same blocks, DEPTH at a time) by io_uring, without any VMM.  Prints reads a second.
 */
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { BLOCK = 4096, REQUESTS = 256 };

static off_t offsets[REQUESTS];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int open_image(const char *path, int direct)
{
    struct stat st;
    uint32_t random = 12345;
    int fd = open(path, O_RDONLY | (direct ? O_DIRECT : 0));
    if (fd < 0 || fstat(fd, &st))
        fail(path);
    for (int i = 0; i < REQUESTS; i++) {
        random = random * 1664525 + 1013904223;
        offsets[i] = (off_t)((uint64_t)random * (uint32_t)(st.st_size / BLOCK) >> 32) * BLOCK;
    }
    return fd;
}

static void read_next(struct io_uring *ring, int fd, char *buffers)
{
    static unsigned next;
    unsigned i = next++ % REQUESTS;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    io_uring_prep_read(sqe, fd, buffers + (size_t)i * BLOCK, BLOCK, offsets[i]);
}

/* Takes one completion; polling or asleep. */
static void wait_for_one(struct io_uring *ring, int poll)
{
    struct io_uring_cqe *cqe;
    io_uring_submit(ring);
    while (poll && io_uring_peek_cqe(ring, &cqe) != 0)
        __builtin_ia32_pause();
    if (!poll && io_uring_wait_cqe(ring, &cqe) != 0)
        fail("io_uring_wait_cqe");
    if (cqe->res != BLOCK) {
        fprintf(stderr, "bare: a read of %d bytes: %s\n", cqe->res, strerror(-cqe->res));
        exit(1);
    }
    io_uring_cqe_seen(ring, cqe);
}

int main(int argc, char **argv)
{
    struct io_uring ring;
    struct io_uring_params own = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                            IORING_SETUP_TASKRUN_FLAG };
    struct io_uring_params plain = { 0 };
    char *buffers = aligned_alloc(BLOCK, (size_t)REQUESTS * BLOCK);
    if (argc != 6)
        return fprintf(stderr, "usage: bare IMAGE DEPTH direct|cached poll|sleep SECONDS\n"), 1;
    int depth = atoi(argv[2]), poll = !strcmp(argv[4], "poll");
    int fd = open_image(argv[1], !strcmp(argv[3], "direct"));
    double seconds = atof(argv[5]);
    if (io_uring_queue_init_params(REQUESTS, &ring, &own) && io_uring_queue_init_params(REQUESTS, &ring, &plain))
        fail("io_uring");
    for (int i = 0; i < depth; i++)
        read_next(&ring, fd, buffers);
    double began = now();
    long done = 0;
    for (; now() < began + seconds; done++) {
        wait_for_one(&ring, poll);
        read_next(&ring, fd, buffers);
    }
    printf("%.0f\n", done / (now() - began));
    return 0;
}
