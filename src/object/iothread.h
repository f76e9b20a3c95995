/* The "iothread" object: a thread with an event loop of its own, for a device's data plane. */
#pragma once
#include <sys/types.h>
#include "src/base/loop.h"
#include "src/object/object.h"

/* @iothread: a realized object that is_a "iothread". */
Loop *iothread_loop(Object *iothread);
pid_t iothread_thread_id(Object *iothread);
/* Main thread. */
LoopPollParams iothread_poll_params(Object *iothread);
int64_t iothread_aio_max_batch(Object *iothread);
