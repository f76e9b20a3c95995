/* The iothread object. */
#include <sys/prctl.h>
#include <unistd.h>
#include "src/base/options.h"
#include "src/object/iothread.h"
#include "tests/test.h"

typedef struct Seen {
    pid_t thread_id;
    char name[16];
    Loop *loop;
} Seen;

static void look(void *opaque)
{
    Seen *seen = opaque;
    seen->thread_id = gettid();
    seen->loop = loop_current();
    prctl(PR_GET_NAME, seen->name);
}

static Object *make(const char *text)
{
    GError *error = NULL;
    g_autoptr(json_object) options = options_parse(text, "qom-type", NULL);
    Object *root = object_new_by_name("container", NULL);
    Object *thread = object_create_user(root, options, &error);
    ck_assert_msg(thread != NULL, "%s", error ? error->message : "");
    return thread;
}

static void drop(Object *thread)
{
    Object *root = object_root(thread);
    ck_assert(object_delete_user(root, "io7", NULL));
    object_unref(root);
}

START_TEST(runs_a_loop_in_a_named_thread)
{
    Object *thread = make("iothread,id=io7");
    Seen seen = { 0 };
    loop_call(iothread_loop(thread), look, &seen);
    ck_assert_ptr_eq(seen.loop, iothread_loop(thread));
    ck_assert_int_eq(seen.thread_id, iothread_thread_id(thread));
    ck_assert_int_ne(seen.thread_id, getpid());
    ck_assert_str_eq(seen.name, "IO io7");
    json_object *id = object_get(thread, "thread-id", NULL);
    ck_assert_int_eq(json_object_get_int64(id), seen.thread_id);
    json_object_put(id);
    drop(thread);
}
END_TEST

START_TEST(parameters_change_at_run_time)
{
    g_autoptr(GError) error = NULL;
    Object *thread = make("iothread,id=io7,poll-grow=4");
    ck_assert_int_eq(iothread_poll_params(thread).max_ns, 32768);
    ck_assert_int_eq(iothread_poll_params(thread).io_max_ns, 200000);
    ck_assert_int_eq(iothread_poll_params(thread).grow, 4);
    ck_assert(object_set_str(thread, "poll-max-ns", "0", NULL));
    ck_assert(object_set_str(thread, "aio-max-batch", "8", NULL));
    ck_assert_int_eq(iothread_poll_params(thread).max_ns, 0);
    ck_assert_int_eq(iothread_aio_max_batch(thread), 8);
    ck_assert(!object_set_str(thread, "poll-shrink", "-1", &error));
    drop(thread);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, runs_a_loop_in_a_named_thread);
    tcase_add_test(tc, parameters_change_at_run_time);
}

int main(void)
{
    return run_tests("iothread", add);
}
