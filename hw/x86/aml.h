/*
 * A builder of ACPI machine language (ACPI 6.4, chapter 20).  AML is prefix code, so that a program
 * is written by calls in the order of its text:
 *
 *     aml_device(a, "RTC0");
 *     aml_name(a, "_HID"), aml_eisaid(a, "PNP0B00");
 *     aml_name(a, "_CRS"), aml_resources(a);
 *     aml_io(a, 0x70, 0x70, 1, 2);
 *     aml_end(a);
 *     aml_end(a);
 *
 * What opens a block (device, scope, method, field, package, buffer, if, …) is ended by aml_end,
 * which puts in the length.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Aml Aml;

Aml *aml_new(void);
void aml_free(Aml *a);
/* The code; every block must have ended. */
const GByteArray *aml_bytes(const Aml *a);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Aml, aml_free)

/* Blocks.  Paths: "\\_SB", "PCI0", "^FOO", "\\_SB.PCI0.ISA" (short segments are padded with _). */
void aml_scope(Aml *a, const char *path);
void aml_device(Aml *a, const char *name);
void aml_method(Aml *a, const char *name, unsigned arguments, bool serialized);
void aml_package(Aml *a, uint8_t elements);
void aml_if(Aml *a);                        /* then the condition */
void aml_else(Aml *a);
void aml_resources(Aml *a);                 /* a buffer of the descriptors below */
void aml_end(Aml *a);

/* Definitions.  aml_name: then its value. */
void aml_name(Aml *a, const char *name);
typedef enum AmlSpace { AML_SYSTEM_MEMORY, AML_SYSTEM_IO, AML_PCI_CONFIG } AmlSpace;
void aml_region(Aml *a, const char *name, AmlSpace space, uint64_t offset, uint64_t length);
typedef enum AmlAccess { AML_ACC_ANY, AML_ACC_BYTE, AML_ACC_WORD, AML_ACC_DWORD } AmlAccess;
void aml_field(Aml *a, const char *region, AmlAccess access);   /* a block: */
void aml_field_bits(Aml *a, const char *name, unsigned bits);   /* name NULL: not used */

/* Values. */
void aml_int(Aml *a, uint64_t value);
void aml_string(Aml *a, const char *text);
void aml_eisaid(Aml *a, const char *id);    /* "PNP0A08" */
void aml_uuid(Aml *a, const char *uuid);    /* ToUUID("33db4d5b-…") */
void aml_ref(Aml *a, const char *path);     /* a name's value; also a call, its arguments follow */
void aml_local(Aml *a, unsigned n);
void aml_arg(Aml *a, unsigned n);

/* Operators: operands follow, then the target where there is one (AML_NO_TARGET: none). */
typedef enum AmlOp {
    AML_NO_TARGET = 0x00, AML_STORE = 0x70, AML_ADD = 0x72, AML_SUBTRACT = 0x74,
    AML_SHIFT_LEFT = 0x79, AML_SHIFT_RIGHT = 0x7a, AML_AND = 0x7b, AML_OR = 0x7d, AML_NOT = 0x80,
    AML_CREATE_DWORD_FIELD = 0x8a,          /* buffer, byte index, then aml_ref of the new name */
    AML_LAND = 0x90, AML_LOR = 0x91, AML_LNOT = 0x92, AML_LEQUAL = 0x93, AML_LGREATER = 0x94,
    AML_LLESS = 0x95, AML_RETURN = 0xa4
} AmlOp;
void aml_op(Aml *a, AmlOp op);

/* Resource descriptors (6.4). */
void aml_io(Aml *a, uint16_t min, uint16_t max, uint8_t align, uint8_t length);
void aml_irq(Aml *a, unsigned irq);         /* ISA: edge, active high, exclusive */
/* Level, active high, shared (6.4.3.6). */
void aml_interrupts(Aml *a, const uint32_t *list, unsigned count);
#define AML_INTERRUPT_OFFSET 5              /* of the first number, for AML_CREATE_DWORD_FIELD */
void aml_dma(Aml *a, unsigned channel);
void aml_memory32(Aml *a, bool writable, uint32_t base, uint32_t length);
typedef enum AmlRange { AML_BUS_NUMBERS, AML_IO_RANGE, AML_MEM_RANGE, AML_MEM_CACHED } AmlRange;
void aml_word_range(Aml *a, AmlRange type, uint16_t min, uint16_t max);
void aml_dword_range(Aml *a, AmlRange type, uint32_t min, uint32_t max);
void aml_qword_range(Aml *a, AmlRange type, uint64_t min, uint64_t max);
