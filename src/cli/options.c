/*
 * The options.  Each is a line of the table at the end; what it takes is a table, too.
 * Nothing is built here: handlers only check and keep.  parse.c reads argv by the table.
 */
#include "block/block.h"
#include "src/cli/options.h"
#include <string.h>
#include <unistd.h>
#include "src/base/options.h"
#include "src/base/trace.h"
#include "src/base/util.h"

/* ---- handlers of key=value options ---- */

static void keep(GPtrArray *list, json_object *opts)
{
    g_ptr_array_add(list, json_object_get(opts));
}

/* Members of @opts replace those of *into. */
static void merge(json_object **into, json_object *opts)
{
    if (!*into)
        *into = json_object_new_object();
    json_object_object_foreach(opts, key, value)
        json_object_object_add(*into, key, json_object_get(value));
}

static void merge_str(json_object **into, const char *key, const char *value)
{
    if (!*into)
        *into = json_object_new_object();
    json_object_object_add(*into, key, json_object_new_string(value));
}

#define LIST_HANDLER(option, member)                                                               \
    static bool on_##option(Config *c, json_object *opts, GError **error)                          \
    {                                                                                              \
        keep(c->member, opts);                                                                     \
        return true;                                                                               \
    }
LIST_HANDLER(object, objects)
LIST_HANDLER(chardev, chardevs)
LIST_HANDLER(blockdev, blockdevs)
LIST_HANDLER(drive, drives)
LIST_HANDLER(device, devices)
LIST_HANDLER(add_fd, add_fds)
LIST_HANDLER(mon, mons)

#define MERGE_HANDLER(option, member)                                                              \
    static bool on_##option(Config *c, json_object *opts, GError **error)                          \
    {                                                                                              \
        merge(&c->member, opts);                                                                   \
        return true;                                                                               \
    }
MERGE_HANDLER(memory, memory)
MERGE_HANDLER(rtc, rtc)
MERGE_HANDLER(action, actions)
MERGE_HANDLER(overcommit, overcommit)

/* -global DRIVER.PROPERTY=VALUE, or driver=,property=,value=.  The first form was parsed as
 * {DRIVER: {PROPERTY: VALUE}}. */
static bool on_global(Config *c, json_object *opts, GError **error)
{
    json_object *driver;

    if (json_object_object_get_ex(opts, "driver", &driver) &&
        json_object_is_type(driver, json_type_string)) {
        const char *text = NULL;

        if (!options_get_str(opts, "property", &text, error))
            return false;
        if (!text || !json_object_object_get_ex(opts, "value", NULL))
            return fail(error, ERR_MISSING_PARAMETER, "'property' and 'value' are needed");
        keep(c->globals, opts);
        return true;
    }
    json_object_object_foreach(opts, name, props) {
        if (!json_object_is_type(props, json_type_object)) {
            fail(error, ERR_INVALID_SYNTAX, "'%s' is not DRIVER.PROPERTY=VALUE", name);
            return error_hint(error, "for example: -global ICH9-LPC.disable_s3=1");
        }
        json_object_object_foreach(props, prop, value) {
            g_autoptr(json_object) one = json_object_new_object();

            json_object_object_add(one, "driver", json_object_new_string(name));
            json_object_object_add(one, "property", json_object_new_string(prop));
            json_object_object_add(one, "value", json_object_get(value));
            keep(c->globals, one);
        }
    }
    return true;
}

/* -accel kvm,kernel-irqchip=split: the machine's accel= with its own parameters beside it.
 * Given twice, it is a list in order of preference, as accel=A:B. */
static bool on_accel(Config *c, json_object *opts, GError **error)
{
    json_object *before = NULL;
    const char *name = NULL;

    if (!options_get_str(opts, "accel", &name, error))
        return false;
    if (!name)
        return fail(error, ERR_MISSING_PARAMETER, "the accelerator's name is missing");
    if (c->machine && json_object_object_get_ex(c->machine, "accel", &before)) {
        g_autofree char *both = g_strdup_printf("%s:%s", json_object_get_string(before), name);

        json_object_object_add(opts, "accel", json_object_new_string(both));
    }
    merge(&c->machine, opts);
    return true;
}

/* Fills in what is missing: cores take what sockets, dies and threads leave. */
static bool complete_topology(SmpTopology *smp, GError **error)
{
    bool cores_given = smp->cores;

    smp->sockets = smp->sockets ?: (cores_given && smp->cpus ? 0 : 1);
    smp->dies = smp->dies ?: 1;
    smp->threads = smp->threads ?: 1;
    if (!smp->sockets) {
        unsigned each = smp->dies * smp->cores * smp->threads;

        smp->sockets = MAX(1, (smp->max_cpus ?: smp->cpus) / each);
    }
    if (!smp->cores) {
        unsigned total = smp->max_cpus ?: smp->cpus ?: 1;

        smp->cores = MAX(1, total / (smp->sockets * smp->dies * smp->threads));
    }
    uint64_t product = (uint64_t)smp->sockets * smp->dies * smp->cores * smp->threads;

    if (product > 1024)
        return fail(error, ERR_LIMIT, "%" PRIu64 " CPUs are more than the limit of 1024", product);
    smp->max_cpus = smp->max_cpus ?: product;
    smp->cpus = smp->cpus ?: smp->max_cpus;
    if (product != smp->max_cpus) {
        return fail(error, ERR_INVALID_PARAMETER,
                    "sockets (%u) * dies (%u) * cores (%u) * threads (%u) is %" PRIu64
                    ", not the %u CPUs asked for", smp->sockets, smp->dies, smp->cores,
                    smp->threads, product, smp->max_cpus);
    }
    if (smp->cpus > smp->max_cpus)
        return fail(error, ERR_INVALID_PARAMETER, "cpus (%u) is more than maxcpus (%u)", smp->cpus,
                    smp->max_cpus);
    return true;
}

static bool on_smp(Config *c, json_object *opts, GError **error)
{
    const struct {
        const char *name;
        unsigned *value;
    } numbers[] = {
        { "cpus", &c->smp.cpus }, { "maxcpus", &c->smp.max_cpus },
        { "sockets", &c->smp.sockets }, { "dies", &c->smp.dies }, { "cores", &c->smp.cores },
        { "threads", &c->smp.threads },
    };

    memset(&c->smp, 0, sizeof(c->smp));
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        uint64_t n = 0;

        if (!json_object_object_get_ex(opts, numbers[i].name, NULL))
            continue;
        if (!options_get_u64(opts, numbers[i].name, &n, error))
            return false;
        if (!n || n > 1024)
            return fail(error, ERR_INVALID_PARAMETER, "%s must be 1 to 1024, not %" PRIu64,
                        numbers[i].name, n);
        *numbers[i].value = n;
    }
    return complete_topology(&c->smp, error);
}

static void set_string(char **to, const char *value)
{
    g_free(*to);
    *to = g_strdup(value);
}

static bool on_name(Config *c, json_object *opts, GError **error)
{
    const char *guest = NULL, *process = NULL;

    if (!options_get_str(opts, "guest", &guest, error) ||
        !options_get_str(opts, "process", &process, error) ||
        !options_get_bool(opts, "debug-threads", &c->debug_threads, error))
        return false;
    if (guest)
        set_string(&c->name, guest);
    if (process)
        set_string(&c->process_name, process);
    return true;
}

static bool on_msg(Config *c, json_object *opts, GError **error)
{
    return options_get_bool(opts, "timestamp", &c->timestamps, error);
}

/* A file of patterns, one a line. */
static bool take_trace_list(Config *c, const char *path, GError **error)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, error))
        return false;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        const char *line = g_strstrip(lines[i]);

        if (*line && *line != '#')
            g_ptr_array_add(c->traces, g_strdup(line));
    }
    return true;
}

static bool on_trace(Config *c, json_object *opts, GError **error)
{
    const char *pattern = NULL, *file = NULL, *list = NULL;

    if (!options_get_str(opts, "enable", &pattern, error) ||
        !options_get_str(opts, "events", &list, error) ||
        !options_get_str(opts, "file", &file, error) ||
        (list && !take_trace_list(c, list, error)))
        return false;
    if (pattern)
        g_ptr_array_add(c->traces, g_strdup(pattern));
    if (file)
        set_string(&c->log_file, file);
    return true;
}

static bool check_drive_letters(json_object *opts, const char *key, GError **error)
{
    const char *letters = "", *p;

    if (!options_get_str(opts, key, &letters, error))
        return false;
    for (p = letters; *p; p++) {
        if (*p < 'a' || *p > 'p')
            break;
        if (strchr(p + 1, *p))
            return fail(error, ERR_INVALID_PARAMETER, "boot device '%c' is given twice", *p);
    }
    if (!*p)
        return true;
    fail(error, ERR_INVALID_PARAMETER, "'%s' is no list of boot devices", letters);
    return error_hint(error, "letters from a to p: a, b for floppy disks, c for a disk, d for a CD, n "
                             "for the network");
}

static bool check_range(json_object *opts, const char *key, int64_t low, int64_t high, GError **error)
{
    int64_t value = low;

    if (!options_get_i64(opts, key, &value, error))
        return false;
    return (value >= low && value <= high) ||
           fail(error, ERR_INVALID_PARAMETER, "%s must be %" PRId64 " to %" PRId64 ", not %" PRId64,
                key, low, high, value);
}

static bool on_boot(Config *c, json_object *opts, GError **error)
{
    bool flag;

    if (!check_drive_letters(opts, "order", error) || !check_drive_letters(opts, "once", error) ||
        !options_get_bool(opts, "menu", &flag, error) ||
        !options_get_bool(opts, "strict", &flag, error) ||
        !check_range(opts, "reboot-timeout", -1, 65535, error) ||
        !check_range(opts, "splash-time", 0, 65535, error))
        return false;
    merge(&c->boot, opts);
    return true;
}

/* -machine smp.cpus=2 is -smp cpus=2, and so on. */
static bool take_machine_part(Config *c, json_object *opts, const char *key, const char *option,
                              GError **error)
{
    g_autoptr(json_object) part = options_take(opts, key);

    if (!part)
        return true;
    if (!json_object_is_type(part, json_type_object))
        return fail(error, ERR_INVALID_SYNTAX, "'%s' is written with its members: %s.NAME=VALUE", key,
                    key);
    return cli_apply(c, cli_option_find(option), part, error) || error_prefix(error, "%s: ", key);
}

/* Names may have an underscore where the property has a dash, as in old scripts. */
static bool on_machine(Config *c, json_object *opts, GError **error)
{
    g_autoptr(json_object) dashed = json_object_new_object();

    json_object_object_foreach(opts, name, value) {
        g_autofree char *key = g_strdelimit(g_strdup(name), "_", '-');

        json_object_object_add(dashed, key, json_object_get(value));
    }
    if (!take_machine_part(c, dashed, "smp", "smp", error) ||
        !take_machine_part(c, dashed, "memory", "m", error) ||
        !take_machine_part(c, dashed, "boot", "boot", error))
        return false;
    merge(&c->machine, dashed);
    return true;
}

/* ---- handlers of plain texts ---- */

#define STRING_HANDLER(option, member)                                                             \
    static bool on_##option(Config *c, const char *value, GError **error)                          \
    {                                                                                              \
        set_string(&c->member, value);                                                             \
        return true;                                                                               \
    }
STRING_HANDLER(cpu, cpu)
STRING_HANDLER(kernel, kernel)
STRING_HANDLER(initrd, initrd)
STRING_HANDLER(append, append)
STRING_HANDLER(bios, firmware)
STRING_HANDLER(uuid, uuid)
STRING_HANDLER(pidfile, pidfile)
STRING_HANDLER(logmask, log_mask)
STRING_HANDLER(mem_path, mem_path)

/* %d is the process's number, so that several machines may share a command line. */
static bool on_logfile(Config *c, const char *value, GError **error)
{
    const char *place = strstr(value, "%d");
    g_autofree char *path = place ? g_strdup_printf("%.*s%d%s", (int)(place - value), value,
                                                    (int)getpid(), place + 2)
                                  : g_strdup(value);

    set_string(&c->log_file, path);
    return true;
}

static bool on_watchdog_action(Config *c, const char *value, GError **error)
{
    merge_str(&c->actions, "watchdog", value);
    return true;
}

#define TEXT_LIST_HANDLER(option, member)                                                          \
    static bool on_##option(Config *c, const char *value, GError **error)                          \
    {                                                                                              \
        g_ptr_array_add(c->member, g_strdup(value));                                               \
        return true;                                                                               \
    }
TEXT_LIST_HANDLER(serial, serials)
TEXT_LIST_HANDLER(monitor, monitors)
TEXT_LIST_HANDLER(qmp, qmps)
TEXT_LIST_HANDLER(qmp_pretty, qmps_pretty)
TEXT_LIST_HANDLER(debugcon, debugcons)

static bool on_display(Config *c, const char *value, GError **error)
{
    if (strcmp(value, "none"))
        return fail(error, ERR_UNSUPPORTED, "this build has no display but 'none'");
    c->display_none = true;
    return true;
}

/* Options whose only possible value in this build is "none". */
static bool on_none_only(Config *c, const char *value, GError **error)
{
    if (strcmp(value, "none") && strncmp(value, "none,", 5))
        return fail(error, ERR_UNSUPPORTED, "this build has none of these devices; only 'none' is "
                                            "accepted");
    return true;
}

/* Management programs always define an audio back end; without a sound card it has nothing to do. */
static bool on_audiodev(Config *c, json_object *opts, GError **error)
{
    const char *driver = NULL;

    if (!options_get_str(opts, "driver", &driver, error))
        return error_prefix(error, "-audiodev: ");
    return !g_strcmp0(driver, "none") ||
           fail(error, ERR_UNSUPPORTED, "-audiodev: this build has no sound but driver=none");
}

static bool on_readconfig(Config *c, const char *value, GError **error)
{
    return cli_read_config(c, value, error);
}

/* ---- switches ---- */

#define FLAG_HANDLER(option, member)                                                               \
    static void on_##option(Config *c)                                                             \
    {                                                                                              \
        c->member = true;                                                                          \
    }
FLAG_HANDLER(stopped, stopped)
FLAG_HANDLER(daemonize, daemonize)
FLAG_HANDLER(nographic, nographic)
FLAG_HANDLER(nodefaults, no_defaults)
FLAG_HANDLER(no_user_config, no_user_config)
FLAG_HANDLER(mem_prealloc, mem_prealloc)
FLAG_HANDLER(snapshot, snapshot)

static void on_no_reboot(Config *c)
{
    merge_str(&c->actions, "reboot", "shutdown");
}

static void on_no_shutdown(Config *c)
{
    merge_str(&c->actions, "shutdown", "pause");
}

static void on_no_hpet(Config *c)
{
    merge_str(&c->machine, "hpet", "off");
}

static void on_no_acpi(Config *c)
{
    merge_str(&c->machine, "acpi", "off");
}

static void on_enable_kvm(Config *c)
{
    merge_str(&c->machine, "accel", "kvm");
}

static void on_help(Config *c)
{
    cli_print_help();
    c->exit_now = true;
}

static void on_version(Config *c)
{
    cli_print_version();
    c->exit_now = true;
}

static void on_man(Config *c)
{
    cli_print_man_page();
    c->exit_now = true;
}

static void on_completion(Config *c)
{
    cli_print_completion();
    c->exit_now = true;
}

/* ---- the tables ---- */

#define S(name_, help_) { .name = (name_), .type = PARAM_STRING, .help = (help_) }
#define B(name_, help_) { .name = (name_), .type = PARAM_BOOL, .help = (help_) }
#define N(name_, help_) { .name = (name_), .type = PARAM_NUMBER, .help = (help_) }
#define Z(name_, help_) { .name = (name_), .type = PARAM_SIZE, .help = (help_) }

static const CliParam smp_params[] = {
    N("cpus", "CPUs at start"),
    N("maxcpus", "CPUs at most"),
    N("sockets", "sockets"),
    N("dies", "dies in a socket"),
    N("cores", "cores in a die"),
    N("threads", "threads in a core"),
    {}
};
static const CliParam memory_params[] = {
    Z("size", "guest memory; MiB without a suffix"),
    N("slots", "slots for hotplugged memory"),
    Z("maxmem", "memory at most"),
    {}
};
static const CliParam accel_params[] = {
    S("accel", "kvm"),
    S("kernel-irqchip", "on, split or off"),
    {}
};
static const CliParam name_params[] = {
    S("guest", "name of the guest"),
    S("process", "name of the process"),
    B("debug-threads", "name the threads (they always are)"),
    {}
};
static const CliParam rtc_params[] = {
    S("base", "utc, localtime or YYYY-MM-DDTHH:MM:SS"),
    S("clock", "host, rt or vm"),
    S("driftfix", "none or slew"),
    {}
};
static const CliParam boot_params[] = {
    S("order", "drive letters, for firmware"),
    S("once", "order of the first boot"),
    B("menu", "firmware's boot menu"),
    B("strict", "boot from devices with a bootindex only"),
    N("reboot-timeout", "ms before firmware reboots, -1: never"),
    N("splash-time", "ms of firmware's splash screen"),
    S("splash", "firmware's splash picture"),
    {}
};
static const CliParam action_params[] = {
    S("reboot", "reset or shutdown"),
    S("shutdown", "poweroff or pause"),
    S("panic", "pause, shutdown, exit-failure or none"),
    S("watchdog", "reset, shutdown, poweroff, inject-nmi, pause, debug or none"),
    {}
};
static const CliParam overcommit_params[] = {
    B("mem-lock", "lock all memory of the process"),
    B("cpu-pm", "let the guest idle a host CPU"),
    {}
};
static const CliParam audiodev_params[] = {
    S("driver", "none"),
    S("id", "name of the back end"),
    {}
};
static const CliParam msg_params[] = {
    B("timestamp", "a time stamp before each message"),
    B("guest-name", "accepted for QEMU's sake"),
    {}
};
static const CliParam trace_params[] = {
    S("enable", "name or pattern of events"),
    S("events", "a file with such patterns, one a line"),
    S("file", "where to write them (as -D)"),
    {}
};
static const CliParam add_fd_params[] = {
    N("fd", "number of an inherited descriptor"),
    N("set", "number of the set it joins"),
    S("opaque", "a note for query-fdsets"),
    {}
};
static const CliParam mon_params[] = {
    S("chardev", "id of the character device"),
    S("mode", "control (QMP) or readline (for people)"),
    S("id", "name of the monitor"),
    B("pretty", "indent QMP's answers"),
    {}
};

const CliOption cli_options[] = {
    { "help", "h", NULL, "print this help", CLI_STANDARD, .flag = on_help },
    { "version", NULL, NULL, "print the version", CLI_STANDARD, .flag = on_version },
    { "machine", "M", "[type=]NAME[,PROPERTY=VALUE...]", "the machine; 'help' lists them",
      CLI_STANDARD, .opts = on_machine, .implied = "type" },
    { "accel", NULL, "[accel=]kvm[,PROPERTY=VALUE...]", "the accelerator", CLI_STANDARD,
      .opts = on_accel, .implied = "accel", .params = accel_params },
    { "enable-kvm", NULL, NULL, "the same as -accel kvm", CLI_STANDARD, .flag = on_enable_kvm },
    { "cpu", NULL, "MODEL[,+FEATURE][,-FEATURE][,FEATURE=on|off][,enforce][,check]",
      "the CPU model; 'help' lists them", CLI_STANDARD, .text = on_cpu },
    { "smp", "smp-opts", "[cpus=]N[,maxcpus=N][,sockets=N][,dies=N][,cores=N][,threads=N]",
      "how many vCPUs, and their topology", CLI_STANDARD, .opts = on_smp, .implied = "cpus",
      .params = smp_params },
    { "m", "memory", "[size=]SIZE[,slots=N,maxmem=SIZE]", "guest memory (MiB, or K M G T)",
      CLI_STANDARD, .opts = on_memory, .implied = "size", .params = memory_params },
    { "mem-path", NULL, "PATH", "make guest memory from a file or hugetlbfs folder", CLI_STANDARD,
      .text = on_mem_path },
    { "mem-prealloc", NULL, NULL, "allocate guest memory at start", CLI_STANDARD,
      .flag = on_mem_prealloc },
    { "overcommit", NULL, "[mem-lock=on|off][,cpu-pm=off]", "what the host may not take back",
      CLI_STANDARD, .opts = on_overcommit, .params = overcommit_params },
    { "name", NULL, "[guest=]NAME[,process=NAME][,debug-threads=on|off]", "name of the guest",
      CLI_STANDARD, .opts = on_name, .implied = "guest", .params = name_params },
    { "uuid", NULL, "UUID", "the machine's UUID", CLI_STANDARD, .text = on_uuid },
    { "rtc", NULL, "[base=utc|localtime|DATE][,clock=host|rt|vm][,driftfix=none|slew]",
      "the real-time clock", CLI_STANDARD, .opts = on_rtc, .params = rtc_params },
    { "boot", "boot-opts", "[order=]DRIVES[,once=DRIVES][,menu=on|off][,strict=on|off]",
      "what firmware boots from", CLI_STANDARD, .opts = on_boot, .implied = "order",
      .params = boot_params },

    { "blockdev", NULL, "[driver=]NAME,node-name=NODE[,OPTION=VALUE...]", "make a block node",
      CLI_BLOCK, .opts = on_blockdev, .implied = "driver" },
    { "drive", NULL, "file=PATH[,if=virtio|none][,format=raw][,cache=MODE][,aio=ENGINE][,id=ID]...",
      "a disk in one option", CLI_BLOCK, .opts = on_drive },
    { "snapshot", NULL, NULL, "keep what is written to a -drive in a temporary file",
      CLI_BLOCK, .flag = on_snapshot },
    { "add-fd", NULL, "fd=N,set=N[,opaque=TEXT]", "put a descriptor in a set, as /dev/fdset/N",
      CLI_BLOCK, .opts = on_add_fd, .params = add_fd_params },

    { "chardev", NULL, "[backend=]TYPE,id=ID[,OPTION=VALUE...]", "make a character device",
      CLI_CHARDEV, .opts = on_chardev, .implied = "backend" },
    { "serial", NULL, "DEVICE", "a serial port: stdio, mon:stdio, pty, file:PATH, unix:PATH,…, "
      "tcp:HOST:PORT,…, chardev:ID, null, none", CLI_CHARDEV, .text = on_serial },
    { "parallel", NULL, "none", "no parallel port", CLI_CHARDEV, .text = on_none_only },
    { "debugcon", NULL, "DEVICE", "the debug console, port 0xe9", CLI_CHARDEV,
      .text = on_debugcon },
    { "nographic", NULL, NULL, "the serial port and the monitor on the terminal", CLI_CHARDEV,
      .flag = on_nographic },
    { "display", NULL, "none", "no display", CLI_CHARDEV, .text = on_display },
    { "vga", NULL, "none", "no graphics card", CLI_CHARDEV, .text = on_none_only },

    { "kernel", NULL, "FILE", "a Linux bzImage, or an ELF kernel with a PVH entry", CLI_BOOT,
      .text = on_kernel },
    { "initrd", NULL, "FILE", "its initial RAM disk", CLI_BOOT, .text = on_initrd },
    { "append", NULL, "TEXT", "its command line", CLI_BOOT, .text = on_append },
    { "bios", NULL, "FILE", "a flat firmware image, mapped below 4 GiB", CLI_BOOT,
      .text = on_bios },

    { "device", NULL, "[driver=]TYPE[,id=ID][,bus=BUS][,PROPERTY=VALUE...]",
      "add a device; 'help' lists them, 'TYPE,help' its properties", CLI_DEVICE, .opts = on_device,
      .implied = "driver" },
    { "object", NULL, "[qom-type=]TYPE,id=ID[,PROPERTY=VALUE...]",
      "add a backend object; 'help' lists them", CLI_DEVICE, .opts = on_object,
      .implied = "qom-type" },
    { "global", NULL, "DRIVER.PROPERTY=VALUE", "a default for every device of a type", CLI_DEVICE,
      .opts = on_global },
    { "audiodev", NULL, "[driver=]none,id=ID", "no sound", CLI_DEVICE, .opts = on_audiodev,
      .implied = "driver", .params = audiodev_params },
    { "net", NULL, "none", "no network card", CLI_DEVICE, .text = on_none_only },
    { "nic", NULL, "none", "no network card", CLI_DEVICE, .text = on_none_only },
    { "no-hpet", NULL, NULL, "the same as -machine hpet=off", CLI_DEVICE, .flag = on_no_hpet },
    { "no-acpi", NULL, NULL, "the same as -machine acpi=off", CLI_DEVICE, .flag = on_no_acpi },

    { "qmp", NULL, "DEVICE", "a QMP monitor on a character device", CLI_CONTROL, .text = on_qmp },
    { "qmp-pretty", NULL, "DEVICE", "the same, indented", CLI_CONTROL, .text = on_qmp_pretty },
    { "monitor", NULL, "DEVICE", "a monitor for people", CLI_CONTROL, .text = on_monitor },
    { "mon", NULL, "[chardev=]ID[,mode=control|readline][,pretty=on|off]",
      "a monitor on a -chardev", CLI_CONTROL, .opts = on_mon, .implied = "chardev",
      .params = mon_params },
    { "S", NULL, NULL, "do not start the vCPUs: wait for cont", CLI_CONTROL, .flag = on_stopped },
    { "daemonize", NULL, NULL, "go into the background when all is set up", CLI_CONTROL,
      .flag = on_daemonize },
    { "pidfile", NULL, "FILE", "write the process's number there", CLI_CONTROL,
      .text = on_pidfile },
    { "no-reboot", NULL, NULL, "end when the guest reboots", CLI_CONTROL, .flag = on_no_reboot },
    { "no-shutdown", NULL, NULL, "stop, do not end, when the guest powers off", CLI_CONTROL,
      .flag = on_no_shutdown },
    { "action", NULL, "[reboot=…][,shutdown=…][,panic=…][,watchdog=…]",
      "what to do when the guest reboots, powers off or panics", CLI_CONTROL, .opts = on_action,
      .params = action_params },
    { "watchdog-action", NULL, "ACTION", "the same as -action watchdog=ACTION", CLI_CONTROL,
      .text = on_watchdog_action },
    { "nodefaults", NULL, NULL, "no devices but those asked for", CLI_CONTROL,
      .flag = on_nodefaults },
    { "no-user-config", NULL, NULL, "read no configuration file of the user's", CLI_CONTROL,
      .flag = on_no_user_config },
    { "readconfig", NULL, "FILE", "read more options from a file", CLI_CONTROL,
      .text = on_readconfig },
    { "set", NULL, "GROUP.ID.ARG=VALUE", "change a parameter of a -device, -drive, -chardev, -object or -mon before",
      CLI_CONTROL, .text = cli_set },

    { "msg", NULL, "timestamp=on|off", "form of messages", CLI_DEBUG, .opts = on_msg,
      .params = msg_params },
    { "d", NULL, "CATEGORY[,CATEGORY...]", "log guest_errors, unimp, cpu_reset", CLI_DEBUG,
      .text = on_logmask },
    { "D", NULL, "FILE", "where the log goes (stderr)", CLI_DEBUG, .text = on_logfile },
    { "trace", NULL, "[enable=]PATTERN[,events=FILE][,file=FILE]",
      "switch trace events on; 'help' lists them",
      CLI_DEBUG, .opts = on_trace, .implied = "enable", .params = trace_params },
    { "man-page", NULL, NULL, "print the manual page's source", CLI_DEBUG, .flag = on_man },
    { "completion", NULL, NULL, "print completion rules for bash", CLI_DEBUG,
      .flag = on_completion },
    {}
};
