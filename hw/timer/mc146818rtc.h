/* The real-time clock and its CMOS memory, as the board and the ACPI timer code see it. */
#pragma once
#include "hw/core/device.h"

/* CMOS bytes that the board fills in (IBM PC/AT Technical Reference; the higher ones are
 * Bochs' and QEMU's convention). */
enum {
    CMOS_SHUTDOWN_STATUS = 0x0f,
    CMOS_EQUIPMENT = 0x14,
    CMOS_BASE_KB = 0x15,                    /* two bytes, as all below up to ABOVE_4G */
    CMOS_EXT_KB = 0x17,
    CMOS_EXT_KB_POST = 0x30,
    CMOS_CENTURY = 0x32,
    CMOS_ABOVE_16M_64K = 0x34,
    CMOS_BOOT_ORDER_3 = 0x38,
    CMOS_BOOT_ORDER_12 = 0x3d,
    CMOS_ABOVE_4G_64K = 0x5b,               /* three bytes */
    CMOS_CPUS_MINUS_1 = 0x5f,
};

/* A byte that keeps its value over a reset; @index 0x0e to 0x7f. */
void rtc_set_cmos(Device *rtc, unsigned index, uint8_t value);
