/*
 * Getting and setting the whole state of a vCPU, and its reset.
 *
 * Which MSRs belong to it, KVM says (KVM_GET_MSR_INDEX_LIST); those that cannot be read are none of
 * this guest's.  The order of setting matters: segments and APIC base before the LAPIC, that before
 * the TSC deadline among the MSRs, events after all that could raise or drop one.
 */
#include <errno.h>
#include "src/kvm/state.h"

#define MSR_BATCH 256                       /* KVM takes up to 256 at once (MAX_IO_MSRS) */
#define XSAVE_MIN 4096                      /* struct kvm_xsave without extension */

typedef struct MsrBuffer {
    uint32_t nmsrs, pad;            /* as struct kvm_msrs */
    struct kvm_msr_entry entries[MSR_BATCH];
} MsrBuffer;

/* The Hyper-V MSRs are there for guests that are shown Hyper-V only; ours are not. */
static bool is_hyperv_msr(uint32_t index)
{
    return index >= 0x40000000 && index <= 0x400001ff;
}

const MsrList *kvm_msr_list(Kvm *kvm)
{
    if (kvm->msrs.index)
        return &kvm->msrs;
    struct kvm_msr_list probe = { .nmsrs = 0 };
    kvm_ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, &probe);   /* E2BIG; tells the count */
    struct kvm_msr_list *list = g_malloc0(sizeof(*list) + probe.nmsrs * sizeof(uint32_t));
    list->nmsrs = probe.nmsrs;
    if (kvm_ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, list) < 0)
        list->nmsrs = 0;
    kvm->msrs.index = g_new0(uint32_t, list->nmsrs + 1);
    for (unsigned i = 0; i < list->nmsrs; i++)
        if (!is_hyperv_msr(list->indices[i]))
            kvm->msrs.index[kvm->msrs.count++] = list->indices[i];
    g_free(list);
    return &kvm->msrs;
}

CpuState *cpu_state_new(Kvm *kvm)
{
    CpuState *state = g_new0(CpuState, 1);
    state->xsave_size = MAX(kvm->xsave_size, XSAVE_MIN);
    state->xsave = g_malloc0(state->xsave_size);
    state->msrs = g_array_new(false, true, sizeof(struct kvm_msr_entry));
    return state;
}

void cpu_state_free(CpuState *state)
{
    if (!state)
        return;
    g_free(state->xsave);
    g_array_unref(state->msrs);
    g_free(state);
}

/* ---- parts ---- */

static int get_sregs(Vcpu *vcpu, struct kvm_sregs2 *s2)
{
    if (vcpu->kvm->has_sregs2)
        return kvm_ioctl(vcpu->fd, KVM_GET_SREGS2, s2);
    struct kvm_sregs s;
    int r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &s);
    if (r < 0)
        return r;
    *s2 = (struct kvm_sregs2){
        .cs = s.cs, .ds = s.ds, .es = s.es, .fs = s.fs, .gs = s.gs, .ss = s.ss, .tr = s.tr,
        .ldt = s.ldt, .gdt = s.gdt, .idt = s.idt, .cr0 = s.cr0, .cr2 = s.cr2, .cr3 = s.cr3,
        .cr4 = s.cr4, .cr8 = s.cr8, .efer = s.efer, .apic_base = s.apic_base,
    };
    return 0;
}

static int set_sregs(Vcpu *vcpu, const struct kvm_sregs2 *s2)
{
    if (vcpu->kvm->has_sregs2)
        return kvm_ioctl(vcpu->fd, KVM_SET_SREGS2, (void *)s2);
    struct kvm_sregs s = {
        .cs = s2->cs, .ds = s2->ds, .es = s2->es, .fs = s2->fs, .gs = s2->gs, .ss = s2->ss,
        .tr = s2->tr, .ldt = s2->ldt, .gdt = s2->gdt, .idt = s2->idt, .cr0 = s2->cr0,
        .cr2 = s2->cr2, .cr3 = s2->cr3, .cr4 = s2->cr4, .cr8 = s2->cr8, .efer = s2->efer,
        .apic_base = s2->apic_base,
    };
    return kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &s);
}

/* KVM_GET_MSRS stops at the first that it cannot read: that one is left out. */
static void get_msrs(Vcpu *vcpu, GArray *out)
{
    const MsrList *list = kvm_msr_list(vcpu->kvm);
    g_autofree MsrBuffer *b = g_new0(MsrBuffer, 1);
    g_array_set_size(out, 0);
    for (unsigned next = 0; next < list->count;) {
        unsigned n = MIN(list->count - next, MSR_BATCH);
        b->nmsrs = n;
        for (unsigned i = 0; i < n; i++)
            b->entries[i] = (struct kvm_msr_entry){ .index = list->index[next + i] };
        int got = kvm_ioctl(vcpu->fd, KVM_GET_MSRS, b);
        if (got > 0)
            g_array_append_vals(out, b->entries, got);
        next += MAX(got, 0) + (got < (int)n);
    }
}

static bool msr_is(Vcpu *vcpu, const struct kvm_msr_entry *want)
{
    struct {
        uint32_t nmsrs, pad;            /* as struct kvm_msrs */
        struct kvm_msr_entry entry;
    } b = { .nmsrs = 1, .entry.index = want->index };
    return kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &b) == 1 && b.entry.data == want->data;
}

/* One that cannot be written is no error if it has the value already (a read-only MSR of a host of
 * the same kind). */
static bool set_msrs(Vcpu *vcpu, const GArray *msrs, GError **error)
{
    g_autofree MsrBuffer *b = g_new0(MsrBuffer, 1);
    for (unsigned next = 0; next < msrs->len;) {
        unsigned n = MIN(msrs->len - next, MSR_BATCH);
        b->nmsrs = n;
        memcpy(b->entries, &g_array_index(msrs, struct kvm_msr_entry, next),
               n * sizeof(b->entries[0]));
        int done = MAX(kvm_ioctl(vcpu->fd, KVM_SET_MSRS, b), 0);
        if (done < (int)n && !msr_is(vcpu, &b->entries[done]))
            return fail(error, ERR_UNSUPPORTED,
                        "vCPU %u: KVM refuses value 0x%llx for MSR 0x%x", vcpu->index,
                        b->entries[done].data, b->entries[done].index);
        next += done + (done < (int)n);
    }
    return true;
}

/* ---- the whole ---- */

bool cpu_state_get(Vcpu *vcpu, CpuState *state, GError **error)
{
    const char *what = "registers";
    int r = kvm_ioctl(vcpu->fd, KVM_GET_REGS, &state->regs);
    if (r >= 0 && (what = "special registers"))
        r = get_sregs(vcpu, &state->sregs);
    if (r >= 0 && (what = "XSAVE area"))
        r = kvm_ioctl(vcpu->fd, vcpu->kvm->xsave_size ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
                      state->xsave);
    if (r >= 0 && (what = "XCRs"))
        r = kvm_ioctl(vcpu->fd, KVM_GET_XCRS, &state->xcrs);
    if (r >= 0 && vcpu->kvm->irqchip != KVM_IRQCHIP_OFF && (what = "LAPIC"))
        r = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &state->lapic);
    if (r >= 0 && (what = "run state"))
        r = kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &state->mp);
    if (r >= 0 && (what = "events"))
        r = kvm_ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &state->events);
    if (r >= 0 && (what = "debug registers"))
        r = kvm_ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &state->debugregs);
    if (r < 0)
        return fail_errno(error, -r, "cannot read the %s of vCPU %u", what, vcpu->index);
    get_msrs(vcpu, state->msrs);
    r = kvm_ioctl(vcpu->fd, KVM_GET_TSC_KHZ, NULL);
    state->tsc_khz = MAX(r, 0);
    return true;
}

/* A guest that has measured its TSC wants that rate for good; hosts differ by 250 ppm at most. */
static void set_tsc_khz(Vcpu *vcpu, uint32_t khz)
{
    int now = kvm_ioctl(vcpu->fd, KVM_GET_TSC_KHZ, NULL);
    if (!khz || now <= 0 || ABS((int64_t)khz - now) * 4000 <= now)
        return;
    int r = kvm_ioctl(vcpu->fd, KVM_SET_TSC_KHZ, GUINT_TO_POINTER(khz));
    if (r < 0 && vcpu->index == 0)
        warn_report("the guest's TSC ran at %u kHz and this host cannot change its own %d kHz", khz,
                    now);
}

/* What the source had pending: set in full, whatever is pending here. */
static struct kvm_vcpu_events events_to_set(const CpuState *state)
{
    struct kvm_vcpu_events events = state->events;
    events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR;
    return events;
}

bool cpu_state_set(Vcpu *vcpu, const CpuState *state, GError **error)
{
    struct kvm_vcpu_events events = events_to_set(state);
    const char *what = "special registers";
    vcpu->run->ready_for_interrupt_injection = false;   /* that was another state */
    kvm_slots_apply(vcpu->kvm->slots);      /* some MSRs name memory that KVM reads or writes */
    set_tsc_khz(vcpu, state->tsc_khz);
    int r = set_sregs(vcpu, &state->sregs);
    if (r >= 0 && (what = "registers"))
        r = kvm_ioctl(vcpu->fd, KVM_SET_REGS, (void *)&state->regs);
    if (r >= 0 && (what = "XCRs"))
        r = kvm_ioctl(vcpu->fd, KVM_SET_XCRS, (void *)&state->xcrs);
    if (r >= 0 && (what = "XSAVE area"))
        r = kvm_ioctl(vcpu->fd, KVM_SET_XSAVE, state->xsave);
    if (r >= 0 && vcpu->kvm->irqchip != KVM_IRQCHIP_OFF && (what = "LAPIC"))
        r = kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, (void *)&state->lapic);
    if (r >= 0 && !set_msrs(vcpu, state->msrs, error))
        return false;
    if (r >= 0 && (what = "run state"))
        r = kvm_ioctl(vcpu->fd, KVM_SET_MP_STATE, (void *)&state->mp);
    if (r >= 0 && (what = "debug registers"))
        r = kvm_ioctl(vcpu->fd, KVM_SET_DEBUGREGS, (void *)&state->debugregs);
    if (r >= 0 && (what = "events"))
        r = kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events);
    return r >= 0 || fail_errno(error, -r, "cannot set the %s of vCPU %u", what, vcpu->index);
}

/* ---- reset ---- */

/*
 * A vCPU that KVM has just made is as RESET leaves it (SDM vol. 3, 9.1.1; the boot processor
 * runnable, the others waiting for SIPI), so that state is kept before the first run and set again.
 */
void vcpu_reset(Vcpu *vcpu)
{
    g_autoptr(GError) error = NULL;
    vcpu->waiting = false;
    if (!vcpu->reset_state) {
        vcpu->reset_state = cpu_state_new(vcpu->kvm);
        if (!cpu_state_get(vcpu, vcpu->reset_state, &error))
            error_report(error);
    } else if (!vcpu->pristine && !cpu_state_set(vcpu, vcpu->reset_state, &error)) {
        error_report(error);
    }
    vcpu->pristine = true;
}

/* ---- direct kernel boot ---- */

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode)
{
    return (struct kvm_segment){
        .limit = UINT32_MAX, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1,
        .l = long_mode, .db = !long_mode,
    };
}

enum {
    CR0_PE = 1 << 0, CR0_ET = 1 << 4, CR0_NE = 1 << 5, CR4_PAE = 1 << 5,
    EFER_LME = 1 << 8, EFER_LMA = 1 << 10,
    BOOT_CS = 0x10, BOOT_DS = 0x18,         /* Documentation/arch/x86/boot.rst, 64-bit protocol */
    CODE_READ = 11, DATA_WRITE = 3,
};
#define CR0_PG (1u << 31)

/*
 * What firmware does on every CPU and a kernel counts on (Linux gives up PAT without it): all
 * memory is write-back but the hole below 4 GiB where devices are (SDM vol. 3, 11.11).
 */
static void set_mtrrs(Vcpu *vcpu)
{
    enum { PHYSBASE0 = 0x200, PHYSMASK0, DEF_TYPE = 0x2ff, WRITE_BACK = 6, ENABLE = 1 << 11 };
    const uint64_t hole = 0xc0000000, size = GiB;
    struct {
        uint32_t nmsrs, pad;            /* as struct kvm_msrs */
        struct kvm_msr_entry entries[3];
    } b = {
        .nmsrs = 3,
        .entries = {
            { .index = PHYSBASE0, .data = hole },                   /* type 0: uncacheable */
            { .index = PHYSMASK0,
              .data = (((1ull << cpu_model_phys_bits(vcpu->model)) - 1) & ~(size - 1)) | ENABLE },
            { .index = DEF_TYPE, .data = WRITE_BACK | ENABLE },
        },
    };
    if (cpu_model_feature(vcpu->model, "mtrr"))
        kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &b);
    vcpu->pristine = false;
}

void kvm_vcpu_set_boot_regs(Vcpu *vcpu, const BootRegs *boot)
{
    if (boot->mode == BOOT_NONE)
        return;
    for (unsigned i = 0; i < vcpu->kvm->vcpus->len; i++)
        set_mtrrs(vcpu->kvm->vcpus->pdata[i]);
    struct kvm_sregs s;
    struct kvm_regs regs = {
        .rip = boot->rip, .rsp = boot->rsp, .rsi = boot->rsi, .rbx = boot->rbx,
        .rflags = 2,                        /* bit 1 is always set */
    };
    bool long_mode = boot->mode == BOOT_LONG64;
    int r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &s);
    s.cs = flat_segment(BOOT_CS, CODE_READ, long_mode);
    s.ds = s.es = s.ss = s.fs = s.gs = flat_segment(BOOT_DS, DATA_WRITE, false);
    s.gdt = (struct kvm_dtable){ .base = boot->gdt_base, .limit = boot->gdt_limit };
    s.idt = (struct kvm_dtable){ 0 };
    s.cr0 = CR0_PE | CR0_ET | CR0_NE;
    if (long_mode) {
        s.cr0 |= CR0_PG;
        s.cr3 = boot->cr3;
        s.cr4 |= CR4_PAE;
        s.efer |= EFER_LME | EFER_LMA;
    }
    if (r >= 0)
        r = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &s);
    if (r >= 0)
        r = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
    if (r < 0)
        warn_report("vCPU %u: cannot set the registers for the kernel: %s", vcpu->index,
                    g_strerror(-r));
}
