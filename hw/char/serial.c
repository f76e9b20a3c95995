/*
 * 16550A UART on the ISA bus ("isa-serial": COM1 to COM4).  Register names are those of the data
 * sheet (National PC16550D) and of <linux/serial_reg.h>.
 *
 * Departures: the transmitter takes no time (a byte put in THR is on its way to the character device
 * at once, THRE goes low only while that one is slow), and OUT2 does not gate the interrupt.
 */
#include <linux/serial_reg.h>
#include <string.h>
#include "hw/char/char-out.h"
#include "hw/timer/guest-timer.h"
#include "hw/x86/isa.h"
#include "src/base/trace.h"
#include "src/base/util.h"

#define FIFO_SIZE 16
#define SERIAL_PORTS 8
#define SERIAL_CLOCK 115200             /* baud rate at divisor 1 */
#define MAX_COM 4

typedef struct Serial {
    IsaDevice isa;                      /* first: a Serial * is a Device * */
    Region io;
    IrqLine *irq;
    CharFront front;
    Chardev *chardev;                   /* properties */
    int32_t index;
    uint32_t iobase, irq_number;
    /* Registers; VM lock. */
    uint8_t ier, fcr, lcr, mcr, lsr, msr, scr;
    uint16_t divisor;
    bool thr_pending;                   /* "THR empty" not yet told by IIR */
    bool timeout_pending;               /* bytes below the trigger level have waited long enough */
    uint32_t rx_head, rx_length;
    uint8_t rx[FIFO_SIZE];
    CharOut out;                        /* the wire */
    GuestTimer rx_timeout;
    LoopBh accept;                      /* tells the chardev that there is room again */
} Serial;

static bool fifo_on(const Serial *s)
{
    return s->fcr & UART_FCR_ENABLE_FIFO;
}

static unsigned rx_trigger(const Serial *s)
{
    static const uint8_t levels[] = { 1, 4, 8, 14 };

    return fifo_on(s) ? levels[s->fcr >> 6] : 1;
}

/* The interrupt of highest priority that is pending, as IIR's low nibble (table 5 of the sheet). */
static uint8_t serial_iir(const Serial *s)
{
    if (s->ier & UART_IER_RLSI && s->lsr & (UART_LSR_OE | UART_LSR_PE | UART_LSR_FE | UART_LSR_BI))
        return UART_IIR_RLSI;
    if (s->ier & UART_IER_RDI && s->rx_length && s->rx_length >= rx_trigger(s))
        return UART_IIR_RDI;
    if (s->ier & UART_IER_RDI && s->timeout_pending)
        return UART_IIR_RX_TIMEOUT;
    if (s->ier & UART_IER_THRI && s->thr_pending)
        return UART_IIR_THRI;
    if (s->ier & UART_IER_MSI && s->msr & UART_MSR_ANY_DELTA)
        return UART_IIR_MSI;
    return UART_IIR_NO_INT;
}

static void serial_update_irq(Serial *s)
{
    irq_set(s->irq, serial_iir(s) != UART_IIR_NO_INT);
}

/* Four character times (data sheet, "FIFO interrupt mode operation"). */
static int64_t rx_timeout_ns(const Serial *s)
{
    unsigned bits = 1 + 5 + (s->lcr & UART_LCR_WLEN8) + !!(s->lcr & UART_LCR_PARITY) +
                    (s->lcr & UART_LCR_STOP ? 2 : 1);

    return 4 * bits * (1000000000ll / SERIAL_CLOCK) * MAX(s->divisor, 1);
}

static void serial_rx_timeout(void *opaque)
{
    Serial *s = opaque;

    s->timeout_pending = fifo_on(s) && s->rx_length;
    serial_update_irq(s);
}

static void rx_clear(Serial *s)
{
    s->rx_head = s->rx_length = 0;
    s->timeout_pending = false;
    s->lsr &= ~(UART_LSR_DR | UART_LSR_BI);
    guest_timer_cancel(&s->rx_timeout);
}

static void rx_put(Serial *s, uint8_t byte)
{
    unsigned room = fifo_on(s) ? FIFO_SIZE : 1;

    if (s->rx_length >= room) {
        s->lsr |= UART_LSR_OE;
        if (!fifo_on(s))
            s->rx[s->rx_head] = byte;   /* RBR has the newer one, a FIFO keeps what it has */
    } else {
        s->rx[(s->rx_head + s->rx_length++) % FIFO_SIZE] = byte;
        s->lsr |= UART_LSR_DR;
        if (fifo_on(s))
            guest_timer_set(&s->rx_timeout, machine_clock_ns(s->isa.dev.machine) + rx_timeout_ns(s));
    }
    serial_update_irq(s);
}

/* Reading RBR. */
static uint8_t rx_get(Serial *s)
{
    if (!s->rx_length)
        return 0;
    uint8_t byte = s->rx[s->rx_head];
    s->rx_head = (s->rx_head + 1) % FIFO_SIZE;
    s->rx_length--;
    s->timeout_pending = false;
    if (!s->rx_length) {
        s->lsr &= ~(UART_LSR_DR | UART_LSR_BI);
        guest_timer_cancel(&s->rx_timeout);
    } else if (fifo_on(s)) {
        guest_timer_set(&s->rx_timeout, machine_clock_ns(s->isa.dev.machine) + rx_timeout_ns(s));
    }
    if (!(s->mcr & UART_MCR_LOOP))
        loop_bh_schedule(&s->accept);
    serial_update_irq(s);
    return byte;
}

/* THRE and TEMT: a whole FIFO's worth fits on the wire. */
static void tx_update(Serial *s)
{
    bool ready = char_out_room(&s->out) >= FIFO_SIZE;

    if (ready && !(s->lsr & UART_LSR_THRE))
        s->thr_pending = true;
    if (ready)
        s->lsr |= UART_LSR_THRE | UART_LSR_TEMT;
    else
        s->lsr &= ~(UART_LSR_THRE | UART_LSR_TEMT);
}

static void serial_drained(void *opaque)
{
    Serial *s = opaque;

    tx_update(s);
    serial_update_irq(s);
}

/* Writing THR. */
static void tx_put(Serial *s, uint8_t byte)
{
    s->thr_pending = false;             /* as reading IIR does: */
    serial_update_irq(s);               /* the line falls, so that "empty again" is an edge */
    if (s->mcr & UART_MCR_LOOP) {
        rx_put(s, byte);
        s->thr_pending = true;
    } else {
        if (!char_out_put(&s->out, byte))
            guest_error("isa-serial", "byte 0x%02x written while THR was full", byte);
        s->lsr &= ~UART_LSR_THRE;
        tx_update(s);
    }
    serial_update_irq(s);
}

static void serial_write_ier(Serial *s, uint8_t value)
{
    uint8_t changed = s->ier ^ value;

    s->ier = value & 0x0f;
    if (changed & UART_IER_THRI)
        s->thr_pending = s->ier & UART_IER_THRI && s->lsr & UART_LSR_THRE;
    serial_update_irq(s);
}

static void serial_write_fcr(Serial *s, uint8_t value)
{
    bool toggled = (s->fcr ^ value) & UART_FCR_ENABLE_FIFO;

    if (toggled || value & UART_FCR_CLEAR_RCVR) {
        rx_clear(s);
        loop_bh_schedule(&s->accept);
    }
    if (toggled || value & UART_FCR_CLEAR_XMIT)
        s->thr_pending = true;
    s->fcr = value & UART_FCR_ENABLE_FIFO ? value & (UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK)
                                          : 0;
    serial_update_irq(s);
}

static uint8_t serial_read_iir(Serial *s)
{
    uint8_t iir = serial_iir(s);

    if (iir == UART_IIR_THRI) {
        s->thr_pending = false;         /* reading IIR is what acknowledges it */
        serial_update_irq(s);
    }
    return iir | (fifo_on(s) ? 0xc0 : 0);
}

static uint8_t serial_read_lsr(Serial *s)
{
    uint8_t lsr = s->lsr;

    if (lsr & (UART_LSR_OE | UART_LSR_BI)) {
        s->lsr &= ~(UART_LSR_OE | UART_LSR_BI);
        serial_update_irq(s);
    }
    return lsr;
}

static uint8_t serial_read_msr(Serial *s)
{
    if (s->mcr & UART_MCR_LOOP)         /* the four outputs, looped back to the inputs */
        return (s->mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0) |
               (s->mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) |
               (s->mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) |
               (s->mcr & UART_MCR_RTS ? UART_MSR_CTS : 0);
    uint8_t msr = s->msr;
    s->msr &= ~UART_MSR_ANY_DELTA;
    serial_update_irq(s);
    return msr;
}

static uint64_t serial_read(void *opaque, uint64_t offset, unsigned size)
{
    Serial *s = opaque;
    bool dlab = s->lcr & UART_LCR_DLAB;
    uint8_t value = 0;

    switch (offset) {
    case UART_RX:
        value = dlab ? s->divisor & 0xff : rx_get(s);
        break;
    case UART_IER:
        value = dlab ? s->divisor >> 8 : s->ier;
        break;
    case UART_IIR:
        value = serial_read_iir(s);
        break;
    case UART_LCR:
        value = s->lcr;
        break;
    case UART_MCR:
        value = s->mcr;
        break;
    case UART_LSR:
        value = serial_read_lsr(s);
        break;
    case UART_MSR:
        value = serial_read_msr(s);
        break;
    case UART_SCR:
        value = s->scr;
        break;
    }
    TRACE(serial_read, "port 0x%x register %u value 0x%02x", s->iobase, (unsigned)offset, value);
    return value;
}

static void serial_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Serial *s = opaque;
    bool dlab = s->lcr & UART_LCR_DLAB;

    TRACE(serial_write, "port 0x%x register %u value 0x%02x", s->iobase, (unsigned)offset,
          (unsigned)value);
    switch (offset) {
    case UART_TX:
        if (dlab)
            s->divisor = (s->divisor & 0xff00) | value;
        else
            tx_put(s, value);
        break;
    case UART_IER:
        if (dlab)
            s->divisor = (s->divisor & 0xff) | value << 8;
        else
            serial_write_ier(s, value);
        break;
    case UART_FCR:
        serial_write_fcr(s, value);
        break;
    case UART_LCR:
        s->lcr = value;
        break;
    case UART_MCR:
        s->mcr = value & 0x1f;
        serial_update_irq(s);
        break;
    case UART_LSR:
    case UART_MSR:
        break;                          /* factory test only */
    case UART_SCR:
        s->scr = value;
        break;
    }
}

static const IoOps serial_ops = {
    .read = serial_read,
    .write = serial_write,
    .guest = { .min = 1, .max = 8, .unaligned = true },
    .device = { .min = 1, .max = 1 },
};

static size_t serial_can_receive(void *opaque)
{
    Serial *s = opaque;

    if (s->mcr & UART_MCR_LOOP)
        return 0;
    return (fifo_on(s) ? FIFO_SIZE : 1) - MIN(s->rx_length, fifo_on(s) ? FIFO_SIZE : 1);
}

static void serial_receive(void *opaque, const uint8_t *data, size_t length)
{
    Serial *s = opaque;

    for (size_t i = 0; i < length; i++)
        rx_put(s, data[i]);
}

static void serial_event(void *opaque, CharEvent event)
{
    Serial *s = opaque;

    if (event == CHAR_BREAK && serial_can_receive(s)) {
        s->lsr |= UART_LSR_BI;
        rx_put(s, 0);                   /* a break is received as a zero with BI set */
    }
}

static void serial_writable(void *opaque)
{
    Serial *s = opaque;

    char_out_flush(&s->out);
}

static void serial_accept(void *opaque)
{
    Serial *s = opaque;

    char_front_accept_input(&s->front);
}

/* The machine stopped: what the guest has written is not to wait for it. */
static void serial_run_state(void *opaque, bool running)
{
    Serial *s = opaque;

    if (!running)
        char_out_flush(&s->out);
}

static Serial *find_com(const Bus *bus, const Serial *besides, int32_t index)
{
    for (guint i = 0; bus && i < bus->devices->len; i++) {
        Serial *other = g_ptr_array_index(bus->devices, i);
        if (other != besides && object_is_a(OBJECT(other), "isa-serial") && other->index == index)
            return other;
    }
    return NULL;
}

/* COM1 to COM4: index, ports and interrupt that were not given. */
static bool serial_pick_place(Serial *s, GError **error)
{
    static const uint16_t ports[MAX_COM] = { 0x3f8, 0x2f8, 0x3e8, 0x2e8 };
    static const uint8_t irqs[MAX_COM] = { 4, 3, 4, 3 };

    if (s->index < 0) {
        s->index = 0;
        while (s->index < MAX_COM && find_com(s->isa.dev.bus, s, s->index))
            s->index++;
    }
    if (s->index >= MAX_COM)
        return fail(error, ERR_LIMIT, "there are at most %d ISA serial ports", MAX_COM);
    if (s->iobase == UINT32_MAX)
        s->iobase = ports[s->index];
    if (s->irq_number == UINT32_MAX)
        s->irq_number = irqs[s->index];
    if (s->iobase > 0x10000 - SERIAL_PORTS)
        return fail(error, ERR_INVALID_PARAMETER, "iobase 0x%x is not an I/O port", s->iobase);
    return isa_get_irq(&s->isa, s->irq_number, &s->irq, error);
}

static void serial_reset(Object *obj)
{
    Serial *s = (Serial *)obj;

    char_out_flush(&s->out);
    s->ier = s->fcr = s->scr = s->lcr = 0;
    s->mcr = UART_MCR_OUT2;
    s->lsr = UART_LSR_THRE | UART_LSR_TEMT;
    s->msr = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
    s->divisor = SERIAL_CLOCK / 9600;
    s->thr_pending = false;
    rx_clear(s);
    memset(s->rx, 0, sizeof(s->rx));
    tx_update(s);
    s->thr_pending = false;
    serial_update_irq(s);
}

static bool serial_realize(Object *obj, GError **error)
{
    Serial *s = (Serial *)obj;

    if (!serial_pick_place(s, error))
        return false;
    s->front = (CharFront){
        .can_receive = serial_can_receive, .receive = serial_receive, .event = serial_event,
        .writable = serial_writable, .opaque = s, .slot = &s->chardev,
    };
    if (s->chardev && !char_front_attach(&s->front, s->chardev, error))
        return false;
    char_out_init(&s->out, &s->front, serial_drained, s);
    guest_timer_init(&s->rx_timeout, s->isa.dev.machine, serial_rx_timeout, s);
    loop_bh_init(&s->accept, loop_main(), serial_accept, s);
    machine_add_run_hook(s->isa.dev.machine, serial_run_state, s);
    region_init_io(&s->io, obj, &serial_ops, s, "isa-serial", SERIAL_PORTS);
    region_add(isa_io(&s->isa), s->iobase, &s->io);
    serial_reset(obj);
    char_front_set_open(&s->front, true);
    return true;
}

static void serial_unrealize(Object *obj)
{
    Serial *s = (Serial *)obj;

    region_destroy(&s->io);
    machine_del_run_hook(s->isa.dev.machine, serial_run_state, s);
    loop_bh_cancel(&s->accept);
    guest_timer_destroy(&s->rx_timeout);
    char_out_destroy(&s->out);
    char_front_detach(&s->front);
}

static bool serial_post_load(void *obj, uint32_t version, GError **error)
{
    Serial *s = obj;

    if (!fifo_on(s) && s->rx_length > 1)
        return fail(error, ERR_CORRUPT, "%u bytes received, but the FIFO is off", s->rx_length);
    if (s->rx_length && fifo_on(s) && !s->timeout_pending)
        guest_timer_set(&s->rx_timeout, machine_clock_ns(s->isa.dev.machine) + rx_timeout_ns(s));
    char_out_kick(&s->out);
    loop_bh_schedule(&s->accept);
    serial_update_irq(s);
    return true;
}

static const StateField serial_fields[] = {
    FIELD(Serial, ier, .max = 0x0f),
    FIELD(Serial, fcr),
    FIELD(Serial, lcr),
    FIELD(Serial, mcr, .max = 0x1f),
    FIELD(Serial, lsr),
    FIELD(Serial, msr),
    FIELD(Serial, scr),
    FIELD(Serial, divisor),
    FIELD(Serial, thr_pending),
    FIELD(Serial, timeout_pending),
    FIELD(Serial, rx_head, .max = FIFO_SIZE - 1),
    FIELD(Serial, rx_length, .max = FIFO_SIZE),
    FIELD_BYTES(Serial, rx),
    FIELD_STRUCT(Serial, out, char_out_state),
    {}
};
static const StateTable serial_state = { .fields = serial_fields, .post_load = serial_post_load };

static const Property serial_props[] = {
    PROP("index", Serial, index, .def.i = -1, .help = "0 to 3 for COM1 to COM4; -1: the next free"),
    PROP("iobase", Serial, iobase, .def.u = UINT32_MAX, .help = "first I/O port"),
    PROP("irq", Serial, irq_number, .def.u = UINT32_MAX, .help = "ISA interrupt"),
    PROP_OF("chardev", Serial, chardev, prop_chardev, .help = "the other end of the line"),
    {}
};

static const Type serial_type = {
    .name = "isa-serial", .category = "Character",
    .parent = "isa-device",
    .help = "ISA serial port (16550A)",
    .size = sizeof(Serial),
    .user_creatable = true,
    .props = serial_props,
    .state = &serial_state,
    .realize = serial_realize,
    .unrealize = serial_unrealize,
    .reset = serial_reset,
};
TYPE_REGISTER(serial_type)
