/* Epochs: what is deferred waits for readers, and for no longer. */
#include <stdbool.h>
#include "src/base/epoch.h"
#include "tests/test.h"

static void count(void *arg)
{
    ++*(unsigned *)arg;
}

typedef struct Reader {
    GMutex lock;
    GCond cond;
    bool inside, leave;
} Reader;

static void *read_until_told(void *opaque)
{
    Reader *r = opaque;

    epoch_enter();
    epoch_enter();
    epoch_exit();                          /* still inside: it nests */
    g_mutex_lock(&r->lock);
    r->inside = true;
    g_cond_broadcast(&r->cond);
    while (!r->leave)
        g_cond_wait(&r->cond, &r->lock);
    g_mutex_unlock(&r->lock);
    epoch_exit();
    return NULL;
}

START_TEST(at_once_without_readers)
{
    unsigned n = 0;

    epoch_defer(count, &n);
    ck_assert_uint_eq(n, 1);
}
END_TEST

START_TEST(waits_for_a_reader)
{
    Reader r = { 0 };
    unsigned n = 0;
    GThread *thread = g_thread_new("reader", read_until_told, &r);

    g_mutex_lock(&r.lock);
    while (!r.inside)
        g_cond_wait(&r.cond, &r.lock);
    g_mutex_unlock(&r.lock);
    epoch_defer(count, &n);
    epoch_defer(count, &n);
    ck_assert_uint_eq(n, 0);
    g_mutex_lock(&r.lock);
    r.leave = true;
    g_cond_broadcast(&r.cond);
    g_mutex_unlock(&r.lock);
    epoch_flush();
    ck_assert_uint_eq(n, 2);
    g_thread_join(thread);
}
END_TEST

START_TEST(own_section_holds_it_back)
{
    unsigned n = 0;

    epoch_enter();
    epoch_defer(count, &n);
    ck_assert_uint_eq(n, 0);
    epoch_exit();
    epoch_defer(count, &n);
    ck_assert_uint_eq(n, 2);
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, at_once_without_readers);
    tcase_add_test(tests, waits_for_a_reader);
    tcase_add_test(tests, own_section_holds_it_back);
}

int main(void)
{
    return run_tests("epoch", add);
}
