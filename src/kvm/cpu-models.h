/* The table of CPU models. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef struct CpuModelDef {
    const char *name, *based_on;            /* based_on: what is not said here is as there */
    const char *vendor;
    uint16_t family, model, stepping;
    uint32_t level, xlevel;
    const char *model_id;
    const char *add, *drop;                 /* features, with blanks between */
    uint16_t l3_mib;                        /* EPYC: of a core complex; 0: as based_on */
} CpuModelDef;

#define CPU_TYPE_SUFFIX "-x86_64-cpu"

/* "host" and "max" are no entries: they are what the host offers. */
extern const CpuModelDef cpu_model_defs[];
extern const unsigned cpu_model_def_count;
const CpuModelDef *cpu_model_def(const char *name);     /* "X-v1" is X; NULL: none */
