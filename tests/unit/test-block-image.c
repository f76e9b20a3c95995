/* Whole images: creating files and formats in them, options by their words, verbs that are not there. */
#include "block-util.h"
#include "block/chain.h"
#include "block/image.h"

/* A format whose creation fails when it is told to. */

static const BlockCreateOption odd_options[] = {
    { "size", BLOCK_CREATE_SIZE, NULL, "size" },
    { "cluster_size", BLOCK_CREATE_SIZE, "65536", "clusters" },
    { "compat", BLOCK_CREATE_STRING, NULL, "version", false, "version" },
    { "encrypt.key-secret", BLOCK_CREATE_STRING, NULL, "secret" },
    { "fail", BLOCK_CREATE_BOOL, "off", "fails" },
    { "backing_file", BLOCK_CREATE_STRING, NULL, "base" },
    { "backing_fmt", BLOCK_CREATE_STRING, NULL, "its format" },
    { NULL }
};
static char *created_with;

static int co_fn odd_co_create(BlockGraph *graph, json_object *options, GError **error)
{
    bool fails = false;

    g_free(created_with);
    created_with = g_strdup(json_object_to_json_string_ext(options, JSON_C_TO_STRING_PLAIN));
    options_get_bool(options, "fail", &fails, NULL);
    if (fails)
        fail(error, ERR_GENERIC, "as asked");
    return fails ? -EIO : 0;
}

static const BlockImageVerbs odd_verbs = { .create_options = odd_options,
                                           .co_create = odd_co_create };
static bool odd_open(BlockNode *node, json_object *options, GError **error)
{
    return block_node_open_child(node, options, "file", true, error) != NULL;
}
static const BlockDriver odd_driver = { .name = "odd", .help = "", .open = odd_open,
                                        .image = &odd_verbs };
BLOCK_DRIVER(odd_driver)

static bool create(TestRoot *t, const char *format, const char *path, const char *words,
                   GError **error)
{
    g_autoptr(json_object) options = options_parse(words, NULL, NULL);

    return block_image_create(t->graph, format, path, options, error);
}

static struct stat stat_of(const char *path)
{
    struct stat st = { 0 };

    stat(path, &st);
    return st;
}

START_TEST(raw_images_have_the_size_and_the_space)
{
    TestRoot t = test_root();
    g_autofree char *path = g_build_filename(test_dir(), "raw", NULL);
    GError *error = NULL;

    ck_assert(create(&t, "raw", path, "size=1000", &error));
    assert_no_error(error);
    ck_assert_int_eq(stat_of(path).st_size, 1024);
    ck_assert(create(&t, "raw", path, "size=1M,preallocation=full", &error));
    ck_assert_int_ge(stat_of(path).st_blocks, 2048);
    ck_assert(create(&t, "raw", path, "size=1M,preallocation=falloc", &error));
    ck_assert_int_ge(stat_of(path).st_blocks, 2048);
    ck_assert(create(&t, "raw", path, "size=1M,nocow=on,extent_size_hint=0", &error));
    ck_assert_int_lt(stat_of(path).st_blocks, 2048);
    assert_no_error(error);
    ck_assert(!create(&t, "raw", path, "size=1M,preallocation=metadata", &error));
    assert_error(&error, "Unsupported preallocation mode: metadata");
    ck_assert(!create(&t, "raw", path, "size=1M,preallocatoin=off", &error));
    assert_error(&error, "did you mean 'preallocation'");
    ck_assert(!create(&t, "raw", path, "nocow=on", &error));
    assert_error(&error, "needs a size");
    ck_assert(!create(&t, "raw", "/nonexistent/x", "size=1M", &error));
    assert_error(&error, "/nonexistent/x");
    ck_assert(!create(&t, "qcow9", path, "size=1M", &error));
    assert_error(&error, "Unknown driver 'qcow9'");
    test_root_free(&t);
}
END_TEST

START_TEST(an_image_in_use_is_left_alone)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("used", 4096);
    GError *error = NULL;
    BlockNode *node = test_open(t.graph, &error, "driver=file,node-name=n,filename=%s", path);
    BlockUser *user = block_user_new(node, "user", BLOCK_PERM_READ, BLOCK_PERM_READ, &error);

    ck_assert_ptr_nonnull(user);
    ck_assert(!create(&t, "raw", path, "size=1M", &error));
    assert_error(&error, "lock");
    ck_assert_int_eq(stat_of(path).st_size, 4096);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(a_format_gets_its_options_as_members)
{
    TestRoot t = test_root();
    g_autofree char *path = g_build_filename(test_dir(), "odd", NULL);
    g_autoptr(json_object) given = NULL;
    GError *error = NULL;
    json_object *inner;

    ck_assert(create(&t, "odd", path,
                     "size=1.5M,cluster_size=4k,compat=v3,encrypt.key-secret=s0,nocow=off", &error));
    assert_no_error(error);
    given = json_parse(created_with, strlen(created_with), NULL);
    ck_assert_int_eq(json_object_get_int64(json_object_object_get(given, "size")), 1572864);
    ck_assert_int_eq(json_object_get_int64(json_object_object_get(given, "cluster-size")), 4096);
    ck_assert_str_eq(json_object_get_string(json_object_object_get(given, "version")), "v3");
    inner = json_object_object_get(given, "encrypt");
    ck_assert_str_eq(json_object_get_string(json_object_object_get(inner, "key-secret")), "s0");
    ck_assert(!json_object_object_get_ex(given, "nocow", NULL));
    ck_assert_int_eq(stat_of(path).st_size, 0);
    test_root_free(&t);
}
END_TEST

START_TEST(a_file_goes_when_its_format_fails)
{
    TestRoot t = test_root();
    g_autofree char *path = g_build_filename(test_dir(), "gone", NULL);
    GError *error = NULL;

    ck_assert(!create(&t, "odd", path, "size=1M,fail=on", &error));
    assert_error(&error, "as asked");
    ck_assert_int_ne(access(path, F_OK), 0);
    test_root_free(&t);
}
END_TEST

START_TEST(the_size_may_be_that_of_the_backing_file)
{
    TestRoot t = test_root();
    char *base = test_file("base", 3 * 512);
    g_autofree char *path = g_build_filename(test_dir(), "above", NULL);
    GError *error = NULL;

    ck_assert(create(&t, "odd", path, "backing_file=base,backing_fmt=raw", &error));
    assert_no_error(error);
    ck_assert_ptr_nonnull(strstr(created_with, "\"size\":1536"));
    ck_assert(!create(&t, "odd", path, "backing_file=other,backing_fmt=raw", &error));
    assert_error(&error, "other");
    g_free(base);
    test_root_free(&t);
}
END_TEST

/* blockdev-create, and the verbs, in a coroutine. */

typedef struct Call {
    TestRoot *t;
    const char *text;
    BlockNode *node;
    GError *error;
    int ret;
} Call;

static void co_fn run_create(void *opaque)
{
    Call *c = opaque;
    g_autoptr(json_object) options = options_parse(c->text, NULL, NULL);

    c->ret = block_co_create(c->t->graph, options, &c->error);
}

START_TEST(create_over_qmp_checks_members)
{
    static const struct {
        const char *text, *error;
    } wrong[] = {
        { "{\"driver\": \"file\", \"filename\": \"/nonexistent/x\", \"size\": 512}", "/nonexistent" },
        { "{\"driver\": \"file\", \"size\": 512}", "filename" },
        { "{\"driver\": \"odd\", \"file\": \"x\", \"cluster_size\": 512}", "'cluster_size'" },
        { "{\"driver\": \"odd\", \"file\": \"x\", \"encrypt\": {\"a\": 1}}", "'encrypt.a'" },
        { "{\"driver\": \"odd\", \"file\": \"x\", \"size\": true}", "size" },
        { "{\"driver\": \"null-co\", \"size\": 512}", "does not support image creation" },
        { "{\"size\": 512}", "driver" },
    };
    TestRoot t = test_root();
    Call call = { .t = &t };

    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        call.text = wrong[i].text;
        co_run_sync(run_create, &call);
        ck_assert_int_lt(call.ret, 0);
        assert_error(&call.error, wrong[i].error);
    }
    call.text = "{\"driver\": \"odd\", \"file\": \"x\", \"encrypt\": {\"key-secret\": \"s\"}}";
    co_run_sync(run_create, &call);
    ck_assert_int_eq(call.ret, 0);
    test_root_free(&t);
}
END_TEST

static void co_fn run_verbs(void *opaque)
{
    Call *c = opaque;
    BlockCheck check = { 0 };
    BlockSnapshot snapshot = { 0 };

    ck_assert_int_eq(block_co_check(c->node, &check, 0, &c->error), -ENOTSUP);
    assert_error(&c->error, "'raw' does not support checks");
    ck_assert_int_eq(block_co_snapshot_create(c->node, &snapshot, &c->error), -ENOTSUP);
    assert_error(&c->error, "internal snapshots");
    ck_assert_int_eq(block_co_set_backing(c->node, "x", NULL, &c->error), -ENOTSUP);
    assert_error(&c->error, "'raw' does not support backing files");
    ck_assert_int_eq(block_co_make_empty(c->node, &c->error), -ENOTSUP);
    assert_error(&c->error, "'raw'");
    ck_assert_int_eq(block_co_amend(c->node, NULL, false, &c->error), -ENOTSUP);
    assert_error(&c->error, "amendment");
    ck_assert_int_eq(block_co_preallocate(c->node, 0, 1 << 20, BLOCK_PREALLOC_FALLOC, &c->error), 0);
}

START_TEST(verbs_that_are_not_there_are_refused_by_name)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("verbs", 1 << 20);
    Call call = { .t = &t };
    GPtrArray *snapshots;

    call.node = test_open(t.graph, &call.error,
                          "driver=raw,node-name=n,file.driver=file,file.filename=%s", path);
    assert_no_error(call.error);
    co_run_sync(run_verbs, &call);
    ck_assert_int_ge(stat_of(path).st_blocks, 2048);
    snapshots = block_snapshots(call.node);
    ck_assert_int_eq(snapshots->len, 0);
    g_ptr_array_free(snapshots, TRUE);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, raw_images_have_the_size_and_the_space);
    tcase_add_test(tc, an_image_in_use_is_left_alone);
    tcase_add_test(tc, a_format_gets_its_options_as_members);
    tcase_add_test(tc, a_file_goes_when_its_format_fails);
    tcase_add_test(tc, the_size_may_be_that_of_the_backing_file);
    tcase_add_test(tc, create_over_qmp_checks_members);
    tcase_add_test(tc, verbs_that_are_not_there_are_refused_by_name);
}

int main(void)
{
    return run_block_tests("block-image", add_tests);
}
