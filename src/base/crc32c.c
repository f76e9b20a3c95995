#include "src/base/crc32c.h"
#include <glib.h>
#include <stdbool.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

/* What four bits add, by the polynomial 0x1edc6f41 with its bits reversed. */
static const uint32_t nibbles[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t bytes)
{
    const uint8_t *at = data;

    crc = ~crc;
    for (; bytes; bytes--) {
        crc ^= *at++;
        crc = crc >> 4 ^ nibbles[crc & 15];
        crc = crc >> 4 ^ nibbles[crc & 15];
    }
    return ~crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2")))
static uint32_t by_instruction(uint32_t crc, const void *data, size_t bytes)
{
    const uint8_t *at = data;
    uint64_t sum = ~crc, word;

    for (; bytes >= sizeof(word); bytes -= sizeof(word), at += sizeof(word)) {
        memcpy(&word, at, sizeof(word));
        sum = __builtin_ia32_crc32di(sum, word);
    }
    for (; bytes; bytes--)
        sum = __builtin_ia32_crc32qi(sum, *at++);
    return ~(uint32_t)sum;
}

/* Not __builtin_cpu_supports: that has libgcc ask for all there is to know whenever a program starts, and in
 * a virtual machine each CPUID is an exit. */
static bool has_instruction(void)
{
    static gsize answer;                   /* 1: no, 2: yes */

    if (g_once_init_enter(&answer)) {
        unsigned a, b, c = 0, d;

        g_once_init_leave(&answer, __get_cpuid(1, &a, &b, &c, &d) && c & bit_SSE4_2 ? 2 : 1);
    }
    return answer == 2;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes)
{
#ifdef __x86_64__
    if (has_instruction())
        return by_instruction(crc, data, bytes);
#endif
    return crc32c_portable(crc, data, bytes);
}
