/* QMP: guest memory copied to files.  Workers read and write; the main loop goes on meanwhile. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>
#include "schema/commands.h"
#include "src/base/coroutine.h"
#include "src/base/util.h"

enum { PAGE = 4096, PAGES_AT_ONCE = 256 };

typedef struct MemorySave {
    AddressSpace *as;
    Vcpu *vcpu;                            /* whose page tables count; NULL: addresses are physical */
    uint64_t address, size;
    const char *filename;
    GError **error;
    bool ok;

    int fd;
    uint64_t from, length;                 /* of save_range: physical */
} MemorySave;

static int open_file(void *opaque)
{
    MemorySave *save = opaque;
    save->fd = open(save->filename, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return save->fd >= 0 || fail_errno(save->error, errno, "cannot open '%s'", save->filename);
}

static int close_file(void *opaque)
{
    return close(((MemorySave *)opaque)->fd);
}

static bool write_all(MemorySave *save, const uint8_t *data, size_t length)
{
    while (length) {
        ssize_t n = write(save->fd, data, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(save->error, errno, "cannot write '%s'", save->filename);
        data += n;
        length -= n;
    }
    return true;
}

static int save_range(void *opaque)
{
    MemorySave *save = opaque;
    g_autofree uint8_t *buffer = g_malloc(64 * KiB);
    while (save->length) {
        size_t n = MIN(save->length, 64 * KiB);
        if (address_space_read(save->as, save->from, buffer, n) != MEM_OK)
            return fail(save->error, ERR_INVALID_PARAMETER,
                        "there is no memory at guest address 0x%" PRIx64, save->from);
        if (!write_all(save, buffer, n))
            return false;
        save->from += n;
        save->length -= n;
    }
    return true;
}

/* Pages that follow each other in physical memory, too, are written together. */
static bool co_fn save_pages(MemorySave *save, const uint64_t *pages, unsigned count)
{
    for (unsigned i = 0; i < count && save->size;) {
        uint64_t in_page = save->address % PAGE;
        save->from = pages[i] + in_page;
        save->length = PAGE - in_page;
        while (++i < count && pages[i] == save->from + save->length)
            save->length += PAGE;
        save->length = MIN(save->length, save->size);
        save->address += save->length;
        save->size -= save->length;
        if (!co_worker_call(save_range, save))
            return false;
    }
    return true;
}

static bool co_fn save_virtual(MemorySave *save)
{
    uint64_t pages[PAGES_AT_ONCE];
    while (save->size) {
        uint64_t wanted = (save->size + save->address % PAGE + PAGE - 1) / PAGE;
        unsigned count = vcpu_translate(save->vcpu, ALIGN_DOWN(save->address, PAGE), pages,
                                        MIN(wanted, PAGES_AT_ONCE));
        if (!count)
            return fail(save->error, ERR_INVALID_PARAMETER,
                        "there is no memory at virtual address 0x%" PRIx64, save->address);
        if (!save_pages(save, pages, count))
            return false;
    }
    return true;
}

static void co_fn save_memory(void *opaque)
{
    MemorySave *save = opaque;
    if (!co_worker_call(open_file, save))
        return;
    if (save->vcpu) {
        save->ok = save_virtual(save);
    } else {
        save->from = save->address;
        save->length = save->size;
        save->ok = co_worker_call(save_range, save);
    }
    co_worker_call(close_file, save);
}

static bool run(Vm *vm, Vcpu *vcpu, int64_t val, int64_t size, const char *filename, GError **error)
{
    if (val < 0 || size < 0)
        return fail(error, ERR_INVALID_PARAMETER, "val and size must not be negative");
    if (!vm->machine || !vm->machine->memory)
        return fail(error, ERR_UNSUPPORTED, "the machine has no memory");
    MemorySave save = { .as = vm->machine->memory, .vcpu = vcpu, .address = val, .size = size,
                        .filename = filename, .error = error };
    co_run_sync(save_memory, &save);
    return save.ok;
}

bool qmp_pmemsave(Vm *vm, int64_t val, int64_t size, const char *filename, GError **error)
{
    return run(vm, NULL, val, size, filename, error);
}

bool qmp_memsave(Vm *vm, int64_t val, int64_t size, const char *filename, bool has_cpu_index,
                 int64_t cpu_index, GError **error)
{
    int64_t cpu = has_cpu_index ? cpu_index : 0;
    if (!vm->kvm || cpu < 0 || cpu >= kvm_vcpu_count(vm->kvm))
        return fail(error, ERR_INVALID_PARAMETER, "cpu-index: there is no CPU %" PRId64, cpu);
    return run(vm, kvm_vcpu(vm->kvm, cpu), val, size, filename, error);
}
