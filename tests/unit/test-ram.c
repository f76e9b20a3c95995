/* RAM blocks, dirty bitmaps and memory backends. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "src/base/options.h"
#include "src/base/util.h"
#include "src/memory/ram.h"
#include "tests/test.h"

static Object *root;
static char *dir;

static void setup(void)
{
    root = object_new(type_find("container"));
    dir = g_dir_make_tmp("vireo-ram-XXXXXX", NULL);
}

static void teardown(void)
{
    g_autofree char *command = g_strdup_printf("rm -r '%s'", dir);

    object_unref(root);
    ck_assert_int_eq(system(command), 0);
    g_free(dir);
}

static MemoryBackend *make(GError **error, const char *format, ...)
{
    g_autoptr(json_object) options = NULL;
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    options = options_parse(text, "qom-type", NULL);
    ck_assert_ptr_nonnull(options);
    return (MemoryBackend *)object_create_user(root, options, error);
}

START_TEST(blocks)
{
    RamBlock *block = ram_block_new("rom", 5000, NULL);
    GError *error = NULL;

    ck_assert_uint_eq(ram_block_size(block), 8192);
    ck_assert_str_eq(ram_block_name(block), "rom");
    ck_assert_int_eq(ram_block_fd(block), -1);
    memset(ram_block_host(block), 1, 8192);
    ram_block_unref(ram_block_ref(block));
    ram_block_unref(block);
    ck_assert_ptr_null(ram_block_new("none", 0, &error));
    ck_error(error, "'none': 0 bytes cannot be mapped");
    ck_assert_ptr_null(ram_block_new("huge", 1ull << 60, &error));
    ck_error(error, "'huge'");
}
END_TEST

START_TEST(large_blocks_suit_huge_pages)
{
    RamBlock *block = ram_block_new("ram", 5 * MiB, NULL);

    ck_assert_uint_eq((uintptr_t)ram_block_host(block) % (2 * MiB), 0);
    ram_block_unref(block);
}
END_TEST

/* The page behind a block cannot be reached, and nothing else will be mapped there. */
START_TEST(nothing_lies_behind_a_block)
{
    RamBlock *block = ram_block_new("ram", _i ? 4 * MiB : 64 * KiB, NULL);
    uint8_t *end = (uint8_t *)ram_block_host(block) + ram_block_size(block);
    int fds[2];

    ck_assert_int_eq(pipe(fds), 0);
    ck_assert_int_eq(write(fds[1], end - 1, 1), 1);
    ck_assert_int_eq(write(fds[1], end, 1), -1);
    ck_assert_int_eq(errno, EFAULT);
    ck_assert_ptr_eq(mmap(end, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
                          -1, 0), MAP_FAILED);
    ck_assert_int_eq(errno, EEXIST);
    close(fds[0]);
    close(fds[1]);
    ram_block_unref(block);
}
END_TEST

START_TEST(dirty_bits)
{
    RamBlock *block = ram_block_new("ram", 200 * RAM_PAGE_SIZE, NULL);
    unsigned long bits[4] = { 0 };

    ram_dirty_set(block, 0, RAM_PAGE_SIZE);            /* nobody listens */
    ck_assert(!ram_dirty_enabled(block));
    ram_dirty_enable(block, DIRTY_MIGRATION, true);
    ck_assert_uint_eq(ram_dirty_take(block, DIRTY_MIGRATION, 0, ram_block_size(block), bits), 0);
    ram_dirty_set(block, 3 * RAM_PAGE_SIZE - 1, 2);    /* pages 2 and 3 */
    ram_dirty_set(block, 60 * RAM_PAGE_SIZE, 70 * RAM_PAGE_SIZE);
    ram_dirty_set(block, 199 * RAM_PAGE_SIZE, UINT64_MAX);
    ram_dirty_set(block, UINT64_MAX, 1);               /* outside: ignored */
    ck_assert_uint_eq(ram_dirty_take(block, DIRTY_VGA, 0, ram_block_size(block), bits), 0);
    ck_assert_uint_eq(ram_dirty_take(block, DIRTY_MIGRATION, 2 * RAM_PAGE_SIZE, RAM_PAGE_SIZE, bits),
                      1);
    ck_assert_uint_eq(bits[0], 1);
    bits[0] = 0;
    ck_assert_uint_eq(ram_dirty_take(block, DIRTY_MIGRATION, 0, ram_block_size(block), bits), 72);
    ck_assert_uint_eq(bits[0], 1ul << 3 | ~0ul << 60);
    ck_assert_uint_eq(bits[1], ~0ul);
    ck_assert_uint_eq(bits[2], 3);
    ck_assert_uint_eq(bits[3], 1ul << 7);
    ram_dirty_enable(block, DIRTY_VGA, true);
    ram_dirty_set(block, 0, 1);
    ram_dirty_enable(block, DIRTY_VGA, true);          /* again: all clean */
    memset(bits, 0, sizeof(bits));
    ck_assert_uint_eq(ram_dirty_take(block, DIRTY_VGA, 0, ram_block_size(block), bits), 0);
    ck_assert_uint_eq(ram_dirty_take(block, DIRTY_MIGRATION, 0, ram_block_size(block), bits), 1);
    ram_block_unref(block);
}
END_TEST

START_TEST(backend_ram)
{
    GError *error = NULL;
    MemoryBackend *m = make(&error, "memory-backend-ram,id=m,size=3M,prealloc=on,"
                            "prealloc-threads=3,share=on,merge=off,dump=off,reserve=off");
    RamBlock *block;

    ck_no_error(error);
    block = memory_backend_block(m);
    ck_assert_uint_eq(ram_block_size(block), 3 * MiB);
    ck_assert_str_eq(ram_block_name(block), "/objects/m");
    for (unsigned i = 0; i < 3 * MiB / 4096; i++) {
        unsigned char resident = 0;

        ck_assert_int_eq(mincore((char *)ram_block_host(block) + i * 4096, 4096, &resident), 0);
        ck_assert_uint_eq(resident & 1, 1);
    }
    ck_assert(memory_backend_claim(m, &error));
    ck_assert(!memory_backend_claim(m, &error));
    ck_error(error, "memory backend 'm' is already in use");
    memory_backend_release(m);
    ck_assert(memory_backend_claim(m, &error));
}
END_TEST

START_TEST(backend_names)
{
    MemoryBackend *m = make(NULL, "memory-backend-ram,id=m,size=1M,"
                            "x-use-canonical-path-for-ramblock-id=off");

    ck_assert_str_eq(ram_block_name(memory_backend_block(m)), "m");
}
END_TEST

START_TEST(backend_memfd_is_shared_and_sealed)
{
    GError *error = NULL;
    MemoryBackend *m = make(&error, "memory-backend-memfd,id=m,size=1M");
    RamBlock *block;
    uint8_t *other;

    ck_no_error(error);
    block = memory_backend_block(m);
    ck_assert_int_eq(fcntl(ram_block_fd(block), F_GET_SEALS),
                     F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
    other = mmap(NULL, 4096, PROT_READ, MAP_SHARED, ram_block_fd(block), 0);
    *(uint8_t *)ram_block_host(block) = 42;
    ck_assert_uint_eq(*other, 42);
    munmap(other, 4096);
}
END_TEST

START_TEST(backend_file_makes_grows_and_checks)
{
    g_autofree char *path = g_strdup_printf("%s/ram", dir);
    GError *error = NULL;
    struct stat st;
    MemoryBackend *m = make(&error, "memory-backend-file,id=m,size=1M,mem-path=%s,share=on", path);

    ck_no_error(error);
    *(uint8_t *)ram_block_host(memory_backend_block(m)) = 42;
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_size, 1 * MiB);
    ck_assert(object_delete_user(root, "m", &error));

    ck_assert_ptr_null(make(&error, "memory-backend-file,id=big,size=2M,mem-path=%s", path));
    ck_error(error, "has 1048576 bytes, but size 2097152 at offset 0 is asked for");
    m = make(&error, "memory-backend-file,id=m,size=512K,offset=512K,mem-path=%s,readonly=on",
             path);
    ck_no_error(error);
    ck_assert(object_delete_user(root, "m", &error));

    m = make(&error, "memory-backend-file,id=m,size=1M,mem-path=%s,share=off", path);
    ck_assert_uint_eq(*(uint8_t *)ram_block_host(memory_backend_block(m)), 42);
}
END_TEST

START_TEST(backend_file_in_a_directory_has_no_name)
{
    g_autoptr(GDir) listing = NULL;
    GError *error = NULL;

    ck_assert_ptr_nonnull(make(&error, "memory-backend-file,id=m,size=1M,mem-path=%s", dir));
    ck_no_error(error);
    listing = g_dir_open(dir, 0, NULL);
    ck_assert_ptr_null(g_dir_read_name(listing));
}
END_TEST

static const struct {
    const char *options, *text;
} refused[] = {
    { "memory-backend-ram,id=m", "object 'm': property 'size' of 'memory-backend-ram' must be" },
    { "memory-backend-ram,id=m,size=8E", "'m'" },
    { "memory-backend-ram,id=m,size=1M,policy=bind", "policy 'bind' needs host-nodes" },
    { "memory-backend-ram,id=m,size=1M,host-nodes=0", "host-nodes without a policy" },
    { "memory-backend-ram,id=m,size=1M,host-nodes=5-2", "'5-2' is not a host node" },
    { "memory-backend-ram,id=m,size=1M,host-nodes=9999", "'9999' is not a host node" },
    { "memory-backend-ram,id=m,size=1M,policy=binf", "'binf' is not one of: default, preferred" },
    { "memory-backend-ram,id=m,size=1M,prealloc-threads=0", "0 is not between 1 and 1024" },
    { "memory-backend-memfd,id=m,size=1M,hugetlbsize=2M", "hugetlbsize without hugetlb" },
    { "memory-backend-memfd,id=m,size=4M,hugetlb=on,hugetlbsize=3M", "is not a power of 2" },
    { "memory-backend-memfd,id=m,size=3M,hugetlb=on,hugetlbsize=2M", "is not a multiple" },
    { "memory-backend-file,id=m,size=1M", "'mem-path' of 'memory-backend-file' must be given" },
    { "memory-backend-file,id=m,size=1M,mem-path=/nowhere/x", "cannot open '/nowhere/x'" },
    { "memory-backend-file,id=m,size=1M,mem-path=/x,pmem=on", "persistent memory is not" },
    { "memory-backend-file,id=m,size=1M,mem-path=/tmp,align=3", "align 3 is not a power of 2" },
    { "memory-backend,id=m,size=1M", "invalid object type 'memory-backend'" },
};

START_TEST(refused_backends)
{
    GError *error = NULL;

    ck_assert_ptr_null(make(&error, "%s", refused[_i].options));
    ck_error(error, refused[_i].text);
    ck_assert_ptr_null(object_resolve(root, "/objects/m"));
}
END_TEST

START_TEST(host_nodes_are_read_back)
{
    g_autoptr(Object) obj = object_new_by_name("memory-backend-ram", NULL);
    g_autoptr(json_object) list = options_parse("host-nodes.0=1,host-nodes.1=4-6", NULL, NULL);
    g_autoptr(json_object) value = NULL;

    ck_assert(object_set_all(obj, list, NULL));
    value = object_get(obj, "host-nodes", NULL);
    ck_assert_str_eq(json_object_to_json_string_ext(value, 0), "[1,4,5,6]");
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, blocks);
    tcase_add_test(tests, large_blocks_suit_huge_pages);
    tcase_add_loop_test(tests, nothing_lies_behind_a_block, 0, 2);
    tcase_add_test(tests, dirty_bits);
    tcase_add_test(tests, backend_ram);
    tcase_add_test(tests, backend_names);
    tcase_add_test(tests, backend_memfd_is_shared_and_sealed);
    tcase_add_test(tests, backend_file_makes_grows_and_checks);
    tcase_add_test(tests, backend_file_in_a_directory_has_no_name);
    tcase_add_loop_test(tests, refused_backends, 0, G_N_ELEMENTS(refused));
    tcase_add_test(tests, host_nodes_are_read_back);
}

int main(void)
{
    return run_tests("ram", add);
}
