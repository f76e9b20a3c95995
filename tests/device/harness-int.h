/* What the harness's files share. */
#pragma once
#include "tests/device/harness.h"

typedef struct TestMessage {
    uint64_t address;
    uint32_t data;
} TestMessage;

typedef struct TestRoute {
    TestMessage message;
    int fd;                                /* of its irqfd; -1: none */
} TestRoute;

typedef struct TestEvent {
    char *name;
    json_object *data;
} TestEvent;

struct TestMachine {
    Object *root;
    Machine *machine;
    MachineEnv env;
    IntrController intr;
    BlockGraph *block;
    GArray *messages;                      /* of TestMessage */
    GArray *routes;                        /* of TestRoute */
    GArray *events;                        /* of TestEvent */
    GArray *requests;                      /* of MachineRequest; request_lock */
    GMutex request_lock;
    bool extint;                           /* output of the machine's PIC */
    bool gsi[TEST_GSIS];
    unsigned gsi_edges[TEST_GSIS];
    bool running, no_irqfds;
    uint64_t next_dma, next_mem_bar, next_io_bar;
};

extern const IntrOps test_intr_ops;
void test_intr_collect(TestMachine *m);    /* irqfds that fired become messages */
