/*
 * argv by the table of options: finds each, checks the names of its parameters, and gives it to its
 * handler.
 */
#include "block/block.h"
#include "src/cli/options.h"
#include <string.h>
#include "src/base/options.h"
#include "src/base/util.h"

const CliOption *cli_option_find(const char *name)
{
    for (const CliOption *o = cli_options; o->name; o++) {
        if (!strcmp(o->name, name) || (o->alias && !strcmp(o->alias, name)))
            return o;
    }
    return NULL;
}

/* What people who come from QEMU will type; the nearest word would only mislead them. */
static const char *const not_offered[] = {
    "L", "acpitable", "async-teardown", "audio", "audio-help", "cdrom", "chroot", "compat",
    "dfilter", "dtb", "dump-vmstate", "echr", "enable-sync-profile", "fda", "fdb", "fsdev",
    "full-screen", "fw_cfg", "gdb", "hda", "hdb", "hdc", "hdd", "icount", "incoming", "iscsi",
    "k", "loadvm", "mtdblock", "netdev", "no-fd-bootchk", "numa", "only-migratable", "option-rom",
    "pflash", "plugin", "portrait", "preconfig", "rotate", "run-with", "runas", "s", "sandbox",
    "sd", "sdl", "seed", "semihosting", "singlestep", "smbios", "spice", "tb-size",
    "tpmdev", "usb", "usbdevice", "virtfs", "vnc", "watchdog", "win2k-hack", "writeconfig",
    "xen-attach", "xen-domid", "xen-domid-restrict", NULL
};

static bool unknown_option(const char *word, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (const CliOption *o = cli_options; o->name; o++) {
        g_ptr_array_add(names, (char *)o->name);
        if (o->alias)
            g_ptr_array_add(names, (char *)o->alias);
    }
    g_ptr_array_add(names, NULL);
    if (g_strv_contains(not_offered, word)) {
        fail(error, ERR_UNSUPPORTED, "-%s: an option of QEMU that this build does not offer", word);
        return error_hint(error, "-help lists the options there are");
    }
    const char *near = nearest_word(word, (const char *const *)names->pdata);

    fail(error, ERR_UNKNOWN_PARAMETER, "-%s: no such option", word);
    return near ? error_hint(error, "did you mean -%s?", near)
                : error_hint(error, "-help lists the options");
}

/* Every member of @opts is in the option's table. */
bool cli_check(const CliOption *o, json_object *opts, GError **error)
{
    const char *known[32];
    size_t n = 0;

    if (!o->params)
        return true;
    for (const CliParam *p = o->params; p->name; p++)
        known[n++] = p->name;
    known[n] = NULL;
    json_object_object_foreach(opts, key, value) {
        const char *near;

        if (g_strv_contains(known, key))
            continue;
        near = nearest_word(key, known);
        fail(error, ERR_UNKNOWN_PARAMETER, "no parameter '%s'", key);
        if (near)
            return error_hint(error, "did you mean '%s'?", near);
        g_autofree char *list = g_strjoinv(", ", (char **)known);

        return error_hint(error, "there are: %s", list);
    }
    return true;
}

json_object *cli_parse_value(const CliOption *o, const char *value, const char *implied, GError **error)
{
    return strcmp(o->name, "drive") ? options_parse(value, implied, error) : block_drive_parse(value, error);
}

bool cli_apply(Config *config, const CliOption *o, json_object *opts, GError **error)
{
    return cli_check(o, opts, error) && o->opts(config, opts, error);
}

static bool take_opts(Config *config, const CliOption *o, const char *value, GError **error)
{
    g_autoptr(json_object) opts = NULL;
    g_autofree char *origin = g_strdup_printf("-%s %s", o->name, value);

    if (cli_is_help(value)) {
        config->exit_now = cli_print_topic(o->name, NULL) || cli_print_params(o);
        if (config->exit_now)
            return true;
    }
    opts = cli_parse_value(o, value, o->implied, error);
    if (!opts)
        return false;
    if (cli_print_topic(o->name, opts)) {
        config->exit_now = true;
        return true;
    }
    config_set_origin(config, opts, origin);
    return cli_apply(config, o, opts, error);
}

static bool take_option(Config *config, const CliOption *o, const char *value, GError **error)
{
    if (o->flag) {
        o->flag(config);
        return true;
    }
    if (o->opts ? take_opts(config, o, value, error)
                : (cli_is_help(value) && cli_print_topic(o->name, NULL)
                       ? (config->exit_now = true)
                       : o->text(config, value, error)))
        return true;
    return error_prefix(error, "-%s %s: ", o->name, value);
}

bool cli_parse(Config *config, int argc, char **argv, GError **error)
{
    for (int i = 1; i < argc && !config->exit_now; i++) {
        const char *word = argv[i];
        const CliOption *o;

        if (word[0] != '-' || !word[1]) {
            fail(error, ERR_UNSUPPORTED, "'%s': a disk image alone is not taken", word);
            return error_hint(error, "write -drive file=%s,format=raw,if=virtio", word);
        }
        word += word[1] == '-' && word[2] ? 2 : 1;
        o = cli_option_find(word);
        if (!o)
            return unknown_option(word, error);
        if (o->value && ++i >= argc) {
            fail(error, ERR_MISSING_PARAMETER, "-%s: its value is missing", o->name);
            return error_hint(error, "-%s %s", o->name, o->value);
        }
        if (!take_option(config, o, o->value ? argv[i] : NULL, error))
            return false;
    }
    return true;
}
