/* The monitor's commands that look at memory, I/O ports and values. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "monitor/hmp.h"
#include "schema/commands.h"
#include "src/base/util.h"

/* More would keep the main loop for too long. */
#define SUM_MAX_BYTES (256 * MiB)

/* "/NFS": count, format (x, d, u, o, c), size (b, h, w, g). */
typedef struct DumpFormat {
    unsigned count, size;
    char format;
} DumpFormat;

static bool parse_format(const char *text, DumpFormat *f, GError **error)
{
    bool sized = false;
    *f = (DumpFormat){ 1, 4, 'x' };
    if (g_ascii_isdigit(*text))
        f->count = strtoul(text, (char **)&text, 10);
    for (; *text; text++) {
        const char *sizes = "bhwg", *at = strchr(sizes, *text);
        if (at) {
            f->size = 1u << (at - sizes);
            sized = true;
        } else if (strchr("xduoc", *text)) {
            f->format = *text;
        } else if (*text == 'i') {
            fail(error, ERR_UNSUPPORTED, "there is no disassembler");
            return error_hint(error, "/16xb shows the bytes");
        } else {
            return fail(error, ERR_INVALID_PARAMETER,
                        "bad format '%c': /N, then x d u o or c, then b h w or g", *text);
        }
    }
    if (f->format == 'c' && !sized)
        f->size = 1;
    if (!f->count || f->count > 65536)
        return fail(error, ERR_INVALID_PARAMETER, "the count must be 1 to 65536");
    return true;
}

/* Takes "/FORMAT" off the arguments, if it is there. */
static bool take_format(Hmp *h, DumpFormat *f, GError **error)
{
    *f = (DumpFormat){ 1, 4, 'x' };
    if (!h->count || *h->words[0] != '/')
        return true;
    bool ok = parse_format(h->words[0] + 1, f, error);
    h->words++;
    h->count--;
    h->rest += strcspn(h->rest, " \t");
    return ok;
}

/* What is left must be @count words: if not, it is told. */
static bool check_words(Hmp *h, unsigned count, const char *usage)
{
    if (h->count != count)
        hmp_print(h, "usage: %s\n", usage);
    return h->count == count;
}

static void print_letter(Hmp *h, int c)
{
    switch (c) {
    case '\'':
    case '\\':
        hmp_print(h, "'\\%c'", c);
        break;
    case '\n':
        hmp_print(h, "'\\n'");
        break;
    case '\r':
        hmp_print(h, "'\\r'");
        break;
    default:
        hmp_print(h, g_ascii_isprint(c) ? "'%c'" : "'\\x%02x'", c);
    }
}

/* In columns, as wide as the widest value. */
static void print_value(Hmp *h, const DumpFormat *f, uint64_t value)
{
    int bits = f->size * 8, digits = (bits * 10 + 32) / 33;
    int64_t as_signed = (int64_t)(value << (64 - bits)) >> (64 - bits);
    hmp_print(h, " ");
    switch (f->format) {
    case 'd':
        hmp_print(h, "%*" PRId64, digits, as_signed);
        break;
    case 'u':
        hmp_print(h, "%*" PRIu64, digits, value);
        break;
    case 'o':
        hmp_print(h, "%#*" PRIo64, (bits + 2) / 3, value);
        break;
    case 'c':
        print_letter(h, value & 0xff);
        break;
    default:
        hmp_print(h, "0x%0*" PRIx64, bits / 4, value);
    }
}

/* ---- memory ---- */

/* Where @address is in physical memory; *length gets less where its page ends. */
static bool find_physical(Vcpu *vcpu, uint64_t address, uint64_t *ret, unsigned *length)
{
    uint64_t in_page = address % 4096, page;
    if (!vcpu_translate(vcpu, address - in_page, &page, 1))
        return false;
    *length = MIN(*length, 4096 - in_page);
    *ret = page + in_page;
    return true;
}

/* @vcpu: whose addresses these are; NULL: they are physical. */
static bool read_memory(Hmp *h, Vcpu *vcpu, uint64_t address, uint8_t *data, unsigned size)
{
    AddressSpace *as = h->vm->machine ? h->vm->machine->memory : NULL;
    for (unsigned n; as && size; data += n, address += n, size -= n) {
        uint64_t physical = address;
        n = size;
        if ((vcpu && !find_physical(vcpu, address, &physical, &n)) ||
            address_space_read(as, physical, data, n) != MEM_OK)
            return false;
    }
    return as != NULL;
}

static void dump_memory(Hmp *h, const char *usage, Vcpu *vcpu, GError **error)
{
    DumpFormat f;
    uint64_t address;
    if (!take_format(h, &f, error) || !check_words(h, 1, usage) ||
        !hmp_expression(h, h->words[0], &address, error))
        return;
    for (unsigned i = 0; i < f.count; i++, address += f.size) {
        uint8_t bytes[8] = { 0 };
        if (i % (16 / f.size) == 0)
            hmp_print(h, "%s%016" PRIx64 ":", i ? "\n" : "", address);
        if (!read_memory(h, vcpu, address, bytes, f.size)) {
            hmp_print(h, " Cannot access memory\n");
            return;
        }
        print_value(h, &f, ld_le64(bytes));
    }
    hmp_print(h, "\n");
}

void hmp_xp(Hmp *h, GError **error)
{
    dump_memory(h, "xp [/FORMAT] ADDRESS", NULL, error);
}

void hmp_x(Hmp *h, GError **error)
{
    if (h->vm->kvm && h->cpu < (int)kvm_vcpu_count(h->vm->kvm))
        dump_memory(h, "x [/FORMAT] ADDRESS", kvm_vcpu(h->vm->kvm, h->cpu), error);
    else
        fail(error, ERR_INVALID_PARAMETER, "there is no CPU %d", h->cpu);
}

/* ADDRESS and SIZE, the first two words. */
static bool take_range(Hmp *h, uint64_t *address, uint64_t *size, GError **error)
{
    return hmp_expression(h, h->words[0], address, error) &&
           hmp_expression(h, h->words[1], size, error);
}

static bool take_save_range(Hmp *h, uint64_t *address, uint64_t *size, GError **error)
{
    if (!take_range(h, address, size, error))
        return false;
    return MAX(*address, *size) <= INT64_MAX ||
           fail(error, ERR_INVALID_PARAMETER, "the address or the size is too large");
}

void hmp_pmemsave(Hmp *h, GError **error)
{
    uint64_t address, size;
    if (take_save_range(h, &address, &size, error))
        qmp_pmemsave(h->vm, address, size, h->words[2], error);
}

void hmp_memsave(Hmp *h, GError **error)
{
    uint64_t address, size;
    if (take_save_range(h, &address, &size, error))
        qmp_memsave(h->vm, address, size, h->words[2], true, h->cpu, error);
}

/* sum(1)'s, of System V's BSD. */
void hmp_sum(Hmp *h, GError **error)
{
    uint64_t address, size;
    uint16_t sum = 0;
    if (!take_range(h, &address, &size, error))
        return;
    if (size > SUM_MAX_BYTES) {
        fail(error, ERR_LIMIT, "a sum is of %u MiB at most", (unsigned)(SUM_MAX_BYTES / MiB));
        return;
    }
    while (size) {
        uint8_t bytes[4096];
        unsigned n = MIN(size, sizeof(bytes));
        if (!read_memory(h, NULL, address, bytes, n)) {
            fail(error, ERR_INVALID_PARAMETER, "there is no memory at 0x%" PRIx64 " to 0x%" PRIx64,
                 address, address + n - 1);
            return;
        }
        for (unsigned i = 0; i < n; i++)
            sum = (uint16_t)((sum >> 1 | sum << 15) + bytes[i]);
        address += n;
        size -= n;
    }
    hmp_print(h, "%05u\n", sum);
}

/* ---- ports ---- */

enum { PORTS = 0x10000 };

/* The size's letter in the processor's manuals. */
static char port_letter(unsigned size)
{
    return size == 1 ? 'b' : size == 2 ? 'w' : 'l';
}

/* [/FORMAT] PORT, and after it @more words. */
static bool take_port(Hmp *h, DumpFormat *f, unsigned more, const char *usage, uint64_t *port,
                      GError **error)
{
    if (!take_format(h, f, error) || !check_words(h, 1 + more, usage) ||
        !hmp_expression(h, h->words[0], port, error))
        return false;
    if (!h->vm->machine || !h->vm->machine->io)
        return fail(error, ERR_UNSUPPORTED, "the machine has no I/O ports");
    if (f->size > 4)
        return fail(error, ERR_INVALID_PARAMETER, "a port has 1, 2 or 4 bytes: b, h or w");
    return *port < PORTS || fail(error, ERR_INVALID_PARAMETER, "ports are 0 to 0xffff");
}

void hmp_port_read(Hmp *h, GError **error)
{
    DumpFormat f;
    uint64_t port, value = 0;
    if (!take_port(h, &f, 0, "i [/FORMAT] PORT", &port, error))
        return;
    if (address_space_load(h->vm->machine->io, port, f.size, &value) != MEM_OK)
        value = UINT32_MAX;                /* nothing drives the bus */
    hmp_print(h, "port%c[0x%04x] = 0x%0*x\n", port_letter(f.size), (unsigned)port, (int)f.size * 2,
              (unsigned)(value & (UINT32_MAX >> (32 - f.size * 8))));
}

void hmp_port_write(Hmp *h, GError **error)
{
    DumpFormat f;
    uint64_t port, value;
    if (take_port(h, &f, 1, "o [/FORMAT] PORT VALUE", &port, error) &&
        hmp_expression(h, h->words[1], &value, error))
        address_space_store(h->vm->machine->io, port, f.size, value);
}

/* ---- values ---- */

void hmp_print_value(Hmp *h, GError **error)
{
    DumpFormat f;
    uint64_t value;
    if (!take_format(h, &f, error) || !hmp_expression(h, h->rest, &value, error))
        return;
    switch (f.format) {
    case 'd':
        hmp_print(h, "%" PRId64, (int64_t)value);
        break;
    case 'u':
        hmp_print(h, "%" PRIu64, value);
        break;
    case 'o':
        hmp_print(h, "%#" PRIo64, value);
        break;
    case 'c':
        print_letter(h, value & 0xff);
        break;
    default:
        hmp_print(h, "%#" PRIx64, value);
    }
    hmp_print(h, "\n");
}

void hmp_cpu(Hmp *h, GError **error)
{
    uint64_t cpu;
    if (!hmp_expression(h, h->words[0], &cpu, error))
        return;
    if (!h->vm->kvm || cpu >= kvm_vcpu_count(h->vm->kvm))
        fail(error, ERR_INVALID_PARAMETER, "invalid CPU index %s", h->words[0]);
    else if (h->session)
        hmp_session_set_cpu(h->session, (int)cpu);
}
