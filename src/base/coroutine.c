/*
 * Coroutines.  A coroutine's record lies at the top of its stack, and stacks are kept for reuse by
 * the thread that used them: starting one allocates nothing once the pool is warm.
 */
#include <sys/mman.h>
#include <unistd.h>
#include "src/base/co-int.h"
#include "src/base/sanitizer.h"
#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef WITH_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#if defined(WITH_ASAN) || defined(WITH_TSAN)
enum { STACK_BYTES = 1 << 20 };    /* sanitized frames are several times as large */
#else
enum { STACK_BYTES = 256 << 10 };
#endif
enum { POOL_MAX = 128 };

/* Where control can be: a thread's own stack, or a coroutine's. */
typedef struct Context {
    void *sp;                      /* while it does not run */
    const void *stack;             /* lowest address and size, for ASan */
    size_t stack_bytes;
    void *fake_stack, *tsan_fiber;
} Context;

struct Coroutine {
    Context context;
    CoroutineFn *fn;
    void *opaque;
    Loop *loop;                    /* of its first entry; NULL before */
    Context *caller;               /* who entered it; NULL: it is not running */
    Coroutine *caller_co;
    bool ended, woken;             /* woken: while it ran; resumes once it has yielded */
    LoopBh wake_bh;
    void *map;
    struct Coroutine *next;        /* in the pool */
};

typedef struct Pool {
    Coroutine *free;
    unsigned count;
} Pool;

static void pool_clear(void *opaque);
static GPrivate pool_key = G_PRIVATE_INIT(pool_clear);   /* frees a thread's pool at its end */

static __thread Pool *pool;
static __thread Context thread_context;
static __thread Coroutine *current;

/*
 * void switch_stack(void **save, void *load): pushes the registers a callee must keep (System V
 * AMD64 ABI, 3.2.1), leaves the stack pointer in *save, takes @load and pops there.  The control
 * words of the FPU are the same everywhere in this process.
 */
void co_switch_stack(void **save, void *load);
void co_first_frame(void);
__asm__(".text\n"
        ".p2align 4\n"
        ".hidden co_switch_stack\n"
        ".globl co_switch_stack\n"
        ".type co_switch_stack, @function\n"
        "co_switch_stack:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    popq %rcx\n" /* not ret: it would miss the processor's stack of return addresses */
        "    jmpq *%rcx\n"
        ".size co_switch_stack, .-co_switch_stack\n"
        /* Where the first switch to a coroutine returns to: %rbx is the Coroutine, %r12 its body. */
        ".p2align 4\n"
        ".hidden co_first_frame\n"
        ".globl co_first_frame\n"
        ".type co_first_frame, @function\n"
        "co_first_frame:\n"
        "    .cfi_startproc\n"
        "    .cfi_undefined rip\n"
        "    movq %rbx, %rdi\n"
        "    callq *%r12\n"
        "    ud2\n"
        "    .cfi_endproc\n"
        ".size co_first_frame, .-co_first_frame\n");

static void leave(Context *from, const Context *to, bool for_ever)
{
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(for_ever ? NULL : &from->fake_stack, to->stack,
                                   to->stack_bytes);
#endif
#ifdef WITH_TSAN
    __tsan_switch_to_fiber(to->tsan_fiber, 0);
#endif
}

/* @from: where control came from.  A thread's own stack is learnt from the first switch. */
static void arrive(Context *here, Context *from)
{
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(here->fake_stack, &from->stack, &from->stack_bytes);
#endif
}

static void switch_to(Context *from, Context *to)
{
#ifdef WITH_TSAN
    if (!from->tsan_fiber)
        from->tsan_fiber = __tsan_get_current_fiber();
#endif
    leave(from, to, false);
    co_switch_stack(&from->sp, to->sp);
    Context *ignored = &(Context){ 0 };
    arrive(from, ignored);
}

static void body(Coroutine *co)
{
    co->context.fake_stack = NULL;
    arrive(&co->context, co->caller);
    for (;;) {
        co->fn(co->opaque);
        co->ended = true;
        co_yield();
    }
}

static Coroutine *make_stack(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *map = mmap(NULL, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (map == MAP_FAILED || mprotect(map, page, PROT_NONE))
        g_error("out of memory for a coroutine's stack"); /* as g_malloc does */
    char *top = map + page + STACK_BYTES;
    Coroutine *co = (Coroutine *)(top - ((sizeof(Coroutine) + 63) & ~(size_t)63));
    *co = (Coroutine){ .map = map };
    co->context.stack = map + page;
    co->context.stack_bytes = STACK_BYTES;
#ifdef WITH_TSAN
    co->context.tsan_fiber = __tsan_create_fiber(0);
#endif
    /* As co_switch_stack leaves it: r15 r14 r13 r12 rbx rbp and a return address; after the ret
     * the stack is 16-byte aligned, as at a call instruction (ABI, 3.2.2). */
    void **sp = (void **)co - 2;
    *--sp = (void *)co_first_frame;
    *--sp = NULL;
    *--sp = co;
    *--sp = (void *)body;
    *--sp = NULL;
    *--sp = NULL;
    *--sp = NULL;
    co->context.sp = sp;
    return co;
}

static void free_stack(Coroutine *co)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
#ifdef WITH_ASAN
    __asan_unpoison_memory_region(co->context.stack, STACK_BYTES);
#endif
#ifdef WITH_TSAN
    __tsan_destroy_fiber(co->context.tsan_fiber);
#endif
    munmap(co->map, STACK_BYTES + page);
}

static void pool_clear(void *opaque)
{
    Pool *p = opaque;
    while (p->free) {
        Coroutine *co = p->free;
        p->free = co->next;
        free_stack(co);
    }
    g_free(p);
    pool = NULL;
}

static Pool *get_pool(void)
{
    if (G_UNLIKELY(!pool)) {
        pool = g_new0(Pool, 1);
        g_private_set(&pool_key, pool);
    }
    return pool;
}

static void put_back(Coroutine *co)
{
    Pool *p = get_pool();
    if (p->count >= POOL_MAX) {
        free_stack(co);
        return;
    }
    co->next = p->free;
    p->free = co;
    p->count++;
}

Coroutine *co_new(CoroutineFn *fn, void *opaque)
{
    Pool *p = get_pool();
    Coroutine *co = p->free;
    if (co) {
        p->free = co->next;
        p->count--;
    } else {
        co = make_stack();
    }
    co->fn = fn;
    co->opaque = opaque;
    co->loop = NULL;
    co->ended = co->woken = false;
    return co;
}

Coroutine *co_self(void)
{
    return current;
}

Loop *co_loop(const Coroutine *co)
{
    return co->loop;
}

static void wake_bh(void *opaque)
{
    co_resume(opaque);
}

void co_resume(Coroutine *co)
{
    if (co->caller)
        co->woken = true;
    else
        co_enter(co);
}

void co_enter(Coroutine *co)
{
    g_assert(!co->caller);
    if (!co->loop) {
        co->loop = loop_current();
        g_assert(co->loop);
        loop_bh_init(&co->wake_bh, co->loop, wake_bh, co);
    }
    co->caller_co = current;
    co->caller = current ? &current->context : &thread_context;
    current = co;
    switch_to(co->caller, &co->context);
    current = co->caller_co;
    co->caller = NULL;
    if (co->ended) {
        loop_bh_cancel(&co->wake_bh);
        put_back(co);
    } else if (co->woken) {
        co->woken = false;
        loop_bh_schedule(&co->wake_bh);
    }
}

void co_fn co_yield(void)
{
    Coroutine *co = current;
    g_assert(co);
    switch_to(&co->context, co->caller);
}

void co_wake(Coroutine *co)
{
    loop_bh_schedule(&co->wake_bh);
}

typedef struct SyncRun {
    CoroutineFn *fn;
    void *opaque;
    bool done;
} SyncRun;

static void co_fn run_sync(void *opaque)
{
    SyncRun *run = opaque;
    run->fn(run->opaque);
    __atomic_store_n(&run->done, true, __ATOMIC_RELEASE);
}

void co_run_sync(CoroutineFn *fn, void *opaque)
{
    if (co_self()) {
        fn(opaque);
        return;
    }
    SyncRun run = { fn, opaque, false };
    co_start(run_sync, &run);
    loop_wait(&run.done);
}

static void sleep_over(void *opaque)
{
    Coroutine **sleeper = opaque;
    co_resume(g_steal_pointer(sleeper));
}

void co_fn co_sleep_ns(int64_t ns)
{
    Coroutine *sleeper = co_self();
    LoopTimer timer;
    loop_timer_init(&timer, sleeper->loop, sleep_over, &sleeper);
    loop_timer_set(&timer, loop_clock_ns() + MAX(ns, 0));
    while (sleeper) /* another's wake does not end it */
        co_yield();
}

void co_fn co_pause(void)
{
    Coroutine *sleeper = co_self();
    LoopBh next;
    loop_bh_init(&next, sleeper->loop, sleep_over, &sleeper);
    loop_bh_schedule(&next);
    while (sleeper)
        co_yield();
}
