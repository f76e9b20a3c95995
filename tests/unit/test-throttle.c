/* Limits: the buckets by a clock of the test's own, groups and their turns, the filter and the user. */
#include "block-util.h"
#include "block/bucket.h"

static const int64_t second = 1000000000;

/* Sends as many requests as the limit lets through until @end_ns, from @now_ns on. */
static unsigned pour(const ThrottleConfig *config, ThrottleState *state, bool is_write,
                     uint64_t bytes, int64_t now_ns, int64_t end_ns)
{
    unsigned n = 0;

    while (now_ns < end_ns) {
        int64_t wait = throttle_wait_ns(config, state, is_write, now_ns);

        if (!wait) {
            throttle_account(config, state, is_write, bytes);
            n++;
        }
        now_ns += wait;
    }
    return n;
}

START_TEST(the_average_is_kept)
{
    ThrottleConfig config;
    ThrottleState state = { 0 };

    throttle_config_init(&config);
    config.of[THROTTLE_IOPS_TOTAL].average = 100;
    /* A tenth of a second's worth at once, and what leaks meanwhile. */
    ck_assert_uint_eq(pour(&config, &state, false, 4096, 0, 10 * second) / 5, 1010 / 5);
    state = (ThrottleState){ 0 };
    throttle_config_init(&config);
    config.of[THROTTLE_BPS_WRITE].average = 1 << 20;
    ck_assert_uint_eq(pour(&config, &state, true, 4096, 0, 4 * second) / 5, (1024 + 26) / 5);
    ck_assert_int_eq(throttle_wait_ns(&config, &state, false, 0), 0);   /* reads have no limit */
}
END_TEST

START_TEST(a_burst_lasts_as_long_as_it_may)
{
    ThrottleConfig config;
    ThrottleState state = { 0 };
    unsigned n;

    throttle_config_init(&config);
    config.of[THROTTLE_IOPS_READ] = (ThrottleLimit){ 100, 1000, 5 };
    n = pour(&config, &state, false, 512, 0, 4 * second);
    ck_assert_uint_ge(n, 4000);
    ck_assert_uint_le(n, 4000 + 150);
    n = pour(&config, &state, false, 512, 10 * second, 20 * second);   /* used up: 100 a second, then */
    ck_assert_uint_le(n, 3200);
}
END_TEST

START_TEST(large_requests_count_as_several)
{
    ThrottleConfig config;
    ThrottleState state = { 0 };
    unsigned n;

    throttle_config_init(&config);
    config.of[THROTTLE_IOPS_TOTAL].average = 100;
    config.iops_size = 4096;
    n = pour(&config, &state, true, 16384, 0, 10 * second);
    ck_assert_uint_ge(n, 250);
    ck_assert_uint_le(n, 255);
}
END_TEST

START_TEST(wrong_limits_are_refused)
{
    static const struct {
        const char *text, *error;
    } wrong[] = {
        { "bps-total=1,bps-read=1", "at the same time" },
        { "iops-total=1,iops-write=1", "at the same time" },
        { "iops-size=1", "requires an iops value" },
        { "bps-total-max=5", "require corresponding" },
        { "bps-total=6,bps-total-max=5", "lower than" },
        { "bps-total=1,bps-total-max-length=5", "without burst rate" },
        { "bps-total=1,bps-total-max=5,bps-total-max-length=0", "cannot be 0" },
        { "bps-total=8E", "within" },
        { "bps-total=x", "bps-total" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(json_object) options = options_parse(wrong[i].text, NULL, NULL);
        ThrottleConfig config;
        GError *error = NULL;

        throttle_config_init(&config);
        ck_assert(!throttle_config_take(&config, options, &error) ||
                  !throttle_config_check(&config, &error));
        assert_error(&error, wrong[i].error);
    }
}
END_TEST

/* Nodes and users. */

static Object *make_group(TestRoot *t, const char *text, GError **error)
{
    g_autoptr(json_object) options = options_parse(text, "qom-type", NULL);

    return object_create_user(t->root, options, error);
}

typedef struct Sender {
    BlockUser *user;
    unsigned left;
    unsigned *order, *sent;                /* who was let through, one after the other */
    unsigned me;
    unsigned *running;
    bool *done;
} Sender;

static void co_fn send_all(void *opaque)
{
    Sender *s = opaque;
    char byte[512] = { 0 };
    struct iovec iov = { byte, sizeof(byte) };

    while (s->left) {
        s->left--;
        block_co_read(s->user, 0, &iov, 1, sizeof(byte));
        if (s->order)
            s->order[(*s->sent)++] = s->me;
    }
    if (!--*s->running)
        *s->done = true;
}

static BlockUser *throttled_user(TestRoot *t, const char *name, const char *group)
{
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, "driver=throttle,node-name=%s,throttle-group=%s,"
                                "file.driver=null-co,file.size=1M", name, group);

    assert_no_error(error);
    return block_user_new(node, name, BLOCK_PERM_READ, BLOCK_PERM_ALL, NULL);
}

/* Five requests of one disk wait while the other has one: they take turns all the same. */
START_TEST(members_take_turns)
{
    TestRoot t = test_root();
    unsigned order[200], sent = 0, running = 6, of_b = 0;
    Sender senders[6];
    bool done = false;
    BlockUser *a, *b;

    ck_assert_ptr_nonnull(make_group(&t, "throttle-group,id=g,limits.iops-total=500", NULL));
    a = throttled_user(&t, "a", "g");
    b = throttled_user(&t, "b", "g");
    for (unsigned i = 0; i < 6; i++)
        senders[i] = (Sender){ i == 5 ? b : a, 20, order, &sent, i == 5, &running, &done };
    for (unsigned i = 0; i < 6; i++)
        co_start(send_all, &senders[i]);
    loop_wait(&done);
    /* The first fifty or so are not held back.  After them, b has half until it is through. */
    for (unsigned i = 0; i < 100; i++)
        of_b += order[i];
    ck_assert_uint_eq(of_b, 20);
    block_user_free(a);
    block_user_free(b);
    test_root_free(&t);
}
END_TEST

static void send_some(BlockUser *user, unsigned n)
{
    unsigned running = 1;
    bool done = false;
    Sender sender = { user, n, NULL, NULL, 0, &running, &done };

    co_start(send_all, &sender);
    loop_wait(&done);
}

START_TEST(requests_take_as_long_as_they_must)
{
    TestRoot t = test_root();
    int64_t began;
    BlockUser *user;

    ck_assert_ptr_nonnull(make_group(&t, "throttle-group,id=g,x-iops-read=1000", NULL));
    user = throttled_user(&t, "a", "g");
    began = loop_clock_ns();
    send_some(user, 200);                  /* 100 at once, 100 in 100 ms */
    ck_assert_int_ge(loop_clock_ns() - began, 90 * 1000000);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* At a byte a second these would take hours. */
START_TEST(draining_lets_all_go)
{
    TestRoot t = test_root();
    unsigned running = 5;
    bool done = false;
    Sender senders[5];
    BlockUser *user;

    ck_assert_ptr_nonnull(make_group(&t, "throttle-group,id=g,limits.bps-total=1", NULL));
    user = throttled_user(&t, "a", "g");
    for (unsigned i = 0; i < 5; i++) {
        senders[i] = (Sender){ user, 1, NULL, NULL, 0, &running, &done };
        co_start(send_all, &senders[i]);
    }
    ck_assert(!done);
    block_user_drain(user);
    ck_assert(done);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(a_users_limits_change_while_requests_wait)
{
    TestRoot t = test_root();
    ThrottleConfig config;
    GError *error = NULL;
    g_autoptr(json_object) list = NULL;
    unsigned running = 5;
    bool done = false;
    Sender senders[5];
    BlockNode *node = test_open(t.graph, &error, "driver=null-co,node-name=n,size=1M");
    BlockUser *user = block_user_new(node, "u", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);

    throttle_config_init(&config);
    config.of[THROTTLE_BPS_TOTAL].average = 1;
    ck_assert(block_user_set_throttle(user, "disk0", &config, &error));
    block_user_set_device(user, t.root);
    list = block_query_block(t.graph);
    ck_assert_ptr_nonnull(strstr(json_object_to_json_string_ext(list, JSON_C_TO_STRING_PLAIN),
                                 "\"group\":\"disk0\""));
    for (unsigned i = 0; i < 5; i++) {
        senders[i] = (Sender){ user, 1, NULL, NULL, 0, &running, &done };
        co_start(send_all, &senders[i]);
    }
    ck_assert(!done);
    config.of[THROTTLE_BPS_TOTAL].average = 1 << 30;
    ck_assert(block_user_set_throttle(user, "disk0", &config, &error));
    loop_wait(&done);
    config.of[THROTTLE_BPS_TOTAL].average = 0;
    ck_assert(block_user_set_throttle(user, "disk0", &config, &error));
    block_user_set_device(user, NULL);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(histograms_count_by_time)
{
    static const uint64_t boundaries[] = { 1, 3600000000000ull };
    TestRoot t = test_root();
    GError *error = NULL;
    BlockNode *node = test_open(t.graph, &error, "driver=null-co,node-name=n,size=1M");
    BlockUser *user = block_user_new(node, "u", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);
    g_autoptr(json_object) list = NULL, later = NULL;

    ck_assert(!block_user_set_histogram(user, BLOCK_ACCT_READ, (uint64_t[]){ 5, 5 }, 2, &error));
    assert_error(&error, "ascend");
    ck_assert(block_user_set_histogram(user, BLOCK_ACCT_READ, boundaries, 2, &error));
    send_some(user, 7);
    block_user_set_device(user, t.root);
    list = block_query_blockstats(t.graph, false);
    ck_assert_ptr_nonnull(strstr(json_object_to_json_string_ext(list, JSON_C_TO_STRING_PLAIN),
                                 "\"rd_latency_histogram\":{\"boundaries\":[1,3600000000000],"
                                 "\"bins\":[0,7,0]}"));
    ck_assert(block_user_set_histogram(user, BLOCK_ACCT_READ, NULL, 0, &error));
    later = block_query_blockstats(t.graph, false);
    ck_assert_ptr_null(strstr(json_object_to_json_string(later), "histogram"));
    block_user_set_device(user, NULL);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(groups_are_needed_and_checked)
{
    TestRoot t = test_root();
    GError *error = NULL;

    ck_assert_ptr_null(test_open(t.graph, &error, "driver=throttle,node-name=n,throttle-group=x,"
                                 "file.driver=null-co"));
    assert_error(&error, "'x' does not exist");
    ck_assert_ptr_null(test_open(t.graph, &error, "driver=throttle,node-name=n,file.driver=null-co"));
    assert_error(&error, "specify a throttle group");
    ck_assert_ptr_null(make_group(&t, "throttle-group,id=g,x-bps-total=1,x-bps-read=2", &error));
    assert_error(&error, "at the same time");
    ck_assert_ptr_null(make_group(&t, "throttle-group,id=g,limits.bps-totl=1", &error));
    assert_error(&error, "bps-totl");
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, the_average_is_kept);
    tcase_add_test(tc, a_burst_lasts_as_long_as_it_may);
    tcase_add_test(tc, large_requests_count_as_several);
    tcase_add_test(tc, wrong_limits_are_refused);
    tcase_add_test(tc, members_take_turns);
    tcase_add_test(tc, requests_take_as_long_as_they_must);
    tcase_add_test(tc, draining_lets_all_go);
    tcase_add_test(tc, a_users_limits_change_while_requests_wait);
    tcase_add_test(tc, histograms_count_by_time);
    tcase_add_test(tc, groups_are_needed_and_checked);
}

int main(void)
{
    return run_tests("throttle", add_tests);
}
