/*
 * /dev/kvm, the VM and what it must offer.  Documentation/virt/kvm/api.rst of Linux is the
 * specification; ioctls and capabilities are called by its names.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include "src/kvm/kvm-int.h"

/*
 * Intel CPUs without "unrestricted guest" need four pages that the guest does not use: one of
 * identity map and three of TSS.  They go below the 16 MiB that end at 4 GiB, where the largest
 * flash lies.
 */
#define IDENTITY_MAP_ADDR 0xfeffc000ull
#define TSS_ADDR (IDENTITY_MAP_ADDR + 0x1000)

static const struct {
    int cap;
    const char *name;
    bool irqchip;                           /* needed with an in-kernel interrupt controller only */
} required[] = {
    { KVM_CAP_USER_MEMORY, "USER_MEMORY", false },
    { KVM_CAP_READONLY_MEM, "READONLY_MEM", false },
    { KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR", false },
    { KVM_CAP_SET_IDENTITY_MAP_ADDR, "SET_IDENTITY_MAP_ADDR", false },
    { KVM_CAP_EXT_CPUID, "EXT_CPUID", false },
    { KVM_CAP_MP_STATE, "MP_STATE", false },
    { KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS", false },
    { KVM_CAP_DEBUGREGS, "DEBUGREGS", false },
    { KVM_CAP_XSAVE, "XSAVE", false },
    { KVM_CAP_XCRS, "XCRS", false },
    { KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK", false },
    { KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT", false },
    { KVM_CAP_IOEVENTFD, "IOEVENTFD", false },
    { KVM_CAP_IOEVENTFD_ANY_LENGTH, "IOEVENTFD_ANY_LENGTH", false },
    { KVM_CAP_IRQCHIP, "IRQCHIP", true },
    { KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING", true },
    { KVM_CAP_IRQFD, "IRQFD", true },
    { KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI", true },
};

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
    int r;
    do {
        r = ioctl(fd, request, arg);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

bool kvm_check_extension(const Kvm *kvm, int extension)
{
    return kvm_ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, GINT_TO_POINTER(extension)) > 0;
}

static int open_device(GError **error)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    int err = errno;
    fail_errno(error, err, "cannot open /dev/kvm");
    if (err == ENOENT)
        error_hint(error, "load the module 'kvm-intel' or 'kvm-amd', and check that virtualization "
                          "is enabled in the firmware");
    else if (err == EACCES || err == EPERM)
        error_hint(error, "add the user to the group 'kvm', or give it access to /dev/kvm");
    return -1;
}

bool kvm_available(GError **error)
{
    auto_fd fd = open_device(error);
    return fd >= 0;
}

static bool check_api(Kvm *kvm, GError **error)
{
    int version = kvm_ioctl(kvm->fd, KVM_GET_API_VERSION, NULL);
    if (version != KVM_API_VERSION)
        return fail(error, ERR_UNSUPPORTED, "/dev/kvm speaks API version %d, not %d", version,
                    KVM_API_VERSION);
    return true;
}

static bool check_capabilities(Kvm *kvm, GError **error)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(required); i++) {
        if (required[i].irqchip && kvm->irqchip == KVM_IRQCHIP_OFF)
            continue;
        if (!kvm_check_extension(kvm, required[i].cap)) {
            fail(error, ERR_UNSUPPORTED, "the host's KVM lacks KVM_CAP_%s", required[i].name);
            return error_hint(error, "a Linux kernel of version 4.14 or later has it");
        }
    }
    return true;
}

static bool create_vm(Kvm *kvm, GError **error)
{
    kvm->vm_fd = kvm_ioctl(kvm->fd, KVM_CREATE_VM, NULL);
    if (kvm->vm_fd < 0) {
        int err = -kvm->vm_fd;
        fail_errno(error, err, "cannot create a KVM virtual machine");
        if (err == EBUSY)
            error_hint(error, "another hypervisor seems to use the CPU's virtualization");
        return false;
    }
    return true;
}

static bool place_special_pages(Kvm *kvm, GError **error)
{
    uint64_t identity = IDENTITY_MAP_ADDR;
    int r = kvm_ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    if (r < 0)
        return fail_errno(error, -r, "cannot place KVM's identity map");
    r = kvm_ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, (void *)TSS_ADDR);
    return r >= 0 || fail_errno(error, -r, "cannot place KVM's TSS");
}

/* Sizes and optional capabilities that the other parts go by. */
static void learn_layout(Kvm *kvm)
{
    int size = kvm_ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    kvm->run_size = MAX(size, (int)sizeof(struct kvm_run));
    int page = kvm_ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_COALESCED_MMIO);
    kvm->coalesced_page = MAX(page, 0);
    kvm->has_sregs2 = kvm_check_extension(kvm, KVM_CAP_SREGS2);
    int xsave = kvm_ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_XSAVE2);
    kvm->xsave_size = xsave > 0 ? xsave : 0;
}

Kvm *kvm_new(KvmIrqchip irqchip, const KvmEnv *env, GError **error)
{
    int fd = open_device(error);
    if (fd < 0)
        return NULL;

    Kvm *kvm = g_new0(Kvm, 1);
    kvm->fd = fd;
    kvm->vm_fd = -1;
    kvm->irqchip = irqchip;
    kvm->env = *env;
    kvm->vcpus = g_ptr_array_new();
    g_mutex_init(&kvm->mutex);
    g_cond_init(&kvm->changed);
    kvm_ask_supported_cpuid(kvm);
    if (!check_api(kvm, error) || !create_vm(kvm, error) || !check_capabilities(kvm, error) ||
        !place_special_pages(kvm, error))
        goto failed;
    learn_layout(kvm);
    if (irqchip != KVM_IRQCHIP_OFF) {
        kvm->intr = kvm_intr_new(kvm, error);
        if (!kvm->intr)
            goto failed;
    }
    return kvm;
failed:
    kvm_free(kvm);
    return NULL;
}

void kvm_free(Kvm *kvm)
{
    if (!kvm)
        return;
    if (kvm->asking)
        g_thread_join(kvm->asking);
    kvm_vcpus_destroy(kvm);
    kvm_slots_free(kvm->slots);
    kvm_intr_free(kvm->intr);
    if (kvm->vm_fd >= 0)
        close(kvm->vm_fd);
    close(kvm->fd);
    g_free(kvm->reset_state);
    g_free(kvm->features);
    g_free(kvm->supported);
    g_free(kvm->msrs.index);
    g_ptr_array_unref(kvm->vcpus);
    g_cond_clear(&kvm->changed);
    g_mutex_clear(&kvm->mutex);
    g_free(kvm);
}

IntrController *kvm_intr(Kvm *kvm)
{
    return kvm->intr ? kvm_intr_controller(kvm->intr) : NULL;
}

bool kvm_attach_memory(Kvm *kvm, AddressSpace *memory, AddressSpace *io, GError **error)
{
    if (kvm->slots)
        return fail(error, ERR_BAD_STATE, "KVM has its address spaces already");
    kvm->memory = memory;
    kvm->io = io;
    kvm->slots = kvm_slots_new(kvm);
    kvm_slots_attach(kvm->slots);
    return true;
}
