/* memory-backend-memfd: memory that other processes can be handed as a descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include "src/base/util.h"
#include "src/memory/backend.h"

#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif

typedef struct MemfdBackend {
    MemoryBackend base;
    bool hugetlb, seal;
    uint64_t hugetlb_size;
} MemfdBackend;

static bool check_huge(const MemfdBackend *b, GError **error)
{
    if (b->hugetlb_size && !b->hugetlb) {
        fail(error, ERR_INVALID_PARAMETER, "hugetlbsize without hugetlb");
        return error_hint(error, "add hugetlb=on");
    }
    if (b->hugetlb_size && !is_power_of_2(b->hugetlb_size))
        return fail(error, ERR_INVALID_PARAMETER, "hugetlbsize %" G_GUINT64_FORMAT
                    " is not a power of 2", b->hugetlb_size);
    if (b->hugetlb_size && b->base.size % b->hugetlb_size)
        return fail(error, ERR_INVALID_PARAMETER, "size %" G_GUINT64_FORMAT
                    " is not a multiple of hugetlbsize %" G_GUINT64_FORMAT, b->base.size,
                    b->hugetlb_size);
    return true;
}

static int open_memfd(const MemfdBackend *b, const char *name, GError **error)
{
    unsigned flags = MFD_CLOEXEC | (b->seal ? MFD_ALLOW_SEALING : 0) |
                     (b->hugetlb ? MFD_HUGETLB : 0);
    int fd;

    if (b->hugetlb_size)
        flags |= (unsigned)__builtin_ctzll(b->hugetlb_size) << MFD_HUGE_SHIFT;
    fd = memfd_create(name, flags);
    if (fd < 0)
        fail_errno(error, errno, "cannot make a memfd of %" G_GUINT64_FORMAT " bytes%s",
                   b->base.size, b->hugetlb ? " in huge pages" : "");
    return fd;
}

static bool size_and_seal(const MemfdBackend *b, int fd, GError **error)
{
    if (ftruncate(fd, b->base.size) < 0)
        return fail_errno(error, errno, "cannot give a memfd %" G_GUINT64_FORMAT " bytes",
                          b->base.size);
    if (b->seal && fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
        return fail_errno(error, errno, "cannot seal a memfd of %" G_GUINT64_FORMAT " bytes",
                          b->base.size);
    return true;
}

static bool memfd_realize(Object *obj, GError **error)
{
    MemfdBackend *b = (MemfdBackend *)obj;
    g_autofree char *name = memory_backend_block_name(&b->base);
    auto_fd fd = -1;

    if (!check_huge(b, error))
        return false;
    fd = open_memfd(b, obj->name, error);
    if (fd < 0 || !size_and_seal(b, fd, error))
        return false;
    b->base.block = ram_block_map(
        &(RamMapping){ .name = name, .size = b->base.size, .fd = steal_fd(&fd),
                       .page_size = b->hugetlb ? (b->hugetlb_size ? b->hugetlb_size : 2 * MiB) : 0,
                       .shared = b->base.share, .noreserve = !b->base.reserve }, error);
    return b->base.block != NULL;
}

static const Property memfd_props[] = {
    PROP("share", MemfdBackend, base.share, .def.b = true,
         .help = "other processes see what the guest writes"),
    PROP("hugetlb", MemfdBackend, hugetlb, .help = "use huge pages"),
    PROP_OF("hugetlbsize", MemfdBackend, hugetlb_size, prop_size,
            .help = "size of the huge pages; 0: the host's default"),
    PROP("seal", MemfdBackend, seal, .def.b = true, .help = "forbid changes of its size"),
    {}
};

static const Type memfd_type = {
    .name = "memory-backend-memfd", .parent = "memory-backend", .help = "memory of a memfd",
    .size = sizeof(MemfdBackend), .user_creatable = true, .props = memfd_props,
    .realize = memfd_realize,
};
TYPE_REGISTER(memfd_type)
