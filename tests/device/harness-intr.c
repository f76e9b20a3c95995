/* The harness's interrupt controller: it writes down what comes. */
#include <poll.h>
#include <unistd.h>
#include "tests/device/harness-int.h"

static TestMachine *machine_of_intr(IntrController *ic)
{
    return container_of(ic, TestMachine, intr);
}

static TestRoute *route_at(TestMachine *m, int route)
{
    return &g_array_index(m->routes, TestRoute, route);
}

void test_intr_collect(TestMachine *m)
{
    for (unsigned i = 0; i < m->routes->len; i++) {
        TestRoute *r = route_at(m, i);
        struct pollfd p = { .fd = r->fd, .events = POLLIN };
        uint64_t n;

        if (r->fd >= 0 && poll(&p, 1, 0) == 1 && read(r->fd, &n, sizeof(n)) == sizeof(n))
            g_array_append_val(m->messages, r->message);
    }
}

static void set_gsi(IntrController *ic, unsigned gsi, bool level)
{
    TestMachine *m = machine_of_intr(ic);

    ck_assert_uint_lt(gsi, TEST_GSIS);
    m->gsi_edges[gsi] += level && !m->gsi[gsi];
    m->gsi[gsi] = level;
}

static void send_msi(IntrController *ic, uint64_t address, uint32_t data)
{
    TestMessage message = { address, data };

    g_array_append_val(machine_of_intr(ic)->messages, message);
}

static void set_extint(IntrController *ic, bool level)
{
    machine_of_intr(ic)->extint = level;
}

static int route_add(IntrController *ic, uint64_t address, uint32_t data, GError **error)
{
    TestMachine *m = machine_of_intr(ic);
    TestRoute route = { { address, data }, -1 };

    if (m->no_irqfds) {
        fail(error, ERR_UNSUPPORTED, "no routes");
        return -1;
    }
    g_array_append_val(m->routes, route);
    return m->routes->len - 1;
}

static void route_update(IntrController *ic, int route, uint64_t address, uint32_t data)
{
    TestMachine *m = machine_of_intr(ic);

    test_intr_collect(m);
    route_at(m, route)->message = (TestMessage){ address, data };
}

static void route_del(IntrController *ic, int route)
{
    ck_assert_int_eq(route_at(machine_of_intr(ic), route)->fd, -1);
}

static bool irqfd_add(IntrController *ic, int route, int fd, GError **error)
{
    route_at(machine_of_intr(ic), route)->fd = fd;
    return true;
}

static void irqfd_del(IntrController *ic, int route, int fd)
{
    TestMachine *m = machine_of_intr(ic);

    test_intr_collect(m);
    ck_assert_int_eq(route_at(m, route)->fd, fd);
    route_at(m, route)->fd = -1;
}

const IntrOps test_intr_ops = {
    .set_gsi = set_gsi, .send_msi = send_msi, .route_add = route_add,
    .route_update = route_update, .route_del = route_del, .irqfd_add = irqfd_add,
    .irqfd_del = irqfd_del, .set_extint = set_extint,
};

bool gsi_level(TestMachine *m, unsigned gsi)
{
    return m->gsi[gsi];
}

unsigned gsi_edges(TestMachine *m, unsigned gsi)
{
    return m->gsi_edges[gsi];
}

unsigned msi_take(TestMachine *m, uint32_t data)
{
    unsigned n = 0;

    test_intr_collect(m);
    for (unsigned i = m->messages->len; i-- > 0;) {
        if (g_array_index(m->messages, TestMessage, i).data == data) {
            g_array_remove_index(m->messages, i);
            n++;
        }
    }
    return n;
}

unsigned msi_count(TestMachine *m, uint32_t data)
{
    unsigned n = 0;

    test_intr_collect(m);
    for (unsigned i = 0; i < m->messages->len; i++)
        n += g_array_index(m->messages, TestMessage, i).data == data;
    return n;
}

typedef struct MsiWait {
    TestMachine *m;
    uint32_t data;
} MsiWait;

static bool msi_came(void *opaque)
{
    MsiWait *w = opaque;

    return msi_take(w->m, w->data) > 0;
}

void wait_msi(TestMachine *m, uint32_t data)
{
    wait_until(m, msi_came, &(MsiWait){ m, data });
}
