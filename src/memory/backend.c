/* What memory backends have in common: size, sharing, host placement, preallocation. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "src/base/options.h"
#include "src/base/util.h"
#include "src/memory/backend.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23             /* Linux 5.14 */
#endif

/* linux/mempolicy.h; glibc has no wrapper */
enum { POLICY_DEFAULT, POLICY_PREFERRED, POLICY_BIND, POLICY_INTERLEAVE };
#define MBIND_STRICT_MOVE 3                /* MPOL_MF_STRICT | MPOL_MF_MOVE */

static const char *const policy_words[] = { "default", "preferred", "bind", "interleave", NULL };

RamBlock *memory_backend_block(MemoryBackend *backend)
{
    return backend->block;
}

bool memory_backend_claim(MemoryBackend *backend, GError **error)
{
    if (backend->claimed)
        return fail(error, ERR_IN_USE, "memory backend '%s' is already in use", backend->obj.name);
    backend->claimed = true;
    return true;
}

void memory_backend_release(MemoryBackend *backend)
{
    backend->claimed = false;
}

/* ---- host nodes ---- */

static bool add_nodes(MemoryBackend *b, const char *text)
{
    char *end;
    uint64_t first = g_ascii_strtoull(text, &end, 10), last = first;

    if (end == text)
        return false;
    if (*end == '-') {
        text = end + 1;
        last = g_ascii_strtoull(text, &end, 10);
        if (end == text)
            return false;
    }
    if (*end || first > last || last >= HOST_NODES_MAX)
        return false;
    for (uint64_t node = first; node <= last; node++)
        b->host_nodes[node / 64] |= 1ull << node % 64;
    return true;
}

/* [0, 1], "0-1", or a list of such strings (host-nodes.0=0 makes one). */
static bool set_host_nodes(Object *obj, const Property *prop, json_object *value, GError **error)
{
    MemoryBackend *b = MEMORY_BACKEND(obj);
    bool is_list = json_object_is_type(value, json_type_array);
    size_t n = is_list ? json_object_array_length(value) : 1;

    memset(b->host_nodes, 0, sizeof(b->host_nodes));
    for (size_t i = 0; i < n; i++) {
        json_object *entry = is_list ? json_object_array_get_idx(value, i) : value;
        const char *text = entry ? json_object_get_string(entry) : "null";

        if (!add_nodes(b, text))
            return property_fail(obj, prop, error, ERR_INVALID_PARAMETER,
                                 "'%s' is not a host node or range of nodes below %u", text,
                                 HOST_NODES_MAX);
    }
    return true;
}

static json_object *get_host_nodes(Object *obj, const Property *prop)
{
    MemoryBackend *b = MEMORY_BACKEND(obj);
    json_object *list = json_object_new_array();

    for (unsigned node = 0; node < HOST_NODES_MAX; node++) {
        if (b->host_nodes[node / 64] >> node % 64 & 1)
            json_object_array_add(list, json_object_new_int(node));
    }
    return list;
}

static bool any_host_node(const MemoryBackend *b)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(b->host_nodes); i++) {
        if (b->host_nodes[i])
            return true;
    }
    return false;
}

static bool check_policy(const MemoryBackend *b, GError **error)
{
    if (any_host_node(b) && b->policy == POLICY_DEFAULT) {
        fail(error, ERR_INVALID_PARAMETER, "host-nodes without a policy");
        return error_hint(error, "give policy=preferred, bind or interleave");
    }
    if (!any_host_node(b) && b->policy != POLICY_DEFAULT)
        return fail(error, ERR_MISSING_PARAMETER, "policy '%s' needs host-nodes",
                    policy_words[b->policy]);
    return true;
}

static bool bind_nodes(const MemoryBackend *b, GError **error)
{
    if (b->policy == POLICY_DEFAULT)
        return true;
    /* The kernel counts the bits of the mask plus one. */
    if (syscall(SYS_mbind, ram_block_host(b->block), ram_block_size(b->block), b->policy,
                b->host_nodes, (unsigned long)HOST_NODES_MAX + 1, MBIND_STRICT_MOVE) < 0)
        return fail_errno(error, errno, "cannot bind %" G_GUINT64_FORMAT
                          " bytes to the host nodes given", ram_block_size(b->block));
    return true;
}

/* ---- preallocation ---- */

typedef struct PreallocPart {
    uint8_t *start;
    uint64_t length, page_size;
    bool can_touch;                        /* small pages: a missing one is no SIGBUS */
    int err;
} PreallocPart;

static void *prealloc_thread(void *opaque)
{
    PreallocPart *part = opaque;

    if (!madvise(part->start, part->length, MADV_POPULATE_WRITE))
        return NULL;
    part->err = errno;
    if (part->err != EINVAL || !part->can_touch)
        return NULL;
    part->err = 0;                         /* a kernel before 5.14 */
    for (uint64_t at = 0; at < part->length; at += part->page_size) {
        volatile uint8_t *byte = part->start + at;

        *byte = *byte;
    }
    return NULL;
}

static bool preallocate(MemoryBackend *b, GError **error)
{
    uint64_t page = ram_block_page_size(b->block), size = ram_block_size(b->block);
    uint64_t pages = size / page, n = MIN(MAX(b->prealloc_threads, 1), pages), first = 0;
    g_autofree PreallocPart *parts = g_new0(PreallocPart, n);
    g_autofree GThread **threads = g_new0(GThread *, n);
    int err = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t end = pages * (i + 1) / n;

        parts[i] = (PreallocPart){
            .start = (uint8_t *)ram_block_host(b->block) + first * page,
            .length = (end - first) * page, .page_size = page,
            .can_touch = page == (uint64_t)sysconf(_SC_PAGESIZE),
        };
        threads[i] = g_thread_new("prealloc", prealloc_thread, &parts[i]);
        first = end;
    }
    for (uint64_t i = 0; i < n; i++) {
        g_thread_join(threads[i]);
        err = err ? err : parts[i].err;
    }
    if (err)
        return fail_errno(error, err, "cannot allocate %" G_GUINT64_FORMAT " bytes of memory",
                          size);
    return true;
}

/* ---- life ---- */

static bool advise(MemoryBackend *b, GError **error)
{
    void *host = ram_block_host(b->block);
    uint64_t size = ram_block_size(b->block);

    /* Merging is a wish by default: a kernel without KSM is no error then. */
    if (b->merge && madvise(host, size, MADV_MERGEABLE) < 0 &&
        object_was_set(OBJECT(b), "merge") && errno != EINVAL)
        return fail_errno(error, errno, "cannot let the host merge pages");
    if (!b->dump && madvise(host, size, MADV_DONTDUMP) < 0)
        return fail_errno(error, errno, "cannot keep guest RAM out of core dumps");
    return true;
}

static bool backend_realize(Object *obj, GError **error)
{
    MemoryBackend *b = MEMORY_BACKEND(obj);

    if (!b->size) {
        fail(error, ERR_MISSING_PARAMETER, "property 'size' of '%s' must be given",
             obj->type->name);
        return error_hint(error, "for example size=1G");
    }
    return check_policy(b, error);
}

/* The leaf type's realize has made the block. */
static bool backend_realize_done(Object *obj, GError **error)
{
    MemoryBackend *b = MEMORY_BACKEND(obj);

    return advise(b, error) && bind_nodes(b, error) && (!b->prealloc || preallocate(b, error));
}

static void backend_unrealize(Object *obj)
{
    g_clear_pointer(&MEMORY_BACKEND(obj)->block, ram_block_unref);
}

char *memory_backend_block_name(const MemoryBackend *b)
{
    return b->canonical_path ? object_path(OBJECT(b)) : g_strdup(b->obj.name);
}

static const Property backend_props[] = {
    PROP_OF("size", MemoryBackend, size, prop_size, .help = "bytes of memory"),
    PROP("share", MemoryBackend, share, .help = "other processes see what the guest writes"),
    PROP("prealloc", MemoryBackend, prealloc, .help = "allocate all pages at the start"),
    PROP("prealloc-threads", MemoryBackend, prealloc_threads, .def.u = 1, .min = 1, .max = 1024,
         .help = "threads that allocate the pages"),
    PROP("merge", MemoryBackend, merge, .def.b = true, .help = "let the host merge equal pages"),
    PROP("dump", MemoryBackend, dump, .def.b = true, .help = "include in core dumps"),
    PROP("reserve", MemoryBackend, reserve, .def.b = true,
         .help = "count swap space or huge pages for all of it at the start"),
    PROP_OF("policy", MemoryBackend, policy, prop_enum, .words = policy_words,
            .help = "how pages are placed on host nodes"),
    PROP_FN("host-nodes", get_host_nodes, set_host_nodes, .help = "host nodes the pages come from"),
    PROP("x-use-canonical-path-for-ramblock-id", MemoryBackend, canonical_path, .def.b = true,
         .help = "name the RAM block by the object's path, not its id"),
    {}
};

static const Type backend_type = {
    .name = "memory-backend", .parent = "user-object",
    .help = "what memory backends have in common", .size = sizeof(MemoryBackend), .abstract = true,
    .props = backend_props,
    .realize = backend_realize, .realize_done = backend_realize_done,
    .unrealize = backend_unrealize,
};
TYPE_REGISTER(backend_type)

/* ---- memory-backend-ram ---- */

static bool ram_realize(Object *obj, GError **error)
{
    MemoryBackend *b = MEMORY_BACKEND(obj);
    g_autofree char *name = memory_backend_block_name(b);

    b->block = ram_block_map(&(RamMapping){ .name = name, .size = b->size, .fd = -1,
                                            .shared = b->share, .noreserve = !b->reserve }, error);
    return b->block != NULL;
}

static const Type ram_type = {
    .name = "memory-backend-ram", .parent = "memory-backend", .help = "anonymous memory",
    .user_creatable = true, .realize = ram_realize,
};
TYPE_REGISTER(ram_type)
