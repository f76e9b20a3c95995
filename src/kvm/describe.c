/* A vCPU's registers and code as text: `info registers`, and the log when it failed. */
#include <string.h>
#include "src/kvm/kvm-int.h"

#define CODE_BEFORE 8
#define CODE_BYTES 32

static void put_segment(GString *s, const char *name, const struct kvm_segment *seg)
{
    g_string_append_printf(s, "%-4s%04x %016llx %08x type=%u s=%u dpl=%u p=%u l=%u db=%u g=%u\n",
                           name, seg->selector, seg->base, seg->limit, seg->type, seg->s,
                           seg->dpl, seg->present, seg->l, seg->db, seg->g);
}

static void put_general(GString *s, const struct kvm_regs *r)
{
    const struct {
        const char *name;
        uint64_t value;
    } regs[] = {
        { "RAX", r->rax }, { "RBX", r->rbx }, { "RCX", r->rcx }, { "RDX", r->rdx },
        { "RSI", r->rsi }, { "RDI", r->rdi }, { "RBP", r->rbp }, { "RSP", r->rsp },
        { "R8 ", r->r8 }, { "R9 ", r->r9 }, { "R10", r->r10 }, { "R11", r->r11 },
        { "R12", r->r12 }, { "R13", r->r13 }, { "R14", r->r14 }, { "R15", r->r15 },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(regs); i++)
        g_string_append_printf(s, "%s=%016" G_GINT64_MODIFIER "x%c", regs[i].name, regs[i].value,
                               i % 4 == 3 ? '\n' : ' ');
    g_string_append_printf(s, "RIP=%016llx RFL=%08llx\n", r->rip, r->rflags);
}

/* Instruction bytes around RIP, read through the guest's page tables; "--" where nothing is. */
static void put_code(GString *s, Vcpu *vcpu, uint64_t linear)
{
    g_string_append(s, "Code=");
    for (unsigned i = 0; i < CODE_BYTES; i++) {
        struct kvm_translation t = { .linear_address = linear + i - CODE_BEFORE };
        uint8_t byte;
        bool there = vcpu->kvm->memory && kvm_ioctl(vcpu->fd, KVM_TRANSLATE, &t) >= 0 && t.valid;
        uint64_t length = 1;
        memory_read_enter();
        const uint8_t *p = NULL;
        if (there)
            p = dma_ptr(vcpu->kvm->memory, t.physical_address, &length, false);
        there = p != NULL;
        byte = p ? *p : 0;
        memory_read_exit();
        const char *format = i == CODE_BEFORE ? "<%02x> " : "%02x ";
        if (there)
            g_string_append_printf(s, format, byte);
        else
            g_string_append(s, "-- ");
    }
    g_string_append_c(s, '\n');
}

static void describe(Vcpu *vcpu, void *opaque)
{
    GString *s = opaque;
    struct kvm_regs r;
    struct kvm_sregs sr;
    struct kvm_mp_state mp = { 0 };
    if (kvm_ioctl(vcpu->fd, KVM_GET_REGS, &r) < 0 || kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sr) < 0) {
        g_string_append_printf(s, "CPU#%u: registers cannot be read\n", vcpu->index);
        return;
    }
    kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp);
    g_string_append_printf(s, "CPU#%u%s\n", vcpu->index,
                           mp.mp_state == KVM_MP_STATE_RUNNABLE ? "" : " (halted)");
    put_general(s, &r);
    put_segment(s, "ES", &sr.es);
    put_segment(s, "CS", &sr.cs);
    put_segment(s, "SS", &sr.ss);
    put_segment(s, "DS", &sr.ds);
    put_segment(s, "FS", &sr.fs);
    put_segment(s, "GS", &sr.gs);
    put_segment(s, "LDT", &sr.ldt);
    put_segment(s, "TR", &sr.tr);
    g_string_append_printf(s, "GDT=%016llx %04x IDT=%016llx %04x\n", sr.gdt.base, sr.gdt.limit,
                           sr.idt.base, sr.idt.limit);
    g_string_append_printf(s, "CR0=%08llx CR2=%016llx CR3=%016llx CR4=%08llx\n", sr.cr0, sr.cr2,
                           sr.cr3, sr.cr4);
    g_string_append_printf(s, "EFER=%04llx APICBASE=%08llx\n", sr.efer, sr.apic_base);
    put_code(s, vcpu, sr.cs.base + r.rip);
}

char *vcpu_describe(Vcpu *vcpu)
{
    GString *s = g_string_new(NULL);
    vcpu_call(vcpu, describe, s);
    return g_string_free(s, false);
}

/* ---- one register, by name ---- */

typedef struct RegisterCall {
    const char *name;
    uint64_t value;
    bool found;
} RegisterCall;

/* "rax", and "eax" for its lower half. */
static bool general_register(const char *name, const struct kvm_regs *r, uint64_t *ret)
{
    const struct {
        const char *name;
        uint64_t value;
    } regs[] = {
        { "ax", r->rax }, { "bx", r->rbx }, { "cx", r->rcx }, { "dx", r->rdx }, { "si", r->rsi },
        { "di", r->rdi }, { "bp", r->rbp }, { "sp", r->rsp }, { "ip", r->rip },
        { "flags", r->rflags }, { "8", r->r8 }, { "9", r->r9 }, { "10", r->r10 }, { "11", r->r11 },
        { "12", r->r12 }, { "13", r->r13 }, { "14", r->r14 }, { "15", r->r15 },
    };
    if (*name != 'r' && (*name != 'e' || g_ascii_isdigit(name[1])))
        return false;
    for (unsigned i = 0; i < G_N_ELEMENTS(regs); i++) {
        if (!strcmp(regs[i].name, name + 1)) {
            *ret = *name == 'e' ? (uint32_t)regs[i].value : regs[i].value;
            return true;
        }
    }
    return false;
}

static bool system_register(const char *name, const struct kvm_sregs *sr, uint64_t rip,
                            uint64_t *ret)
{
    const struct {
        const char *name;
        uint64_t value;
    } regs[] = {
        { "pc", sr->cs.base + rip }, { "cs", sr->cs.selector }, { "ds", sr->ds.selector },
        { "es", sr->es.selector }, { "ss", sr->ss.selector }, { "fs", sr->fs.selector },
        { "gs", sr->gs.selector }, { "cr0", sr->cr0 }, { "cr2", sr->cr2 }, { "cr3", sr->cr3 },
        { "cr4", sr->cr4 }, { "efer", sr->efer },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(regs); i++) {
        if (!strcmp(regs[i].name, name)) {
            *ret = regs[i].value;
            return true;
        }
    }
    return false;
}

static void find_register(Vcpu *vcpu, void *opaque)
{
    RegisterCall *call = opaque;
    struct kvm_regs r;
    struct kvm_sregs sr;
    if (kvm_ioctl(vcpu->fd, KVM_GET_REGS, &r) < 0 || kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sr) < 0)
        return;
    call->found = general_register(call->name, &r, &call->value) ||
                  system_register(call->name, &sr, r.rip, &call->value);
}

bool vcpu_register(Vcpu *vcpu, const char *name, uint64_t *ret)
{
    RegisterCall call = { .name = name };
    vcpu_call(vcpu, find_register, &call);
    *ret = call.value;
    return call.found;
}

typedef struct Translation {
    uint64_t linear, *pages;
    unsigned count, done;
} Translation;

static void translate(Vcpu *vcpu, void *opaque)
{
    Translation *t = opaque;
    for (; t->done < t->count; t->done++) {
        struct kvm_translation k = { .linear_address = t->linear + t->done * 4096ull };
        if (kvm_ioctl(vcpu->fd, KVM_TRANSLATE, &k) < 0 || !k.valid)
            return;
        t->pages[t->done] = k.physical_address;
    }
}

unsigned vcpu_translate(Vcpu *vcpu, uint64_t linear, uint64_t *ret_pages, unsigned count)
{
    Translation t = { linear, ret_pages, count, 0 };
    vcpu_call(vcpu, translate, &t);
    return t.done;
}
