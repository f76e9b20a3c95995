#include "tests/guest/harness.h"
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "src/base/util.h"

enum { PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, GDT = 0x7000, LONG_TIME_S = 60 };

void guest_require_kvm(void)
{
    g_autoptr(GError) error = NULL;
    if (kvm_available(&error))
        return;
    printf("skipped: %s\n", error->message);
    exit(77);
}

void *guest_ram(Guest *g, uint64_t addr)
{
    return (uint8_t *)ram_block_host(g->ram_block) + addr;
}

/* ---- what the guest finds ---- */

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    Guest *g = opaque;
    uint32_t value = 0;
    if (g->on_read)
        return g->on_read(g, offset, size);
    if (offset == 8 && g->stack->len) {
        value = g->stack->data[g->stack->len - 1];
        g_byte_array_set_size(g->stack, g->stack->len - 1);
    } else {
        memcpy(&value, g->bytes + offset, MIN(size, 16 - offset));
    }
    return value;
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Guest *g = opaque;
    uint8_t byte = value;
    if (g->on_write)
        g->on_write(g, offset, value);
    else if (offset == 8)
        g_byte_array_append(g->stack, &byte, 1);
    else
        memcpy(g->bytes + offset, &value, MIN(size, 16 - offset));
}

static uint64_t mmio_read(void *opaque, uint64_t offset, unsigned size)
{
    Guest *g = opaque;
    uint64_t value = 0;
    memcpy(&value, g->mmio_bytes + offset, size);
    return value;
}

static void mmio_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Guest *g = opaque;
    memcpy(g->mmio_bytes + offset, &value, size);
    g->mmio_writes++;
}

static void end_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Guest *g = opaque;
    g_mutex_lock(&g->mutex);
    g->result = value;
    g_cond_broadcast(&g->changed);
    g_mutex_unlock(&g->mutex);
}

static const IoOps data_ops = { .read = data_read, .write = data_write };
static const IoOps mmio_ops = { .read = mmio_read, .write = mmio_write, .device = { 1, 8 } };
static const IoOps end_ops = { .write = end_write };

static void on_event(void *opaque, KvmEvent what, const char *reason)
{
    Guest *g = opaque;
    g_mutex_lock(&g->mutex);
    g->event = what;
    g_free(g->reason);
    g->reason = g_strdup(reason);
    g_cond_broadcast(&g->changed);
    g_mutex_unlock(&g->mutex);
}

static void make_map(Guest *g)
{
    g_autoptr(GError) error = NULL;
    g->ram_block = ram_block_new("ram", GUEST_RAM, &error);
    g->rom_block = ram_block_new("rom", 4096, &error);
    ck_assert_ptr_nonnull(g->ram_block);
    ck_assert_ptr_nonnull(g->rom_block);
    *(uint32_t *)ram_block_host(g->rom_block) = 0x11223344;
    region_init_container(&g->memory_root, g->root, "memory", UINT64_MAX);
    region_init_container(&g->io_root, g->root, "io", 0x10000);
    region_init_ram(&g->ram, g->root, "ram", g->ram_block, 0, GUEST_RAM);
    region_init_rom(&g->rom, g->root, "rom", g->rom_block, 0, 4096);
    region_init_io(&g->mmio, g->root, &mmio_ops, g, "data", 64);
    region_init_io(&g->data_ports, g->root, &data_ops, g, "data-ports", 16);
    region_init_io(&g->end_port, g->root, &end_ops, g, "end", 4);
    g->memory = address_space_new("memory", &g->memory_root, &g->lock);
    g->io = address_space_new("io", &g->io_root, &g->lock);
    region_add(&g->memory_root, 0, &g->ram);
    region_add(&g->memory_root, ROM_ADDR, &g->rom);
    region_add(&g->memory_root, DATA_MMIO, &g->mmio);
    region_add(&g->io_root, DATA_PORT, &g->data_ports);
    region_add(&g->io_root, END_PORT, &g->end_port);
}

Guest *guest_new(const GuestConfig *config)
{
    g_autoptr(GError) error = NULL;
    Guest *g = g_new0(Guest, 1);
    SmpTopology smp = { .sockets = 1, .dies = 1, .threads = 1 };
    smp.cpus = smp.max_cpus = smp.cores = MAX(config->cpus, 1);
    g->event = -1;
    g->stack = g_byte_array_new();
    g_mutex_init(&g->mutex);
    g_cond_init(&g->changed);
    vm_lock_init(&g->lock);
    vm_lock(&g->lock);
    g->root = object_new_by_name("container", &error);
    ck_assert_ptr_nonnull(g->root);
    KvmEnv env = { .event = on_event, .lock = &g->lock, .opaque = g };
    g->kvm = kvm_new(config->irqchip, &env, &error);
    ck_assert_msg(g->kvm != NULL, "%s", error ? error->message : "?");
    if (kvm_intr(g->kvm))
        kvm_intr(g->kvm)->pit = true;
    make_map(g);
    g->mmio.coalesced = config->coalesced;
    ck_assert(kvm_attach_memory(g->kvm, g->memory, g->io, &error));
    g->model = cpu_model_new(g->kvm, config->cpu ?: "host", &error);
    ck_assert_msg(g->model != NULL, "%s", error ? error->message : "?");
    for (unsigned i = 0; i < smp.cpus; i++)
        ck_assert_msg(kvm_vcpu_new(g->kvm, i, smp_apic_id(&smp, i), &smp, g->model, &error) != NULL,
                      "%s", error ? error->message : "?");
    ck_assert_msg(kvm_add_objects(g->kvm, g->root, &error), "%s", error ? error->message : "?");
    return g;
}

void guest_free(Guest *g)
{
    kvm_vcpus_destroy(g->kvm);
    kvm_free(g->kvm);
    region_destroy(&g->end_port);
    region_destroy(&g->data_ports);
    region_destroy(&g->mmio);
    region_destroy(&g->rom);
    region_destroy(&g->ram);
    address_space_free(g->memory);
    address_space_free(g->io);
    region_destroy(&g->memory_root);
    region_destroy(&g->io_root);
    ram_block_unref(g->ram_block);
    ram_block_unref(g->rom_block);
    object_unref(g->root);
    cpu_model_free(g->model);
    vm_unlock(&g->lock);
    vm_lock_clear(&g->lock);
    g_byte_array_unref(g->stack);
    g_free(g->reason);
    g_mutex_clear(&g->mutex);
    g_cond_clear(&g->changed);
    g_free(g);
}

/* ---- running it ---- */

/* Four gigabytes one to one in pages of 2 MiB; code and data segments as BOOT_LONG64 selects them.
 * */
static void make_tables(Guest *g)
{
    uint64_t *pml4 = guest_ram(g, PML4), *pdpt = guest_ram(g, PDPT), *pd = guest_ram(g, PD);
    uint64_t *gdt = guest_ram(g, GDT);
    pml4[0] = PDPT | 3;
    for (unsigned i = 0; i < 4; i++)
        pdpt[i] = (PD + 4096 * i) | 3;
    for (uint64_t i = 0; i < 2048; i++)
        pd[i] = i << 21 | 0x83;
    gdt[2] = 0x00af9b000000ffff;
    gdt[3] = 0x00cf93000000ffff;
}

static uint64_t load_elf(Guest *g, const char *payload)
{
    g_autofree char *path = g_strdup_printf(PAYLOAD_DIR "/%s.elf", payload), *file = NULL;
    gsize length;
    ck_assert_msg(g_file_get_contents(path, &file, &length, NULL), "%s is missing", path);
    const Elf64_Ehdr *header = (void *)file;
    const Elf64_Phdr *ph = (void *)(file + header->e_phoff);
    for (unsigned i = 0; i < header->e_phnum; i++, ph++) {
        if (ph->p_type != PT_LOAD)
            continue;
        ck_assert_uint_le(ph->p_paddr + ph->p_memsz, GUEST_RAM);
        memset(guest_ram(g, ph->p_paddr), 0, ph->p_memsz);
        memcpy(guest_ram(g, ph->p_paddr), file + ph->p_offset, ph->p_filesz);
    }
    return header->e_entry;
}

void guest_load(Guest *g, const char *payload, uint64_t argument)
{
    make_tables(g);
    BootRegs regs = {
        .mode = BOOT_LONG64, .rip = load_elf(g, payload), .rsi = argument, .cr3 = PML4,
        .gdt_base = GDT, .gdt_limit = 4 * 8 - 1,
    };
    kvm_vcpus_reset(g->kvm);
    kvm_vcpu_set_boot_regs(kvm_vcpu(g->kvm, 0), &regs);
    g->result = 0;
    g->event = -1;
}

/* The note's descriptor follows its 12 bytes of header and "Xen\0". */
void guest_load_pvh(Guest *g, const char *payload)
{
    static const uint8_t note[16] = { 4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0 };
    BootRegs regs = { .mode = BOOT_PVH32 };
    load_elf(g, payload);
    const uint8_t *at = memmem(guest_ram(g, 0x100000), 0x10000, note, sizeof(note));
    ck_assert_ptr_nonnull(at);
    regs.rip = ld_le32(at + sizeof(note));
    kvm_vcpus_reset(g->kvm);
    kvm_vcpu_set_boot_regs(kvm_vcpu(g->kvm, 0), &regs);
}

void guest_start(Guest *g)
{
    kvm_vcpus_start(g->kvm);
}

void guest_stop(Guest *g)
{
    kvm_vcpus_stop(g->kvm);
}

void guest_poke(Guest *g)
{
    g_mutex_lock(&g->mutex);
    g_cond_broadcast(&g->changed);
    g_mutex_unlock(&g->mutex);
}

void guest_wait_for(Guest *g, bool (*done)(Guest *g), const char *what)
{
    gint64 deadline = g_get_monotonic_time() + LONG_TIME_S * G_TIME_SPAN_SECOND;
    vm_unlock(&g->lock);
    g_mutex_lock(&g->mutex);
    while (!done(g))
        if (!g_cond_wait_until(&g->changed, &g->mutex, deadline)) {
            char *text = vcpu_describe(kvm_vcpu(g->kvm, 0));
            ck_abort_msg("no %s in time\n%s", what, text);
        }
    g_mutex_unlock(&g->mutex);
    vm_lock(&g->lock);
}

static bool has_ended(Guest *g)
{
    return g->result || g->event >= 0;
}

uint32_t guest_wait(Guest *g)
{
    guest_wait_for(g, has_ended, "end of the guest");
    return g->result;
}

void guest_run(Guest *g, const char *payload, uint64_t argument)
{
    guest_load(g, payload, argument);
    guest_start(g);
    uint32_t result = guest_wait(g);
    guest_stop(g);
    ck_assert_msg(g->event < 0, "event %d: %s", g->event, g->reason);
    ck_assert_msg(result == GOOD, "%s: result 0x%x", payload, result);
}
