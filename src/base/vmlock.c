/* The VM lock: a mutex that knows its owner, so that code which needs it can check. */
#include "src/base/vmlock.h"

void vm_lock_init(VmLock *lock)
{
    pthread_mutex_init(&lock->mutex, NULL);
    lock->owner = NULL;
}

void vm_lock_clear(VmLock *lock)
{
    pthread_mutex_destroy(&lock->mutex);
}

void vm_lock(VmLock *lock)
{
    pthread_mutex_lock(&lock->mutex);
    __atomic_store_n(&lock->owner, g_thread_self(), __ATOMIC_RELAXED);
}

void vm_unlock(VmLock *lock)
{
    __atomic_store_n(&lock->owner, NULL, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&lock->mutex);
}

bool vm_locked(const VmLock *lock)
{
    return __atomic_load_n(&lock->owner, __ATOMIC_RELAXED) == g_thread_self();
}
