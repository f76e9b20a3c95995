/*
 * KVM's own PIT (8254), as a device of the board: it has no registers here.  It is in the tree so that
 * -global and qom-get find the one thing that can be said of it: ticks that the guest was too slow for
 * are delivered late ("delay"), as KVM does by itself.
 */
#include "hw/core/device.h"

typedef struct KvmPit {
    Device dev;
    int lost_tick_policy;
} KvmPit;

static const char *const policies[] = { "delay", NULL };
static const Property kvm_pit_props[] = {
    PROP_OF("lost_tick_policy", KvmPit, lost_tick_policy, prop_enum, .words = policies,
            .help = "what becomes of ticks that the guest was too slow for"),
    {}
};

static bool kvm_pit_realize(Object *obj, GError **error)
{
    DEVICE(obj)->machine->intr->pit = true;
    return true;
}

static void kvm_pit_unrealize(Object *obj)
{
    DEVICE(obj)->machine->intr->pit = false;
}

static const Type kvm_pit_type = {
    .name = "kvm-pit",
    .parent = "device",
    .help = "programmable interval timer in KVM",
    .size = sizeof(KvmPit),
    .props = kvm_pit_props,
    .realize = kvm_pit_realize,
    .unrealize = kvm_pit_unrealize,
};
TYPE_REGISTER(kvm_pit_type)
