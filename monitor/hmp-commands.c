/* The commands of the monitor for people.  Most call the QMP handler of the same name. */
#include <limits.h>
#include <string.h>
#include "hw/core/device.h"
#include "monitor/hmp.h"
#include "schema/commands.h"
#include "src/base/options.h"
#include "src/base/trace.h"

static void help_of(Hmp *h, const HmpCommand *c)
{
    g_autofree char *names = c->alias ? g_strdup_printf("%s|%s", c->name, c->alias)
                                      : g_strdup(c->name);
    hmp_print(h, "%s %s -- %s\n", names, c->arguments, c->help);
}

static void run_help(Hmp *h, GError **error)
{
    const HmpCommand *one = h->count ? hmp_find(hmp_commands, h->words[0]) : NULL;
    if (h->count && !one) {
        hmp_print(h, "unknown command: '%s'\n", h->words[0]);
        return;
    }
    if (one) {
        help_of(h, one);
        return;
    }
    for (const HmpCommand *c = hmp_commands; c->name; c++)
        help_of(h, c);
}

static void run_stop(Hmp *h, GError **error)
{
    qmp_stop(h->vm, error);
}

static void run_cont(Hmp *h, GError **error)
{
    qmp_cont(h->vm, error);
}

static void run_quit(Hmp *h, GError **error)
{
    qmp_quit(h->vm, error);
}

static void run_reset(Hmp *h, GError **error)
{
    qmp_system_reset(h->vm, error);
}

static void run_powerdown(Hmp *h, GError **error)
{
    qmp_system_powerdown(h->vm, error);
}

static void run_nmi(Hmp *h, GError **error)
{
    qmp_inject_nmi(h->vm, error);
}

static void run_watchdog_action(Hmp *h, GError **error)
{
    g_autoptr(json_object) word = json_object_new_string(h->words[0]);
    QmpWatchdogAction action;
    if (qmp_parse(&qmp_type_watchdog_action, word, "watchdog_action", &action, error))
        qmp_watchdog_set_action(h->vm, action, error);
}

/* ---- devices, objects ---- */

static void run_device_add(Hmp *h, GError **error)
{
    g_autoptr(json_object) options = options_parse(h->words[0], "driver", error);
    if (options)
        qmp_device_add(h->vm, options, error);
}

static void run_device_del(Hmp *h, GError **error)
{
    qmp_device_del(h->vm, h->words[0], error);
}

static void run_object_add(Hmp *h, GError **error)
{
    g_autoptr(json_object) options = options_parse(h->words[0], "qom-type", error);
    if (options)
        qmp_object_add(h->vm, options, error);
}

static void run_object_del(Hmp *h, GError **error)
{
    qmp_object_del(h->vm, h->words[0], error);
}

static void run_chardev_add(Hmp *h, GError **error)
{
    g_autoptr(json_object) options = options_parse(h->words[0], "backend", error);
    if (options)
        chardev_create(h->vm->root, options, error);
}

static void run_chardev_change(Hmp *h, GError **error)
{
    g_autoptr(json_object) options = options_parse(h->words[1], "backend", error);
    if (!options)
        return;
    json_object_object_add(options, "id", json_object_new_string(h->words[0]));
    chardev_change(h->vm->root, options, error);
}

static void run_chardev_remove(Hmp *h, GError **error)
{
    qmp_chardev_remove(h->vm, h->words[0], error);
}

static void run_qom_list(Hmp *h, GError **error)
{
    GPtrArray *list = qmp_qom_list(h->vm, h->count ? h->words[0] : "/", error);
    for (guint i = 0; list && i < list->len; i++) {
        const QmpObjectPropertyInfo *info = list->pdata[i];
        hmp_print(h, "%s (%s)\n", info->name, info->type);
    }
    g_clear_pointer(&list, g_ptr_array_unref);
}

static void run_qom_get(Hmp *h, GError **error)
{
    g_autoptr(GError) failure = NULL;
    json_object *value = qmp_qom_get(h->vm, h->words[0], h->words[1], &failure);
    if (failure)
        g_propagate_error(error, g_steal_pointer(&failure));
    else
        hmp_print(h, "%s\n", json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN));
    json_object_put(value);
}

static void run_qom_set(Hmp *h, GError **error)
{
    g_autoptr(json_object) value = json_object_new_string(h->words[2]);
    qmp_qom_set(h->vm, h->words[0], h->words[1], value, error);
}

static void run_block_resize(Hmp *h, GError **error)
{
    uint64_t size;
    if (!hmp_number(h->words[1], &size, error))
        return;
    if (size > INT64_MAX)
        fail(error, ERR_INVALID_PARAMETER, "the size is too large");
    else if (block_node_find(h->vm->block, h->words[0]))
        qmp_block_resize(h->vm, NULL, h->words[0], size, error);
    else
        qmp_block_resize(h->vm, h->words[0], NULL, size, error);
}

static void run_chardev_send_break(Hmp *h, GError **error)
{
    qmp_chardev_send_break(h->vm, h->words[0], error);
}

static void run_ringbuf_write(Hmp *h, GError **error)
{
    qmp_ringbuf_write(h->vm, h->words[0], h->words[1], false, 0, error);
}

static void run_ringbuf_read(Hmp *h, GError **error)
{
    uint64_t size;
    if (!hmp_number(h->words[1], &size, error))
        return;
    g_autofree char *text = qmp_ringbuf_read(h->vm, h->words[0], MIN(size, INT64_MAX), false, 0,
                                             error);
    if (text)
        hmp_print(h, "%s\n", text);
}

/* ---- log and trace ---- */

static void run_trace_event(Hmp *h, GError **error)
{
    bool on = !strcmp(h->words[1], "on");
    if (!on && strcmp(h->words[1], "off"))
        fail(error, ERR_INVALID_PARAMETER, "write on or off, not '%s'", h->words[1]);
    else
        qmp_trace_event_set_state(h->vm, h->words[0], on, false, false, error);
}

static void run_log(Hmp *h, GError **error)
{
    log_set_mask(h->words[0], error);
}

static void run_logfile(Hmp *h, GError **error)
{
    trace_open_log(h->count ? h->words[0] : NULL, error);
}

/* ---- completion ---- */

static GPtrArray *complete_commands(Vm *vm, unsigned n)
{
    return n ? NULL : hmp_complete_names(hmp_commands);
}

static GPtrArray *complete_info(Vm *vm, unsigned n)
{
    return n ? NULL : hmp_complete_names(hmp_info);
}

static void add_type_name(const Type *type, void *opaque)
{
    if (type->user_creatable && !type->abstract)
        g_ptr_array_add(opaque, g_strdup(type->name));
}

static GPtrArray *complete_types(const char *ancestor, unsigned n)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    if (!n && type_find(ancestor))
        type_foreach(ancestor, add_type_name, names);
    return names;
}

static GPtrArray *complete_device_types(Vm *vm, unsigned n)
{
    return complete_types("device", n);
}

static GPtrArray *complete_object_types(Vm *vm, unsigned n)
{
    return complete_types("user-object", n);
}

static GPtrArray *complete_children(Object *parent)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; parent && parent->children && i < parent->children->len; i++)
        g_ptr_array_add(names, g_strdup(OBJECT(parent->children->pdata[i])->name));
    return names;
}

static GPtrArray *complete_devices(Vm *vm, unsigned n)
{
    return n || !vm->machine ? NULL : complete_children(object_child(OBJECT(vm->machine),
                                                                     "peripheral"));
}

static GPtrArray *complete_objects(Vm *vm, unsigned n)
{
    return n ? NULL : complete_children(object_child(vm->root, "objects"));
}

static GPtrArray *complete_chardevs(Vm *vm, unsigned n)
{
    return n ? NULL : complete_children(object_child(vm->root, "chardevs"));
}

static void add_trace_name(const char *name, bool enabled, void *opaque)
{
    g_ptr_array_add(opaque, g_strdup(name));
}

static GPtrArray *complete_traces(Vm *vm, unsigned n)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    if (!n)
        trace_foreach("*", add_trace_name, names);
    return names;
}

const HmpCommand hmp_commands[] = {
    { "help", "?", "[COMMAND]", "show the commands, or what one does", 0, 1, run_help,
      complete_commands },
    { "info", NULL, "[WHAT]", "show something; without WHAT, what there is", 0, 3, hmp_info_run,
      complete_info },
    { "stop", "s", "", "stop the guest", 0, 0, run_stop },
    { "cont", "c", "", "let the guest run", 0, 0, run_cont },
    { "quit", "q", "", "shut the machine down and end the program", 0, 0, run_quit },
    { "system_reset", NULL, "", "reset the machine", 0, 0, run_reset },
    { "system_powerdown", NULL, "", "press the power button", 0, 0, run_powerdown },
    { "nmi", NULL, "", "send every CPU a non-maskable interrupt", 0, 0, run_nmi },
    { "watchdog_action", NULL, "ACTION", "say what a watchdog that fires does", 1, 1,
      run_watchdog_action },
    { "device_add", NULL, "DRIVER[,PROPERTY=VALUE…]", "plug in a device, as -device does", 1, 1,
      run_device_add, complete_device_types },
    { "device_del", NULL, "ID", "unplug a device", 1, 1, run_device_del, complete_devices },
    { "object_add", NULL, "TYPE,id=ID[,…]", "make a backend object, as -object does", 1, 1,
      run_object_add, complete_object_types },
    { "object_del", NULL, "ID", "remove a backend object", 1, 1, run_object_del, complete_objects },
    { "chardev-add", NULL, "BACKEND,id=ID[,…]", "make a character device, as -chardev does", 1, 1,
      run_chardev_add },
    { "chardev-change", NULL, "ID BACKEND[,…]", "put another back end behind a character device", 2, 2,
      run_chardev_change, complete_chardevs },
    { "chardev-remove", NULL, "ID", "remove a character device", 1, 1, run_chardev_remove,
      complete_chardevs },
    { "chardev-send-break", NULL, "ID", "send a break to a character device's front end", 1, 1,
      run_chardev_send_break, complete_chardevs },
    { "ringbuf_write", NULL, "ID TEXT", "write to a ring buffer", 2, 2, run_ringbuf_write,
      complete_chardevs },
    { "ringbuf_read", NULL, "ID SIZE", "read from a ring buffer", 2, 2, run_ringbuf_read,
      complete_chardevs },
    { "qom-list", NULL, "[PATH]", "list an object's properties and children", 0, 1, run_qom_list },
    { "qom-get", NULL, "PATH PROPERTY", "show a property", 2, 2, run_qom_get },
    { "qom-set", NULL, "PATH PROPERTY VALUE", "set a property", 3, 3, run_qom_set },
    { "block_resize", NULL, "NODE SIZE", "change the size of an image", 2, 2, run_block_resize },
    { "cpu", NULL, "INDEX", "say which CPU the commands below and 'info registers' look at", 1, 1,
      hmp_cpu },
    { "x", NULL, "[/FORMAT] ADDRESS", "show memory at an address of the CPU's", 1, 2, hmp_x },
    { "memsave", NULL, "ADDRESS SIZE FILE", "write memory at an address of the CPU's to a file", 3, 3,
      hmp_memsave },
    { "xp", NULL, "[/FORMAT] ADDRESS", "show guest memory at a physical address", 1, 2, hmp_xp },
    { "pmemsave", NULL, "ADDRESS SIZE FILE", "write guest-physical memory to a file", 3, 3,
      hmp_pmemsave },
    { "sum", NULL, "ADDRESS SIZE", "show the checksum of guest-physical memory", 2, 2, hmp_sum },
    { "print", "p", "[/FORMAT] EXPRESSION", "show a value, as $rip+0x10 or (1+2)*4", 1, UINT_MAX,
      hmp_print_value },
    { "i", NULL, "[/FORMAT] PORT", "read an I/O port", 1, 2, hmp_port_read },
    { "o", NULL, "[/FORMAT] PORT VALUE", "write to an I/O port", 2, 3, hmp_port_write },
    { "trace-event", NULL, "NAME on|off", "switch trace events, by name or pattern", 2, 2,
      run_trace_event, complete_traces },
    { "log", NULL, "CATEGORY[,…]", "say what is logged, as -d does", 1, 1, run_log },
    { "logfile", NULL, "[FILE]", "write the log to a file, or to stderr", 0, 1, run_logfile },
    {}
};
