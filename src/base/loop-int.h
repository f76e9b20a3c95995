/* What the parts of the event loop share: loop.c, loop-main.c, loop-ring.c, loop-timer.c. */
#pragma once
#include "src/base/loop.h"
#include "src/base/sched.h"

typedef enum RingState {
    RING_UNTRIED,              /* the main loop's, until somebody asks for it */
    RING_DISABLED,             /* made, not yet bound to the thread that will submit */
    RING_ON,
    RING_FAILED                /* the host has none: see ring_errno */
} RingState;

/* A one-shot poll request in flight; outlives its watch when that is removed meanwhile. */
typedef struct PollReq {
    LoopCqe cqe;               /* first */
    Loop *loop;
    LoopFd *watch;             /* NULL: nobody waits any more */
    GList link;                /* in loop->poll_reqs while in flight */
} PollReq;

struct LoopFd {
    Loop *loop;
    int fd;
    unsigned events, ready;    /* asked for; to be told */
    LoopFdFn *fn;
    void *opaque;
    GList link;                /* in loop->fds */
    GList turn;                /* in @in, if not NULL */
    GQueue *in;                /* &loop->unarmed or &loop->ready_fds */
    void *tag;                 /* main loop: in its GSource */
    PollReq *req;              /* io_uring: this watch's request, in flight if armed */
    bool armed;
};

struct LoopPoll {
    Loop *loop;
    bool (*fn)(void *opaque);
    void (*begin)(void *opaque);
    bool (*end)(void *opaque);
    void *opaque;
    bool begun;
};

/* A loop waits for its users, or for requests that are in flight: each has a length of its own. */
typedef enum WaitKind { WAIT_USER, WAIT_IO, WAIT_KINDS } WaitKind;
typedef struct Polling {
    int64_t ns;                /* how long a turn polls before it sleeps; adapts */
    unsigned misses, pause, next_pause;    /* see adapt() */
} Polling;

typedef struct Completion {
    LoopCqe *cqe;
    int res;
} Completion;

typedef struct LoopData {
    const void *key;
    void *data;
    void (*free)(void *data);
} LoopData;

struct Loop {
    char *name;
    bool is_main;
    bool patient;              /* the owner's */

    /* Any thread (atomic). */
    LoopBh *incoming;          /* a stack: newest first */
    int waiting;               /* asleep, or about to look for work a last time */
    int kicked, quit;
    int pushing;               /* threads on their way from adding work to waking */

    /* The owner's. */
    LoopBh *posts, **posts_tail;   /* oldest first */
    unsigned post_count;
    GPtrArray *timers;         /* a heap of LoopTimer */
    GQueue fds;                /* of LoopFd */
    GQueue unarmed, ready_fds; /* of LoopFd: to be polled; to be told */
    GPtrArray *polls;          /* of LoopPoll */
    LoopPollParams poll_params;
    Polling polling[WAIT_KINDS];

    RingState ring_state;
    int ring_errno;
    struct io_uring ring;
    unsigned in_flight;        /* entries of loop_uring_sqe not completed yet */
    int other_io;              /* loop_count_io */
    unsigned batch_max;        /* entries that may wait for the turn's end; 0: as many as fit */
    GArray *stash;             /* of Completion: taken out of the ring, not yet told */
    GQueue poll_reqs;          /* in flight */
    GArray *data;              /* of LoopData */

    int wake_fd;               /* own loops: an eventfd; -1: the main loop */
    uint64_t wake_value;
    bool wake_armed;
    LoopCqe wake_cqe;

    GSource *source;           /* main loop only */
    void *ring_tag;
    VmLock *vm_lock;
};

/* loop.c */
Loop *loop_alloc(const char *name, bool is_main);
bool loop_has_work(Loop *loop);        /* something can be dispatched without waiting */
bool loop_dispatch(Loop *loop);        /* what is there now, each once; true if there was any */
void loop_fd_queue(LoopFd *watch, GQueue *queue);  /* NULL: off any */

/* loop-timer.c */
int64_t loop_timeout_ns(Loop *loop);   /* to the next timer; -1: none; 0: due */
unsigned loop_timers_due(Loop *loop, int64_t now);
/* Fires the @index-th timer that is due (0: the earliest).  False: there is none. */
bool loop_timer_fire(Loop *loop, int64_t now, unsigned index);

/* loop-main.c */
bool loop_main_iterate(Loop *loop, bool may_block);
void loop_main_wake(Loop *loop);
void loop_main_watch(LoopFd *watch);   /* its events have changed, or it goes (0) */
void loop_main_watch_ring(Loop *loop);

/* loop-ring.c */
void ring_create(Loop *loop);
void ring_destroy(Loop *loop);
bool ring_wait(Loop *loop, bool may_block);   /* own loops: one turn's wait; true: polled work done */
unsigned ring_completions(Loop *loop);
bool ring_complete_one(Loop *loop, unsigned index);  /* the index-th completion */
void ring_submit(Loop *loop);
void ring_settle(Loop *loop);          /* seeded tests: let file I/O end before the order is drawn */
void ring_unwatch(LoopFd *watch);      /* takes back a poll in flight */
