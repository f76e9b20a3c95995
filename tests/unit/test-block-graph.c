/* The graph: names, options, ownership, permissions, reads through raw. */
#include "block-util.h"

START_TEST(read_write_through_raw)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("a.img", 1 << 20);
    GError *error = NULL;
    char out[4096], in[4096];
    BlockNode *node = test_open(t.graph, &error,
                                "driver=raw,node-name=disk,file.driver=file,file.filename=%s", path);
    BlockUser *user;

    assert_no_error(error);
    ck_assert_int_eq(block_node_size(node), 1 << 20);
    ck_assert_str_eq(block_node_filename(node), path);
    user = test_user(node);
    memset(out, 0x5a, sizeof(out));
    ck_assert_int_eq(test_request(user, OP_WRITE, 12345, out, sizeof(out), 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_int_eq(test_request(user, OP_READ, 12345, in, sizeof(in), 0), 0);
    ck_assert_mem_eq(in, out, sizeof(in));
    ck_assert_int_eq(test_request(user, OP_READ, (1 << 20) - 1, in, 2, 0), -EIO);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* Names and options. */

static void refused(BlockGraph *graph, const char *options, const char *part)
{
    GError *error = NULL;

    ck_assert_ptr_null(test_open(graph, &error, "%s", options));
    assert_error(&error, part);
}

START_TEST(options_are_checked)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("o.img", 4096);
    g_autofree char *extra = g_strdup_printf("file,node-name=n,filename=%s,filname=x", path);
    g_autofree char *native = g_strdup_printf("file,node-name=n,filename=%s,aio=native", path);
    g_autofree char *engine = g_strdup_printf("file,node-name=n,filename=%s,aio=fast", path);
    g_autofree char *share = g_strdup_printf("file,node-name=n,filename=%s,force-share=on", path);

    refused(t.graph, "null-co", "'node-name' must be specified");
    refused(t.graph, "node-name=a", "driver");
    refused(t.graph, "nul-co,node-name=a", "Unknown driver 'nul-co'");
    refused(t.graph, "qed,node-name=a,file.driver=null-co", "'qed' is not in this build");
    refused(t.graph, "null-co,node-name=1a", "Invalid node-name");
    refused(t.graph, "null-co,node-name=abcdefghijklmnopqrstuvwxyz0123456789", "Invalid node-name");
    refused(t.graph, "null-co,node-name=a,sise=3", "sise");
    refused(t.graph, "null-co,node-name=a,size=x", "size");
    refused(t.graph, "null-co,node-name=a,cache.writeback=on", "writeback");
    refused(t.graph, "null-co,node-name=a,detect-zeroes=unmap", "needs discard=unmap");
    refused(t.graph, "raw,node-name=a", "must be specified for \"file\"");
    refused(t.graph, "raw,node-name=a,file=nobody", "nobody");
    refused(t.graph, "raw,node-name=a,file.driver=null-co,file.node-name=a", "already");
    refused(t.graph, "file,node-name=a", "file name");
    refused(t.graph, "file,node-name=a,filename=/nonexistent/x", "No such file");
    refused(t.graph, "file,node-name=a,filename=/dev/null", "regular file");
    refused(t.graph, "host_device,node-name=a,filename=/etc/passwd", "block device");
    refused(t.graph, extra, "filname");
    refused(t.graph, native, "cache.direct=on");
    refused(t.graph, engine, "io_uring");
    refused(t.graph, share, "read-only");
    ck_assert_ptr_null(block_node_find(t.graph, "a"));
    ck_assert_ptr_null(block_node_find(t.graph, "n"));
    test_root_free(&t);
}
END_TEST

START_TEST(nodes_are_owned)
{
    TestRoot t = test_root();
    GError *error = NULL;
    BlockUser *user;

    ck_assert_ptr_nonnull(test_open(t.graph, &error, "null-co,node-name=bottom"));
    ck_assert_ptr_nonnull(test_open(t.graph, &error, "raw,node-name=top,file=bottom"));
    refused(t.graph, "null-co,node-name=top", "there is a node 'top' already");
    ck_assert(!block_node_delete(t.graph, "bottom", &error));
    assert_error(&error, "node 'top' (as its 'file')");
    ck_assert(!block_node_delete(t.graph, "nobody", &error));
    assert_error(&error, "nobody");
    user = block_user_new(block_node_find(t.graph, "top"), "the disk", BLOCK_PERM_READ,
                          BLOCK_PERM_ALL, &error);
    ck_assert_ptr_nonnull(user);
    ck_assert(!block_node_delete(t.graph, "top", &error));
    assert_error(&error, "the disk");
    block_user_free(user);
    ck_assert(block_node_delete(t.graph, "top", &error));
    ck_assert_ptr_nonnull(block_node_find(t.graph, "bottom"));
    ck_assert(block_node_delete(t.graph, "bottom", &error));
    ck_assert_ptr_null(block_node_find(t.graph, "bottom"));

    /* An inline child goes with its parent, and is not the monitor's. */
    ck_assert_ptr_nonnull(test_open(t.graph, &error, "raw,node-name=top,file.driver=null-co,"
                                                     "file.node-name=inner"));
    ck_assert(!block_node_delete(t.graph, "inner", &error));
    assert_error(&error, "node 'top'");
    ck_assert(block_node_delete(t.graph, "top", &error));
    ck_assert_ptr_null(block_node_find(t.graph, "inner"));
    test_root_free(&t);
}
END_TEST

START_TEST(deep_graphs_are_refused)
{
    TestRoot t = test_root();
    GError *error = NULL;
    BlockNode *node, *top = NULL;
    BlockUser *user;
    char data[512] = "x";
    int depth = 1;

    ck_assert_ptr_nonnull(test_open(t.graph, &error, "null-co,node-name=n1,read-zeroes=on"));
    while ((node = test_open(t.graph, &error, "raw,node-name=n%d,file=n%d,offset=512,discard=unmap",
                             depth + 1, depth))) {
        top = node;
        depth++;
    }
    assert_error(&error, "on top of each other");
    ck_assert_int_gt(depth, 64);
    /* A request goes all the way down on its coroutine's stack. */
    user = test_user(top);
    ck_assert_int_eq(test_request(user, OP_READ, 0, data, sizeof(data), 0), 0);
    ck_assert_int_eq(data[0], 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, sizeof(data), BLOCK_FUA), 0);
    ck_assert_int_eq(test_request(user, OP_ZERO, 0, NULL, sizeof(data), 0), 0);
    ck_assert_int_eq(test_request(user, OP_DISCARD, 0, NULL, sizeof(data), 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* Permissions. */

START_TEST(conflicts_name_both_sides)
{
    TestRoot t = test_root();
    GError *error = NULL;
    BlockNode *bottom = test_open(t.graph, &error, "null-co,node-name=bottom");
    BlockNode *top = test_open(t.graph, &error, "raw,node-name=top,file=bottom");
    BlockNode *other = test_open(t.graph, &error, "raw,node-name=other,file=bottom");
    BlockUser *disk, *job;

    disk = block_user_new(top, "disk A", BLOCK_PERM_READ | BLOCK_PERM_WRITE,
                          BLOCK_PERM_READ | BLOCK_PERM_WRITE_SAME, &error);
    assert_no_error(error);
    ck_assert_ptr_null(block_user_new(top, "disk B", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error));
    assert_error(&error, "disk B needs 'write' on node 'top', which disk A does not allow");
    ck_assert_ptr_null(block_user_new(top, "disk B", BLOCK_PERM_READ, BLOCK_PERM_READ, &error));
    assert_error(&error, "disk B does not allow 'write' on node 'top', which disk A needs");
    /* Through another node above the same child. */
    ck_assert_ptr_null(block_user_new(other, "disk C", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error));
    assert_error(&error, "node 'bottom'");
    job = block_user_new(other, "reader", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);
    assert_no_error(error);
    block_user_free(disk);
    disk = block_user_new(bottom, "disk D", BLOCK_PERM_WRITE, BLOCK_PERM_READ, &error);
    assert_no_error(error);
    block_user_free(job);
    block_user_free(disk);
    test_root_free(&t);
}
END_TEST

START_TEST(read_only_nodes_are_not_written)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("ro.img", 4096);
    GError *error = NULL;
    char data[512] = "";
    BlockNode *node = test_open(t.graph, &error, "raw,node-name=ro,read-only=on,file.driver=file,"
                                "file.filename=%s", path);
    BlockUser *user;

    assert_no_error(error);
    ck_assert(block_node_read_only(node));
    ck_assert_ptr_null(block_user_new(node, "writer", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error));
    assert_error(&error, "'ro' is read-only");
    user = block_user_new(node, "reader", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);
    assert_no_error(error);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, 512, 0), -EPERM);
    ck_assert_int_eq(test_request(user, OP_ZERO, 0, NULL, 512, 0), -EPERM);
    ck_assert_int_eq(test_request(user, OP_READ, 0, data, 512, 0), 0);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

static void count_call(void *calls)
{
    ++*(int *)calls;
}

START_TEST(resize_reaches_those_above)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("grow.img", 8192);
    GError *error = NULL;
    BlockNode *file = test_open(t.graph, &error, "file,node-name=f,filename=%s", path);
    BlockNode *raw = test_open(t.graph, &error, "raw,node-name=r,file=f");
    BlockUser *user = block_user_new(raw, "disk", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);
    char data[512];
    int calls = 0;

    assert_no_error(error);
    block_user_on_resize(user, count_call, &calls);
    ck_assert(block_node_resize(file, 16384, &error));
    ck_assert_int_eq(block_node_size(raw), 16384);
    ck_assert_int_eq(calls, 1);
    ck_assert_int_eq(test_request(user, OP_READ, 16384 - 512, data, 512, 0), 0);
    ck_assert(block_node_resize(raw, 4096, &error));
    ck_assert_int_eq(block_node_size(file), 4096);
    ck_assert_int_eq(test_request(user, OP_READ, 4096, data, 512, 0), -EIO);
    ck_assert(!block_node_resize(raw, UINT64_MAX, &error));
    assert_error(&error, "too large");
    block_user_free(user);
    user = block_user_new(raw, "fixed disk", BLOCK_PERM_READ, BLOCK_PERM_READ, &error);
    ck_assert(!block_node_resize(raw, 8192, &error));
    assert_error(&error, "fixed disk does not allow");
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* QMP's view. */

static json_object *member(json_object *obj, const char *path)
{
    g_auto(GStrv) keys = g_strsplit(path, ".", -1);

    for (char **key = keys; *key; key++) {
        json_object *next;

        if (json_object_is_type(obj, json_type_array))
            next = json_object_array_get_idx(obj, atoi(*key));
        else if (!json_object_object_get_ex(obj, *key, &next))
            next = NULL;
        ck_assert_msg(next != NULL, "no member '%s' of '%s'", *key, path);
        obj = next;
    }
    return obj;
}

#define member_str(obj, path) json_object_get_string(member(obj, path))
#define member_int(obj, path) json_object_get_int64(member(obj, path))

START_TEST(queries_have_what_libvirt_reads)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("q.img", 1 << 20);
    GError *error = NULL;
    char data[4096] = "x";
    BlockNode *node = test_open(t.graph, &error, "raw,node-name=fmt,cache.direct=off,"
                                "file.driver=file,file.node-name=storage,file.filename=%s", path);
    BlockUser *user = block_user_new(node, "disk", BLOCK_PERM_READ | BLOCK_PERM_WRITE,
                                     BLOCK_PERM_ALL, &error);
    Object *device = object_new_by_name("container", NULL);
    json_object *list;

    assert_no_error(error);
    ck_assert(object_add_child(object_container(object_container(t.root, "machine"), "peripheral"),
                               "disk0", device, NULL));
    block_user_set_device(user, device);
    ck_assert_int_eq(test_request(user, OP_WRITE, 8192, data, 4096, 0), 0);
    ck_assert_int_eq(test_request(user, OP_READ, 0, data, 4096, 0), 0);

    list = block_query_block(t.graph);
    ck_assert_str_eq(member_str(list, "0.qdev"), "disk0");
    ck_assert_str_eq(member_str(list, "0.io-status"), "ok");
    ck_assert_str_eq(member_str(list, "0.inserted.node-name"), "fmt");
    ck_assert_str_eq(member_str(list, "0.inserted.file"), path);
    ck_assert_int_eq(member_int(list, "0.inserted.image.virtual-size"), 1 << 20);
    ck_assert_int_eq(member_int(list, "0.inserted.bps_rd"), 0);
    ck_assert_str_eq(member_str(list, "0.inserted.cache.writeback"), "true");
    json_object_put(list);

    list = block_query_blockstats(t.graph, false);
    ck_assert_int_eq(member_int(list, "0.stats.wr_bytes"), 4096);
    ck_assert_int_eq(member_int(list, "0.stats.rd_operations"), 1);
    ck_assert_int_eq(member_int(list, "0.stats.wr_highest_offset"), 12288);
    ck_assert_int_eq(member_int(list, "0.parent.stats.wr_highest_offset"), 12288);
    ck_assert_str_eq(member_str(list, "0.parent.node-name"), "storage");
    ck_assert_str_eq(member_str(list, "0.parent.driver-specific.driver"), "file");
    json_object_put(list);

    list = block_query_named_nodes(t.graph);
    ck_assert_str_eq(member_str(list, "0.node-name"), "fmt");
    ck_assert_str_eq(member_str(list, "1.node-name"), "storage");
    ck_assert_ptr_nonnull(member(list, "1.aio"));
    json_object_put(list);

    block_user_set_device(user, NULL);
    block_user_free(user);
    object_unref(device);
    test_root_free(&t);
}
END_TEST

/* -drive. */

static void drive_refused(BlockGraph *graph, const char *options, const char *part)
{
    GError *error = NULL;

    ck_assert_ptr_null(test_drive(graph, NULL, &error, options));
    assert_error(&error, part);
}

START_TEST(drives)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("d.img", 4096);
    g_autofree char *good = g_strdup_printf("%s,if=none,id=d0,format=raw,cache=writethrough,"
                                            "serial=S1,werror=stop,rerror=ignore,aio=threads",
                                            path);
    g_autofree char *plain = g_strdup_printf("file=%s,format=raw,cache=unsafe", path);
    g_autofree char *again = g_strdup_printf("%s,id=d0,format=raw", path);
    g_autofree char *guess = g_strdup_printf("%s,if=virtio", path);
    GError *error = NULL;
    const char *iface = "?";
    BlockNode *node = test_drive(t.graph, &iface, &error, good);
    BlockUser *user;
    uint8_t data[512] = "QFI\xfb";

    assert_no_error(error);
    ck_assert_str_eq(iface, "none");
    ck_assert_ptr_eq(block_drive_find(t.graph, "d0"), node);
    ck_assert(!block_node_write_cache(node));
    ck_assert_str_eq(block_node_drive(node)->serial, "S1");
    user = block_user_new(node, "disk", BLOCK_PERM_READ | BLOCK_PERM_WRITE, BLOCK_PERM_READ,
                          &error);
    assert_no_error(error);
    ck_assert_int_eq(block_user_error_action(user, true, EIO), BLOCK_ERROR_IGNORE);
    ck_assert_int_eq(block_user_error_action(user, false, EIO), BLOCK_ERROR_STOP);
    ck_assert(!block_user_set_on_error(user, BLOCK_ON_ERROR_ENOSPC, -1, &error));
    assert_error(&error, "rerror");
    block_user_free(user);

    ck_assert_ptr_nonnull(test_drive(t.graph, &iface, &error, plain));
    ck_assert_ptr_null(iface);
    ck_assert_ptr_nonnull(block_drive_find(t.graph, "virtio0"));
    drive_refused(t.graph, again, "there is a drive 'd0' already");

    /* A guessed raw image cannot be given another format's signature. */
    node = test_drive(t.graph, &iface, &error, guess);
    assert_no_error(error);
    user = block_user_new(node, "disk", BLOCK_PERM_READ | BLOCK_PERM_WRITE, BLOCK_PERM_READ,
                          &error);
    assert_no_error(error);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, 512, 0), -EPERM);
    ck_assert_int_eq(test_request(user, OP_WRITE, 512, data, 512, 0), 0);
    data[0] = 'q';
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, 512, 0), 0);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(drive_text)
{
    static const struct {
        const char *text, *json;
    } cases[] = {
        { "file=a,,b.img,id=x", "{\"file\":\"a,b.img\",\"id\":\"x\"}" },
        { "id=x,file=a,,file.b,file.locking=off",
          "{\"id\":\"x\",\"file\":{\"filename\":\"a,file.b\",\"locking\":\"off\"}}" },
        { "file.driver=file,file.filename=f",
          "{\"file\":{\"driver\":\"file\",\"filename\":\"f\"}}" },
        { "{\"file\":\"x\"}", "{\"file\":\"x\"}" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        GError *error = NULL;
        json_object *options = block_drive_parse(cases[i].text, &error);

        assert_no_error(error);
        ck_assert_str_eq(json_object_to_json_string_ext(options, JSON_C_TO_STRING_PLAIN),
                         cases[i].json);
        json_object_put(options);
    }
}
END_TEST

START_TEST(drives_refused)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("bad.img", 4096);
    g_autofree char *text = NULL;
    static const struct {
        const char *options, *part;
    } cases[] = {
        { "format=raw,cache=sometimes", "writethrough" },
        { "format=raw,if=usb", "virtio" },
        { "format=raw,snapshot=maybe", "snapshot" },
        { "format=raw,copy-on-read=5", "copy-on-read" },
        { "format=raw,throttling.bps-total=3,bps_rd=1", "at the same time" },
        { "format=raw,index=1,unit=1", "index" },
        { "format=raw,index=-3", "index" },
        { "format=raw,driver=raw", "both" },
        { "format=raw,rerror=enospc", "rerror" },
        { "format=raw,aio=native", "cache.direct=on" },
        { "format=raw,bogus=1", "bogus" },
        { "format=qed", "not in this build" },
        { "format=rawr", "Unknown driver" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_free(text);
        text = g_strdup_printf("%s,%s", path, cases[i].options);
        drive_refused(t.graph, text, cases[i].part);
    }
    drive_refused(t.graph, "iscsi:localhost:10809,format=raw", "protocol 'iscsi'");
    drive_refused(t.graph, "file.filename=ssh:x,file.locking=off,format=raw", "protocol 'ssh'");
    drive_refused(t.graph, "file.locking=off,format=raw", "driver");
    drive_refused(t.graph, "if=virtio", "file=");
    drive_refused(t.graph, "json:{\"driver\":\"nfs\"},format=raw", "not in this build");
    drive_refused(t.graph, "/nonexistent,format=raw", "No such file");
    g_free(text);
    ck_assert(g_file_set_contents(path, "QED\0\0\0\0\3", 8, NULL));
    text = g_strdup(path);
    drive_refused(t.graph, text, "has the format qed, which is not in this build");
    block_graph_foreach(t.graph, (void (*)(BlockNode *, void *))abort, NULL);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, read_write_through_raw);
    tcase_add_test(tc, options_are_checked);
    tcase_add_test(tc, nodes_are_owned);
    tcase_add_test(tc, deep_graphs_are_refused);
    tcase_add_test(tc, conflicts_name_both_sides);
    tcase_add_test(tc, read_only_nodes_are_not_written);
    tcase_add_test(tc, resize_reaches_those_above);
    tcase_add_test(tc, queries_have_what_libvirt_reads);
    tcase_add_test(tc, drives);
    tcase_add_test(tc, drive_text);
    tcase_add_test(tc, drives_refused);
}

int main(void)
{
    return run_block_tests("block-graph", add_tests);
}
