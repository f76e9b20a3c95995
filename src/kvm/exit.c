/*
 * What a vCPU does after KVM_RUN has returned: port and memory accesses, shutdown, and the exits
 * that nothing can follow.
 */
#include <stdarg.h>
#include "src/kvm/kvm-int.h"

static const char *const exit_names[] = {
    [KVM_EXIT_UNKNOWN] = "UNKNOWN", [KVM_EXIT_EXCEPTION] = "EXCEPTION", [KVM_EXIT_IO] = "IO",
    [KVM_EXIT_HYPERCALL] = "HYPERCALL", [KVM_EXIT_DEBUG] = "DEBUG", [KVM_EXIT_HLT] = "HLT",
    [KVM_EXIT_MMIO] = "MMIO", [KVM_EXIT_IRQ_WINDOW_OPEN] = "IRQ_WINDOW_OPEN",
    [KVM_EXIT_SHUTDOWN] = "SHUTDOWN", [KVM_EXIT_FAIL_ENTRY] = "FAIL_ENTRY",
    [KVM_EXIT_INTR] = "INTR", [KVM_EXIT_SET_TPR] = "SET_TPR", [KVM_EXIT_TPR_ACCESS] = "TPR_ACCESS",
    [KVM_EXIT_NMI] = "NMI", [KVM_EXIT_INTERNAL_ERROR] = "INTERNAL_ERROR",
    [KVM_EXIT_SYSTEM_EVENT] = "SYSTEM_EVENT", [KVM_EXIT_IOAPIC_EOI] = "IOAPIC_EOI",
};

static const char *exit_name(uint32_t reason)
{
    const char *name = reason < G_N_ELEMENTS(exit_names) ? exit_names[reason] : NULL;
    return name ? name : "?";
}

/*
 * An access as the CPU made it.  KVM splits at pages and 8 bytes, so a size that is no power of two
 * is left over from an access across a page boundary: a sequence of bytes to us.  Nobody there:
 * reads are ones, writes are lost.
 */
static void access_space(AddressSpace *as, Gpa addr, void *data, unsigned size, bool write)
{
    uint64_t value = UINT64_MAX;
    if (!is_power_of_2(size)) {
        if (write)
            address_space_write(as, addr, data, size);
        else if (address_space_read(as, addr, data, size) == MEM_UNMAPPED)
            memset(data, 0xff, size);
    } else if (write) {
        value = 0;
        memcpy(&value, data, size);
        address_space_store(as, addr, size, value);
    } else {
        if (address_space_load(as, addr, size, &value) == MEM_UNMAPPED)
            value = UINT64_MAX;
        memcpy(data, &value, size);
    }
}

/* INS and OUTS bring several values at once. */
static void handle_io(Vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    bool write = run->io.direction == KVM_EXIT_IO_OUT;
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
        if (!kvm_pit_access(vcpu->kvm, run->io.port, data, run->io.size, write))
            access_space(vcpu->kvm->io, run->io.port, data, run->io.size, write);
    TRACE(kvm_pio, "cpu %u %s port 0x%x size %u count %u", vcpu->index, write ? "out" : "in",
          run->io.port, run->io.size, run->io.count);
}

static void handle_mmio(Vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    access_space(vcpu->kvm->memory, run->mmio.phys_addr, run->mmio.data, run->mmio.len,
                 run->mmio.is_write);
    TRACE(kvm_mmio, "cpu %u %s 0x%llx size %u", vcpu->index, run->mmio.is_write ? "write" : "read",
          run->mmio.phys_addr, run->mmio.len);
}

/*
 * Writes that KVM has put aside come before the access that ended KVM_RUN.  One ring serves all
 * vCPUs; the VM lock makes us its one consumer.
 */
void vcpu_drain_coalesced(Vcpu *vcpu)
{
    struct kvm_coalesced_mmio_ring *ring = vcpu->ring;
    const unsigned max = (4096 - sizeof(*ring)) / sizeof(ring->coalesced_mmio[0]);
    if (G_LIKELY(!ring || ring->first == __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)))
        return;
    vm_lock(vcpu->kvm->env.lock);
    while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
        struct kvm_coalesced_mmio *m = &ring->coalesced_mmio[ring->first % max];
        access_space(m->pio ? vcpu->kvm->io : vcpu->kvm->memory, m->phys_addr, m->data,
                     MIN(m->len, 8), true);
        __atomic_store_n(&ring->first, (ring->first + 1) % max, __ATOMIC_RELEASE);
    }
    vm_unlock(vcpu->kvm->env.lock);
}

static void tell(Vcpu *vcpu, KvmEvent what, const char *reason)
{
    TRACE(kvm_event, "cpu %u event %d: %s", vcpu->index, what, reason);
    vcpu->kvm->env.event(vcpu->kvm->env.opaque, what, reason);
}

/* False always: the VM decides what follows. */
static bool handle_system_event(Vcpu *vcpu)
{
    switch (vcpu->run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        tell(vcpu, KVM_EVENT_SHUTDOWN, "guest-shutdown");
        break;
    case KVM_SYSTEM_EVENT_RESET:
        tell(vcpu, KVM_EVENT_RESET, "guest-reset");
        break;
    case KVM_SYSTEM_EVENT_CRASH:
        tell(vcpu, KVM_EVENT_CRASH, "guest-panic");
        break;
    default:
        vcpu_fail(vcpu, "unknown system event %u", vcpu->run->system_event.type);
    }
    return false;
}

static bool handle_internal_error(Vcpu *vcpu)
{
    static const char *const suberrors[] = {
        [KVM_INTERNAL_ERROR_EMULATION] = "an instruction that KVM cannot emulate",
        [KVM_INTERNAL_ERROR_SIMUL_EX] = "simultaneous exceptions",
        [KVM_INTERNAL_ERROR_DELIVERY_EV] = "a fault during event delivery",
        [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an unexpected exit of the CPU",
    };
    uint32_t sub = vcpu->run->internal.suberror;
    const char *text = sub < G_N_ELEMENTS(suberrors) && suberrors[sub] ? suberrors[sub] : "unknown";
    g_autoptr(GString) data = g_string_new(NULL);
    for (unsigned i = 0; i < MIN(vcpu->run->internal.ndata, 16); i++)
        g_string_append_printf(data, " %llx", vcpu->run->internal.data[i]);
    vcpu_fail(vcpu, "KVM internal error %u: %s; data:%s", sub, text,
              data->len ? data->str : " none");
    return false;
}

bool vcpu_handle_exit(Vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    TRACE(kvm_run_exit, "cpu %u reason %u %s", vcpu->index, run->exit_reason,
          exit_name(run->exit_reason));
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        handle_io(vcpu);
        return true;
    case KVM_EXIT_MMIO:
        handle_mmio(vcpu);
        return true;
    case KVM_EXIT_IOAPIC_EOI:
        kvm_intr_eoi(vcpu->kvm->intr, run->eoi.vector);
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
        return true;
    case KVM_EXIT_HLT:                      /* irqchip off: there is nothing that could wake it */
        return false;
    case KVM_EXIT_SHUTDOWN:
        tell(vcpu, KVM_EVENT_RESET, "triple fault");
        return false;
    case KVM_EXIT_SYSTEM_EVENT:
        return handle_system_event(vcpu);
    case KVM_EXIT_INTERNAL_ERROR:
        return handle_internal_error(vcpu);
    case KVM_EXIT_FAIL_ENTRY:
        vcpu_fail(vcpu, "the CPU refuses to enter the guest, hardware reason 0x%llx",
                  run->fail_entry.hardware_entry_failure_reason);
        return false;
    default:
        vcpu_fail(vcpu, "KVM exit %u (%s), which nothing asked for", run->exit_reason,
                  exit_name(run->exit_reason));
        return false;
    }
}

static void log_lines(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++)
        if (**line)
            warn_report("%s", *line);
}

void vcpu_fail(Vcpu *vcpu, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    g_autofree char *what = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_autofree char *registers = vcpu_describe(vcpu);
    warn_report("vCPU %u: %s", vcpu->index, what);
    log_lines(registers);
    tell(vcpu, KVM_EVENT_INTERNAL_ERROR, what);
}
