/*
 * The VM lock: guards a machine's device tree, its memory map and the registers of its devices.
 * vCPU threads take it around device access; the main loop holds it while it dispatches.
 * Order: VM lock before any lock of a device or backend; iothreads never take it.
 */
#pragma once
#include <glib.h>
#include <pthread.h>
#include <stdbool.h>

typedef struct VmLock {
    pthread_mutex_t mutex;
    GThread *owner;      /* atomic; for vm_locked only */
} VmLock;

void vm_lock_init(VmLock *lock);
void vm_lock_clear(VmLock *lock);
void vm_lock(VmLock *lock);            /* not recursive */
void vm_unlock(VmLock *lock);
bool vm_locked(const VmLock *lock);    /* held by the calling thread */
