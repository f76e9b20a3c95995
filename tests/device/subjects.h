/* Every type that a test of all types takes as its subject: creatable devices, and machines. */
#pragma once
#include "tests/device/harness-int.h"

typedef struct SubjectRange {
    AddressSpace *as;
    uint64_t addr, size;
} SubjectRange;

typedef struct SubjectMachine {
    TestMachine *m;
    Object *top;                           /* the device "dut", or the whole machine */
    PciDevice *pci;                        /* if it is one */
    GArray *ranges;                        /* of SubjectRange: its I/O as mapped now */
} SubjectMachine;

GPtrArray *subject_types(void);            /* of const Type, sorted: devices, then machines */
/* A machine with one device of that type (on the board @machine), or a machine of that type. */
SubjectMachine subject_boot(const Type *type, const char *machine);
/* With other backends (@before) and properties (",name=value…") than the type needs at least. */
SubjectMachine subject_boot_with(const Type *type, const char *machine, const char *before,
                                 const char *props);
void subject_free(SubjectMachine *s);
void subject_find_ranges(SubjectMachine *s);
