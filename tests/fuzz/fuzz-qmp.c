/*
 * A QMP session: what a client sends to a machine with two devices and a node.  First byte odd: the
 * rest is sent as it is.  Even: commands whose arguments are made from the schema, by the input.
 *
 * Handlers may make files: the program works in a folder of its own.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "hw/core/device.h"
#include "monitor/dispatch.h"
#include "monitor/monitor.h"
#include "src/base/fdset.h"
#include "src/base/options.h"
#include "tests/fuzz/fuzz.h"

enum { COMMANDS_MAX = 12, DEPTH_MAX = 5, ITERATIONS_MAX = 20000 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char folder[] = "/tmp/vireo-fuzz-qmp-XXXXXX";

    if (!mkdtemp(folder) || chdir(folder) < 0) {
        perror("fuzz-qmp");
        exit(1);
    }
    report_set_timestamp(false);
    return 0;
}

/* ---- the machine ---- */

static json_object *parse(const char *text, const char *implied)
{
    g_autoptr(GError) error = NULL;
    json_object *options = options_parse(text, implied, &error);

    if (!options)
        g_error("%s: %s", text, error->message);
    return options;
}

static void add_device(Vm *vm, const char *text)
{
    g_autoptr(json_object) options = parse(text, "driver");

    if (!device_create(vm->machine, options, false, NULL))
        g_error("-device %s fails", text);
}

static Vm *make_vm(int client_fd)
{
    g_autoptr(json_object) node = parse("null-co,node-name=d0,size=1M", "driver");
    g_autoptr(json_object) chr = parse("socket,id=mon0,fd=mon0,server=off", "backend");
    g_autoptr(json_object) ring = parse("ringbuf,id=ring0,size=4096", "backend");
    g_autoptr(GError) error = NULL;
    Vm *vm = vm_new(&error);
    Chardev *monitor;

    vm->machine = machine_new(vm->root, "q35", &vm->lock, &vm->machine_env, NULL, &error);
    if (!vm->machine)
        g_error("%s", error->message);
    vm->machine->ram_size = 4 << 20;
    vm->machine->smp = (SmpTopology){ 1, 1, 1, 1, 1, 1 };
    block_node_open(vm->block, node, &error);
    fd_name_put("mon0", client_fd, &error);
    monitor = chardev_create(vm->root, chr, &error);
    chardev_create(vm->root, ring, &error);
    if (error || !machine_build(vm->machine, &error))
        g_error("%s", error->message);
    add_device(vm, "virtio-blk-pci,id=disk0,drive=d0");
    add_device(vm, "pvpanic,id=p0");
    if (!machine_done(vm->machine, &error) || !monitor_add_qmp(vm, monitor, false, &error))
        g_error("%s", error->message);
    machine_reset(vm->machine);
    return vm;
}

/* ---- arguments from the schema ---- */

static json_object *make_value(const QmpType *type, Input *in, unsigned depth);

static json_object *make_string(Input *in)
{
    static const char *const words[] = {
        "d0", "disk0", "p0", "ring0", "mon0", "/machine", "/machine/peripheral/disk0", "size", "x",
        "null-co", "memory-backend-ram", "virtio-rng-pci", "on", "", "info qtree", "info registers",
        "new0", "type", "raw", "device",
    };
    uint8_t how = take(in, 1), length;
    g_autofree char *text = NULL;

    if (how < 200)
        return json_object_new_string(words[how % G_N_ELEMENTS(words)]);
    length = how - 200;
    length = MIN(length, in->end - in->p);
    text = g_strndup((const char *)in->p, length);
    in->p += length;
    return json_object_new_string(g_utf8_validate(text, -1, NULL) ? text : "?");
}

static void add_members(const QmpType *type, json_object *out, Input *in, unsigned depth)
{
    for (const QmpMember *m = type->members; m && m->name; m++) {
        if (m->optional && take(in, 1) % 3)
            continue;
        json_object_object_add(out, m->name, make_value(m->type, in, depth + 1));
    }
}

static json_object *make_struct(const QmpType *type, Input *in, unsigned depth)
{
    json_object *out = json_object_new_object(), *tag = NULL;

    add_members(type, out, in, depth);
    if (type->tag && json_object_object_get_ex(out, type->tag->name, &tag)) {
        const char *const *words = type->tag->type->words;

        for (unsigned i = 0; words && words[i]; i++) {
            if (!strcmp(words[i], json_object_get_string(tag)) && type->branches[i])
                add_members(type->branches[i], out, in, depth);
        }
    }
    if (take(in, 1) > 240)
        json_object_object_add(out, "driver", make_string(in));
    return out;
}

static json_object *make_value(const QmpType *type, Input *in, unsigned depth)
{
    json_object *list;
    unsigned n = 0;

    if (depth > DEPTH_MAX || take(in, 1) > 250)
        return json_object_new_int64(take(in, 8));
    switch (type->kind) {
    case QMP_KIND_BOOL: return json_object_new_boolean(take(in, 1) & 1);
    case QMP_KIND_NUMBER: return json_object_new_double(take(in, 2));
    case QMP_KIND_NULL: return NULL;
    case QMP_KIND_INT:
    case QMP_KIND_UINT: return json_object_new_int64(take(in, take(in, 1) & 1 ? 1 : 8));
    case QMP_KIND_ENUM:
        while (type->words[n])
            n++;
        return json_object_new_string(type->words[take(in, 1) % n]);
    case QMP_KIND_ARRAY:
        list = json_object_new_array();
        for (n = take(in, 1) % 4; n; n--)
            json_object_array_add(list, make_value(type->element, in, depth + 1));
        return list;
    case QMP_KIND_STRUCT: return make_struct(type, in, depth);
    case QMP_KIND_ALTERNATE:
        while (type->branches[n])
            n++;
        return make_value(type->branches[take(in, 1) % n], in, depth + 1);
    default: return make_string(in);
    }
}

/* Commands that would end the session, or the program's usefulness. */
static bool is_left_out(const char *name)
{
    static const char *const names[] = { "quit", NULL };

    return g_strv_contains(names, name);
}

static void put_command(GString *text, Input *in)
{
    json_object *command = json_object_new_object();
    const QmpCommand *c = qmp_commands;
    unsigned count = 0;

    while (qmp_commands[count].name)
        count++;
    c += take(in, 2) % count;
    json_object_object_add(command, "execute", json_object_new_string(c->name));
    if (c->data)
        json_object_object_add(command, "arguments", make_struct(c->data, in, 0));
    if (!is_left_out(c->name))
        g_string_append(text, json_object_to_json_string(command));
    json_object_put(command);
}

/* ---- the session ---- */

/* Sends, and runs the machine until it has read and answered all. */
static void talk(int fd, const char *data, size_t length)
{
    char answer[4096];

    for (unsigned i = 0; i < ITERATIONS_MAX; i++) {
        ssize_t sent = length ? send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
        ssize_t got;

        if (sent > 0) {
            data += sent;
            length -= sent;
        }
        if (!loop_iterate(loop_main(), false) && !length && i > 8)
            break;
        do
            got = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
        while (got > 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    GString *text = g_string_new("{\"execute\":\"qmp_capabilities\"}");
    Input in = { data, data + size };
    int fds[2];
    Vm *vm;

    fuzz_limit_cpu();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        g_error("socketpair: %m");
    vm = make_vm(fds[1]);
    if (take(&in, 1) & 1) {
        g_string_append_len(text, (const char *)in.p, in.end - in.p);
    } else {
        for (unsigned i = 0; i < COMMANDS_MAX && in.p < in.end; i++)
            put_command(text, &in);
    }
    talk(fds[0], text->str, text->len);
    close(fds[0]);
    talk(-1, "", 0);
    monitor_cleanup(vm);
    vm_free(vm);
    g_string_free(text, TRUE);
    return 0;
}
