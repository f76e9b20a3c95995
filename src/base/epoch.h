/*
 * Epoch-based reclaim: readers of a structure that is replaced, not changed, mark where they read;
 * what a writer has taken out is freed when every reader that could have seen it has left.
 *
 * A read section costs two stores.  Nothing inside may block.  Threads need no registration.
 */
#pragma once

void epoch_enter(void);                    /* any thread; nests */
void epoch_exit(void);
/* Calls fn(arg) once no reader can still see what was unpublished before this call: at once, or in a
 * later epoch_defer or epoch_flush, by the thread that calls that. */
void epoch_defer(void (*fn)(void *arg), void *arg);
/* Waits for the present readers and runs what is deferred.  Not inside a read section. */
void epoch_flush(void);
