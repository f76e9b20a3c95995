#include "src/kvm/cpu.h"
#include <glib.h>

/* A level of n things takes the bits that n-1 needs (Intel SDM vol. 3, 9.9.1: widths are rounded
 * up). */
static unsigned width(unsigned n)
{
    return n > 1 ? 32 - __builtin_clz(n - 1) : 0;
}

unsigned smp_core_shift(const SmpTopology *smp)
{
    return width(smp->threads);
}

unsigned smp_die_shift(const SmpTopology *smp)
{
    return smp_core_shift(smp) + width(smp->cores);
}

unsigned smp_socket_shift(const SmpTopology *smp)
{
    return smp_die_shift(smp) + width(smp->dies);
}

SmpPlace smp_place(const SmpTopology *smp, unsigned index)
{
    unsigned threads = MAX(smp->threads, 1), cores = MAX(smp->cores, 1), dies = MAX(smp->dies, 1);
    return (SmpPlace){
        .thread = index % threads,
        .core = index / threads % cores,
        .die = index / threads / cores % dies,
        .socket = index / threads / cores / dies,
    };
}

uint32_t smp_apic_id(const SmpTopology *smp, unsigned index)
{
    SmpPlace at = smp_place(smp, index);
    return at.socket << smp_socket_shift(smp) | at.die << smp_die_shift(smp) |
           at.core << smp_core_shift(smp) | at.thread;
}
