/*
 * What the tables say, for people and for shells: help, lists of types, the manual page, completion.
 */
#include <stdio.h>
#include <string.h>
#include "block/driver.h"
#include "hw/core/device.h"
#include "hw/core/machine.h"
#include "src/base/manpage.h"
#include "src/base/trace.h"
#include "src/cli/options.h"
#include "src/kvm/kvm.h"
#include "src/object/describe.h"
#include "src/object/type.h"

bool cli_is_help(const char *value)
{
    return !strcmp(value, "help") || !strcmp(value, "?");
}

const char *cli_section_title(CliSection section)
{
    static const char *const titles[CLI__COUNT] = {
        [CLI_STANDARD] = "Standard options", [CLI_BLOCK] = "Disks",
        [CLI_CHARDEV] = "Character devices and display", [CLI_BOOT] = "Booting",
        [CLI_DEVICE] = "Devices and objects", [CLI_CONTROL] = "Control",
        [CLI_DEBUG] = "Logs and help",
    };

    return titles[section];
}

void cli_print_version(void)
{
    printf("vireo version %s\n", VIREO_VERSION);
}

void cli_print_help(void)
{
    printf("vireo %s: one virtual machine on KVM\n\nusage: vireo [OPTION [VALUE]]...\n",
           VIREO_VERSION);
    for (int section = 0; section < CLI__COUNT; section++) {
        printf("\n%s:\n", cli_section_title(section));
        for (const CliOption *o = cli_options; o->name; o++) {
            if ((int)o->section != section)
                continue;
            int width = printf("  -%s%s%s", o->name, o->value ? " " : "", o->value ?: "");

            if (width > 30)
                printf("\n%30s", "");
            printf("%*s%s\n", width > 30 ? 0 : 30 - width, "", o->help);
        }
    }
    printf("\n-device help, -machine help, -cpu help, -object help, -chardev help and -trace help "
           "list what\nthere is; -device TYPE,help tells the properties of one.\n");
}

/* ---- topics ---- */

static void print_machine(const Type *type, void *opaque)
{
    const MachineOps *ops = type_ops(type);
    g_autofree char *alias = NULL;

    if (type->abstract)
        return;
    alias = ops && ops->alias ? g_strdup_printf(" (alias %s)", ops->alias) : g_strdup("");
    printf("%-20s %s%s%s\n", type->name, type->help ?: "", alias,
           ops && ops->is_default ? " (default)" : "");
}

static void print_chardev(const Type *type, void *opaque)
{
    if (!type->abstract)
        printf("%-12s %s\n", type->name + (g_str_has_prefix(type->name, "chardev-") ? 8 : 0),
               type->help ?: "");
}

static void print_driver(const BlockDriver *driver, void *opaque)
{
    printf("%-16s %s\n", driver->name, driver->help ?: "");
}

static void print_trace(const char *name, bool enabled, void *opaque)
{
    printf("%s\n", name);
}

static bool print_properties(const char *name)
{
    const Type *type = type_find(name);
    g_autofree char *text = NULL;

    if (!type)
        return false;
    text = type_describe(type);
    printf("%s: %s\n%s", type->name, type->help ?: "", text);
    return true;
}

static bool print_machine_properties(const char *name)
{
    const char *q35 = "pc-q35-1.0";

    return print_properties(name) || (!strcmp(name, "q35") && print_properties(q35)) ||
           (!strcmp(name, "none") && print_properties("none-machine"));
}

static void print_list(const char *option)
{
    if (!strcmp(option, "machine")) {
        printf("Machines:\n");
        type_foreach("machine", print_machine, NULL);
    } else if (!strcmp(option, "device")) {
        g_autofree char *text = type_list_devices();

        printf("%s", text);
    } else if (!strcmp(option, "object")) {
        g_autofree char *text = user_object_help("help");

        printf("%s", text);
    } else if (!strcmp(option, "chardev")) {
        printf("Character devices:\n");
        type_foreach("chardev", print_chardev, NULL);
    } else if (!strcmp(option, "blockdev") || !strcmp(option, "drive")) {
        printf("Block drivers:\n");
        block_driver_foreach(print_driver, NULL);
    } else if (!strcmp(option, "trace")) {
        trace_foreach("*", print_trace, NULL);
    } else if (!strcmp(option, "d")) {
        printf("guest_errors  what the guest does wrong\n"
               "unimp         what the guest asks for and is not there\n"
               "cpu_reset     registers at a CPU's reset\n");
    } else if (!strcmp(option, "accel")) {
        printf("Accelerators:\nkvm\n");
    } else if (!strcmp(option, "cpu")) {
        g_autofree char *text = cpu_model_help();

        printf("%s", text);
    }
}

/* A member "help" (from the words "help", or "TYPE,help") asks. */
static bool asks_for_help(json_object *opts)
{
    json_object *value;

    return json_object_object_get_ex(opts, "help", &value) ||
           json_object_object_get_ex(opts, "?", &value) ||
           (json_object_object_get_ex(opts, "format", &value) &&
            json_object_is_type(value, json_type_string) &&
            cli_is_help(json_object_get_string(value)));
}

bool cli_print_topic(const char *option, json_object *opts)
{
    static const char *const topics[] = { "machine", "device", "object", "chardev", "blockdev",
                                          "drive", "trace",   "d",      "accel",  "cpu",     NULL };
    static const char *const keys[] = { "driver", "qom-type", "type", "backend", NULL };
    json_object *name;

    if (!g_strv_contains(topics, option) || (opts && !asks_for_help(opts)))
        return false;
    for (unsigned i = 0; opts && keys[i]; i++) {
        if (!json_object_object_get_ex(opts, keys[i], &name))
            continue;
        const char *text = json_object_get_string(name);

        if (cli_is_help(text))
            break;
        if (!strcmp(option, "machine"))
            return print_machine_properties(text);
        if (!strcmp(option, "chardev")) {
            g_autofree char *full = g_strdup_printf("chardev-%s", text);

            return print_properties(full);
        }
        return print_properties(strcmp(option, "device") ? text : device_type_name(text));
    }
    print_list(option);
    return true;
}

bool cli_print_params(const CliOption *option)
{
    if (!option->params)
        return false;
    printf("-%s %s\n", option->name, option->value);
    for (const CliParam *p = option->params; p->name; p++)
        printf("  %-16s %s\n", p->name, p->help);
    return true;
}

/* ---- for machines ---- */

static json_object *describe_params(const CliParam *params)
{
    static const char *const types[] = { "string", "boolean", "number", "size" };
    json_object *list = json_object_new_array();

    for (const CliParam *p = params; p && p->name; p++) {
        json_object *one = json_object_new_object();

        json_object_object_add(one, "name", json_object_new_string(p->name));
        json_object_object_add(one, "type", json_object_new_string(types[p->type]));
        json_object_object_add(one, "help", json_object_new_string(p->help));
        json_object_array_add(list, one);
    }
    return list;
}

static void add_machine_property(const Property *prop, void *opaque)
{
    json_object *list = opaque, *one = json_object_new_object();

    json_object_object_add(one, "name", json_object_new_string(prop->name));
    json_object_object_add(one, "type", json_object_new_string(
        prop->kind == &prop_bool ? "boolean" : "string"));
    if (prop->help)
        json_object_object_add(one, "help", json_object_new_string(prop->help));
    json_object_array_add(list, one);
}

json_object *cli_describe_options(void)
{
    json_object *list = json_object_new_array();

    for (const CliOption *o = cli_options; o->name; o++) {
        json_object *one, *params;

        if (!o->opts)
            continue;
        one = json_object_new_object();
        params = describe_params(o->params);
        if (!strcmp(o->name, "machine") && type_find("pc-q35-1.0"))
            type_foreach_property(type_find("pc-q35-1.0"), add_machine_property, params);
        json_object_object_add(one, "option", json_object_new_string(
            o->params && o->alias ? o->alias : o->name));
        json_object_object_add(one, "parameters", params);
        json_object_array_add(list, one);
    }
    return list;
}

void cli_print_man_page(void)
{
    man_page("vireo", "run one virtual machine on KVM");
    man_section("SYNOPSIS");
    man_synopsis("vireo", "[OPTION [VALUE]]...");
    for (int section = 0; section < CLI__COUNT; section++) {
        man_section(cli_section_title(section));
        for (const CliOption *o = cli_options; o->name; o++) {
            g_autofree char *name = g_strconcat("-", o->name, NULL);

            if ((int)o->section != section)
                continue;
            man_option(0, name, o->value, o->help);
            man_indent();
            for (const CliParam *p = o->params; p && p->name; p++)
                man_option(0, p->name, NULL, p->help);
            man_unindent();
        }
    }
    man_section("EXIT STATUS");
    man_paragraph("0 after a shutdown, 1 when an option or the set-up was wrong.");
}

static void print_word(const Type *type, void *opaque)
{
    if (!type->abstract && (type->user_creatable || type_is_a(type, "machine")))
        printf(" %s", type->name);
}

static void print_machine_words(void)
{
    printf(" q35");
    type_foreach("machine", print_word, NULL);
}

static void print_device_words(void)
{
    type_foreach("device", print_word, NULL);
}

static void print_object_words(void)
{
    type_foreach("user-object", print_word, NULL);
}

static void print_chardev_word(const Type *type, void *opaque)
{
    if (!type->abstract && g_str_has_prefix(type->name, "chardev-"))
        printf(" %s", type->name + strlen("chardev-"));
}

static void print_chardev_words(void)
{
    type_foreach("chardev", print_chardev_word, NULL);
}

static void print_driver_word(const BlockDriver *driver, void *opaque)
{
    printf(" %s", driver->name);
}

static void print_driver_words(void)
{
    block_driver_foreach(print_driver_word, NULL);
}

static void print_trace_word(const char *name, bool enabled, void *opaque)
{
    printf(" %s", name);
}

static void print_trace_words(void)
{
    trace_foreach("*", print_trace_word, NULL);
}

/* The models are the first words of the list's lines, up to an empty one. */
static void print_cpu_words(void)
{
    g_autofree char *text = cpu_model_help();
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (unsigned i = 1; lines[0] && lines[i] && *lines[i]; i++)
        printf(" %.*s", (int)strcspn(lines[i] + 2, " "), lines[i] + 2);
}

void cli_print_completion(void)
{
    static const struct {
        const char *options;
        void (*print)(void);
    } topics[] = {
        { "-machine|-M", print_machine_words }, { "-device", print_device_words },
        { "-object", print_object_words }, { "-chardev", print_chardev_words },
        { "-blockdev", print_driver_words }, { "-cpu", print_cpu_words },
        { "-trace", print_trace_words },
    };

    printf("# bash completion for vireo: eval \"$(vireo -completion)\"\n"
           "_vireo() {\n    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
           "    [[ $before == --* ]] && before=${before#-}\n    case $before in\n");
    for (size_t i = 0; i < G_N_ELEMENTS(topics); i++) {
        printf("    %s) COMPREPLY=($(compgen -W \"help", topics[i].options);
        topics[i].print();
        printf("\" -- \"$word\")); return;;\n");
    }
    printf("    -kernel|-initrd|-bios|-pidfile|-readconfig|-D|-mem-path) "
           "COMPREPLY=($(compgen -f -- \"$word\")); return;;\n    esac\n"
           "    local dash=-\n    [[ $word == --* ]] && dash=--\n"
           "    COMPREPLY=($(compgen -P \"$dash\" -W \"");
    for (const CliOption *o = cli_options; o->name; o++)
        printf("%s ", o->name);
    printf("\" -- \"${word#\"$dash\"}\"))\n}\ncomplete -F _vireo vireo\n");
}
