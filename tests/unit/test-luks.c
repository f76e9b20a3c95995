/*
 * The luks driver: images that QEMU makes are read, images that vireo makes are read by QEMU, and whatever
 * is wrong with a header or passphrase is said.
 */
#include "tests/unit/block-util.h"
#include "block/image.h"

#define PASSPHRASE "open sesame"
#define QEMU_SECRET "--object secret,id=key,data='" PASSPHRASE "'"

static TestRoot root_with_secret(const char *data)
{
    TestRoot t = test_root();

    test_secret(&t, "key", data);
    return t;
}

G_GNUC_PRINTF(1, 2)
static bool shell(const char *format, ...)
{
    g_autofree char *command = NULL;
    va_list args;

    va_start(args, format);
    command = g_strdup_vprintf(format, args);
    va_end(args);
    return system(command) == 0;
}

static bool have_qemu(void)
{
    return shell("command -v qemu-img qemu-io >/dev/null");
}

/* QEMU reads @bytes of @value at @offset. */
static bool qemu_reads(const char *path, unsigned value, unsigned offset, unsigned bytes)
{
    return shell("out=$(qemu-io " QEMU_SECRET " --image-opts driver=luks,key-secret=key,"
                 "file.filename=%s -c 'read -P %#x %u %u') && ! echo \"$out\" | grep -qi fail", path,
                 value, offset, bytes);
}

static BlockNode *open_luks(TestRoot *t, const char *path, GError **error)
{
    return test_open(t->graph, error, "driver=luks,node-name=disk,key-secret=key,file.driver=file,"
                                      "file.filename=%s", path);
}

static BlockUser *use(BlockNode *node)
{
    GError *error = NULL;
    BlockUser *user = block_user_new(node, "test", BLOCK_PERM_READ | BLOCK_PERM_WRITE,
                                     BLOCK_PERM_ALL, &error);

    assert_no_error(error);
    return user;
}

static void make(TestRoot *t, const char *path, const char *more)
{
    g_autofree char *text = g_strdup_printf("size=1M,key-secret=key,iter-time=10%s", more);
    g_autoptr(json_object) options = options_parse(text, NULL, NULL);
    GError *error = NULL;

    block_image_create(t->graph, "luks", path, options, &error);
    assert_no_error(error);
}

START_TEST(qemu_reads_ours)
{
    TestRoot t = root_with_secret(PASSPHRASE);
    g_autofree char *path = g_strdup_printf("%s/ours.luks", test_dir());
    g_autofree char *buffer = g_malloc(65536);
    GError *error = NULL;
    BlockNode *node;
    BlockUser *user;

    make(&t, path, "");
    node = open_luks(&t, path, &error);
    assert_no_error(error);
    ck_assert_int_eq(block_node_size(node), 1 << 20);
    user = use(node);
    memset(buffer, 0xab, 65536);
    ck_assert_int_eq(test_request(user, OP_WRITE, 4096, buffer, 65536, 0), 0);
    memset(buffer, 0xcd, 512);             /* a single sector, by worker and inline alike */
    ck_assert_int_eq(test_request(user, OP_WRITE, 512 * 21, buffer, 512, 0), 0);
    block_user_free(user);
    test_root_free(&t);
    if (!have_qemu())
        return;
    ck_assert(qemu_reads(path, 0xab, 4096, 4096));
    ck_assert(qemu_reads(path, 0xcd, 10752, 512));
    ck_assert(qemu_reads(path, 0xab, 11264, 58368));
    ck_assert(!qemu_reads(path, 0xab, 10752, 512));
}
END_TEST

static const struct {
    const char *options;
    bool in_qemu;                          /* QEMU 7.2 aborts on slots that do not fill their last sector */
} kinds[] = {
    { "", true },
    { ",cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1", true },
    { ",cipher-alg=aes-192,cipher-mode=cbc,ivgen-alg=plain,hash-alg=sha512", false },
    { ",cipher-alg=serpent-256", true },
    { ",cipher-alg=twofish-256,ivgen-alg=plain64", true },
};

START_TEST(all_kinds_agree_with_qemu)
{
    TestRoot t = root_with_secret(PASSPHRASE);
    g_autofree char *path = g_strdup_printf("%s/kind.luks", test_dir());
    g_autofree char *buffer = g_malloc(65536);
    GError *error = NULL;
    BlockNode *node;
    BlockUser *user;

    if (have_qemu() && kinds[_i].in_qemu) {
        ck_assert(shell("qemu-img create -q " QEMU_SECRET " -f luks -o key-secret=key,iter-time=10%s %s 1M && "
                        "qemu-io " QEMU_SECRET " --image-opts driver=luks,key-secret=key,file.filename=%s "
                        "-c 'write -P 0x5a 512 65536' >/dev/null", kinds[_i].options, path, path));
        node = open_luks(&t, path, &error);
        assert_no_error(error);
        user = use(node);
        ck_assert_int_eq(test_request(user, OP_READ, 512, buffer, 65536, 0), 0);
        ck_assert(all_bytes(buffer, 65536, 0x5a));
        block_user_free(user);
        ck_assert(block_node_delete(t.graph, "disk", NULL));
        unlink(path);
    }
    make(&t, path, kinds[_i].options);
    node = open_luks(&t, path, &error);
    assert_no_error(error);
    user = use(node);
    memset(buffer, 0x77, 65536);
    ck_assert_int_eq(test_request(user, OP_WRITE, 512, buffer, 65536, 0), 0);
    ck_assert_int_eq(test_request(user, OP_READ, 1024, buffer, 4096, 0), 0);
    ck_assert(all_bytes(buffer, 4096, 0x77));
    block_user_free(user);
    test_root_free(&t);
    if (have_qemu() && kinds[_i].in_qemu)
        ck_assert(qemu_reads(path, 0x77, 512, 65536));
}
END_TEST

START_TEST(ciphertext_is_on_disk)
{
    TestRoot t = root_with_secret(PASSPHRASE);
    g_autofree char *path = g_strdup_printf("%s/cipher.luks", test_dir()), *data = NULL;
    g_autofree char *buffer = g_malloc(4096);
    GError *error = NULL;
    BlockUser *user;
    gsize length;

    make(&t, path, "");
    user = use(open_luks(&t, path, &error));
    memset(buffer, 'V', 4096);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, buffer, 4096, 0), 0);
    block_user_free(user);
    test_root_free(&t);
    ck_assert(g_file_get_contents(path, &data, &length, NULL));
    ck_assert_ptr_null(memmem(data, length, "VVVVVVVV", 8));
}
END_TEST

START_TEST(wrong_passphrases_are_refused)
{
    TestRoot t = root_with_secret("another one"), right = root_with_secret(PASSPHRASE);
    g_autofree char *path = g_strdup_printf("%s/wrong.luks", test_dir());
    GError *error = NULL;

    make(&right, path, "");
    test_root_free(&right);
    ck_assert_ptr_null(open_luks(&t, path, &error));
    assert_error(&error, "Invalid password");
    ck_assert_ptr_null(test_open(t.graph, &error, "driver=luks,node-name=disk,file.driver=file,"
                                 "file.filename=%s", path));
    assert_error(&error, "'key-secret' is required");
    ck_assert_ptr_null(test_open(t.graph, &error, "driver=luks,node-name=disk,key-secret=nobody,"
                                 "file.driver=file,file.filename=%s", path));
    assert_error(&error, "No secret with id 'nobody'");
    test_root_free(&t);
}
END_TEST

/* The same header in a qcow2 image: ours in QEMU, and QEMU's here. */
START_TEST(qcow2_images_agree_with_qemu)
{
    static const char image[] = "driver=qcow2,encrypt.format=luks,encrypt.key-secret=key";
    TestRoot t = root_with_secret(PASSPHRASE);
    g_autofree char *path = g_strdup_printf("%s/ours.qcow2", test_dir()), *data = NULL;
    g_autofree char *buffer = g_malloc(200000);
    g_autoptr(json_object) options = options_parse("size=4M,encrypt.format=luks,encrypt.iter-time=10,"
                                                   "encrypt.key-secret=key", NULL, NULL);
    GError *error = NULL;
    BlockUser *user;
    gsize length;

    block_image_create(t.graph, "qcow2", path, options, &error);
    assert_no_error(error);
    for (int theirs = 0; theirs < 1 + have_qemu(); theirs++) {
        if (theirs)
            ck_assert(shell("qemu-img create -q " QEMU_SECRET " -f qcow2 -o encrypt.format=luks,"
                            "encrypt.key-secret=key,encrypt.iter-time=10 %s 4M && qemu-io "
                            QEMU_SECRET " --image-opts %s,file.filename=%s "
                            "-c 'write -P 0x31 1000000 65536' >/dev/null", path, image, path));
        user = use(test_open(t.graph, &error, "%s,node-name=disk,file.driver=file,file.filename=%s",
                             image, path));
        if (theirs) {
            ck_assert_int_eq(test_request(user, OP_READ, 1000000, buffer, 65536, 0), 0);
            ck_assert(all_bytes(buffer, 65536, 0x31));
        }
        memset(buffer, 'V', 200000);
        ck_assert_int_eq(test_request(user, OP_WRITE, 12345, buffer, 200000, 0), 0);
        ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
        block_user_free(user);
        ck_assert(block_node_delete(t.graph, "disk", NULL));
        ck_assert(g_file_get_contents(path, &data, &length, NULL));
        ck_assert_ptr_null(memmem(data, length, "VVVVVVVV", 8));
        g_clear_pointer(&data, g_free);
        if (have_qemu())
            ck_assert(shell("out=$(qemu-io " QEMU_SECRET " --image-opts %s,file.filename=%s "
                            "-c 'read -P 0x56 12345 200000' -c 'read -P 0 0 12345') && "
                            "! echo \"$out\" | grep -qi fail && qemu-img check -q " QEMU_SECRET
                            " --image-opts %s,file.filename=%s", image, path, image, path));
        unlink(path);
    }
    test_root_free(&t);
}
END_TEST

/* Every byte of the header in turn: opened or refused, never more. */
START_TEST(damaged_headers_are_refused)
{
    TestRoot t = root_with_secret(PASSPHRASE);
    g_autofree char *path = g_strdup_printf("%s/damaged.luks", test_dir());
    unsigned refused = 0;
    int fd;

    make(&t, path, "");
    fd = open(path, O_RDWR | O_CLOEXEC);
    for (unsigned i = 0; i < 592; i++) {
        g_autoptr(GError) error = NULL;
        uint8_t was, is;

        ck_assert_int_eq(pread(fd, &was, 1, i), 1);
        is = was ^ 0xff;
        ck_assert_int_eq(pwrite(fd, &is, 1, i), 1);
        if (test_open(t.graph, &error, "driver=luks,node-name=disk,x-header-only=on,read-only=on,"
                      "file.driver=file,file.filename=%s", path))
            ck_assert(block_node_delete(t.graph, "disk", NULL));
        else if (error)
            refused++;
        ck_assert_int_eq(pwrite(fd, &was, 1, i), 1);
    }
    ck_assert_uint_gt(refused, 50);
    ck_assert_int_eq(ftruncate(fd, 300), 0);
    close(fd);
    ck_assert_ptr_null(open_luks(&t, path, NULL));
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, qemu_reads_ours);
    tcase_add_loop_test(tc, all_kinds_agree_with_qemu, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, ciphertext_is_on_disk);
    tcase_add_test(tc, wrong_passphrases_are_refused);
    tcase_add_test(tc, qcow2_images_agree_with_qemu);
    tcase_add_test(tc, damaged_headers_are_refused);
}

int main(void)
{
    test_quick_clock();
    return run_block_tests("luks", add_tests);
}
