/*
 * ELF kernels by the PVH entry (Xen, docs/misc/pvh.pandoc; xen/include/public/arch-x86/hvm/start_info.h):
 * a note names the 32-bit address where the kernel is entered in flat protected mode, with the
 * address of hvm_start_info in EBX.
 */
#include <elf.h>
#include <string.h>
#include "hw/x86/boot.h"
#include "src/base/error.h"
#include "src/base/util.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define HVM_START_MAGIC 0x336ec578
#define MAX_HEADERS 256
enum { START_INFO_SIZE = 56, MODULE_SIZE = 32, MEMMAP_ENTRY_SIZE = 24 };

typedef struct Elf {
    const uint8_t *file;
    size_t size;
    Elf64_Ehdr head;
} Elf;

static bool refuse(GError **error, const char *why)
{
    return fail(error, ERR_CORRUPT, "ELF kernel: %s", why);
}

static bool parse_head(Elf *e, GError **error)
{
    if (e->size < sizeof(e->head))
        return refuse(error, "the file ends within its header");
    memcpy(&e->head, e->file, sizeof(e->head));
    if (e->head.e_ident[EI_CLASS] != ELFCLASS64 || e->head.e_machine != EM_X86_64)
        return fail(error, ERR_UNSUPPORTED, "ELF kernel: not a 64-bit x86 one");
    if (e->head.e_ident[EI_DATA] != ELFDATA2LSB)
        return refuse(error, "not little-endian");
    if (e->head.e_phentsize != sizeof(Elf64_Phdr) || !e->head.e_phnum ||
        e->head.e_phnum > MAX_HEADERS)
        return refuse(error, "its program headers are ill-formed");
    if (e->head.e_phoff > e->size ||
        e->size - e->head.e_phoff < e->head.e_phnum * sizeof(Elf64_Phdr))
        return refuse(error, "the file ends within its program headers");
    return true;
}

static Elf64_Phdr header(const Elf *e, unsigned n)
{
    Elf64_Phdr ph;

    memcpy(&ph, e->file + e->head.e_phoff + n * sizeof(ph), sizeof(ph));
    return ph;
}

static bool in_file(const Elf *e, const Elf64_Phdr *ph)
{
    return ph->p_offset <= e->size && ph->p_filesz <= e->size - ph->p_offset;
}

/* Looks for the entry in one PT_NOTE segment; names and descriptors are padded to 4 bytes. */
static bool find_entry(const uint8_t *notes, uint64_t size, uint64_t *ret)
{
    uint64_t at = 0;

    while (size - at >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr note;
        memcpy(&note, notes + at, sizeof(note));
        uint64_t name = at + sizeof(note), desc = name + ALIGN_UP((uint64_t)note.n_namesz, 4);
        uint64_t next = desc + ALIGN_UP((uint64_t)note.n_descsz, 4);
        if (desc > size || note.n_descsz > size - desc)
            return false;
        if (note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.n_namesz == 4 &&
            !memcmp(notes + name, "Xen", 4) && (note.n_descsz == 4 || note.n_descsz == 8)) {
            *ret = note.n_descsz == 4 ? ld_le32(notes + desc) : ld_le64(notes + desc);
            return true;
        }
        if (next > size)
            return false;
        at = next;
    }
    return false;
}

static bool parse_entry(const Elf *e, uint64_t *ret, GError **error)
{
    for (unsigned n = 0; n < e->head.e_phnum; n++) {
        Elf64_Phdr ph = header(e, n);
        if (ph.p_type != PT_NOTE)
            continue;
        if (!in_file(e, &ph))
            return refuse(error, "the file ends within its notes");
        if (find_entry(e->file + ph.p_offset, ph.p_filesz, ret))
            return true;
    }
    fail(error, ERR_UNSUPPORTED, "ELF kernel: it has no PVH entry (ELF note Xen, type %d)",
         XEN_ELFNOTE_PHYS32_ENTRY);
    return error_hint(error, "build it with CONFIG_PVH=y, or boot its bzImage");
}

/* PT_LOAD segments to their physical addresses. */
static bool add_segments(const Elf *e, const BootInput *in, BootPlan *plan, uint64_t entry,
                         uint64_t *ret_end, GError **error)
{
    bool entry_loaded = false;

    *ret_end = 0;
    for (unsigned n = 0; n < e->head.e_phnum; n++) {
        Elf64_Phdr ph = header(e, n);
        if (ph.p_type != PT_LOAD || !ph.p_memsz)
            continue;
        if (!in_file(e, &ph))
            return refuse(error, "the file ends within a segment");
        if (ph.p_filesz > ph.p_memsz)
            return refuse(error, "a segment has more bytes in the file than in memory");
        if (ph.p_paddr < BOOT_KERNEL_MIN)
            return refuse(error, "a segment is in the first MiB, which is in use");
        if (!boot_in_ram(in, ph.p_paddr, ph.p_memsz)) {
            fail(error, ERR_LIMIT,
                 "ELF kernel: a segment of %" PRIu64 " MiB at 0x%" PRIx64 " is not all in memory",
                 (uint64_t)((ph.p_memsz + MiB - 1) / MiB), (uint64_t)ph.p_paddr);
            return error_hint(error, "give the machine more memory (-m)");
        }
        boot_plan_add(plan, "kernel", ph.p_paddr,
                      g_bytes_new_from_bytes(in->kernel, ph.p_offset, ph.p_filesz),
                      ph.p_memsz - ph.p_filesz);
        entry_loaded |= entry >= ph.p_paddr && entry - ph.p_paddr < ph.p_filesz;
        *ret_end = MAX(*ret_end, ph.p_paddr + ph.p_memsz);
    }
    return entry_loaded || refuse(error, "its PVH entry is in no segment");
}

/* hvm_start_info, one module (the initrd), and the memory map, one after the other. */
static void add_start_info(const BootInput *in, BootPlan *plan, uint64_t initrd)
{
    unsigned entries = MIN(in->e820_count, E820_MAX);
    uint32_t modules = BOOT_PVH_INFO + START_INFO_SIZE + 8, memmap = modules + MODULE_SIZE;
    size_t size = memmap + entries * MEMMAP_ENTRY_SIZE - BOOT_PVH_INFO;
    uint8_t *info = g_malloc0(size), *module = info + modules - BOOT_PVH_INFO;

    st_le32(info, HVM_START_MAGIC);
    st_le32(info + 4, 1);                   /* version: has the memory map */
    st_le32(info + 12, initrd ? 1 : 0);
    st_le64(info + 16, initrd ? modules : 0);
    st_le64(info + 24, BOOT_CMDLINE);
    st_le64(info + 32, in->rsdp);
    st_le64(info + 40, memmap);
    st_le32(info + 48, entries);
    st_le64(module, initrd);
    st_le64(module + 8, initrd ? g_bytes_get_size(in->initrd) : 0);
    for (unsigned i = 0; i < entries; i++) {
        uint8_t *entry = info + memmap - BOOT_PVH_INFO + i * MEMMAP_ENTRY_SIZE;
        st_le64(entry, in->e820[i].addr);
        st_le64(entry + 8, in->e820[i].size);
        st_le32(entry + 16, in->e820[i].type);
    }
    boot_plan_add(plan, "start info", BOOT_PVH_INFO, g_bytes_new_take(info, size), 0);
}

bool pvh_plan(const BootInput *in, BootPlan *plan, GError **error)
{
    Elf e = { 0 };
    uint64_t entry = 0, end, initrd;

    e.file = g_bytes_get_data(in->kernel, &e.size);
    if (!parse_head(&e, error) || !parse_entry(&e, &entry, error) ||
        !add_segments(&e, in, plan, entry, &end, error) ||
        !boot_add_initrd(in, plan, end, UINT32_MAX, &initrd, error) ||
        !boot_add_cmdline(in, plan, UINT64_MAX, error))
        return false;
    add_start_info(in, plan, initrd);
    boot_add_gdt(plan, false);
    plan->regs.mode = BOOT_PVH32;
    plan->regs.rip = entry;
    plan->regs.rbx = BOOT_PVH_INFO;
    return true;
}
