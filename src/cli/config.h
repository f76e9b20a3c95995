/*
 * What the command line asks for, parsed but not yet built.  cli_parse fills it from the table in
 * options.c; src/setup.c builds a machine from it.  Main thread; plain data.
 */
#pragma once
#include <json-c/json.h>
#include "src/base/error.h"
#include "src/kvm/cpu.h"

typedef struct Config {
    /* Key=value options given several times are merged; lists keep their order. */
    json_object *machine;                  /* -machine, -accel: {"type": …, "accel": …, …} */
    json_object *memory;                   /* -m */
    json_object *rtc, *boot, *actions, *overcommit;
    GPtrArray *objects, *chardevs, *blockdevs, *drives, *devices, *globals, *add_fds, *mons;
                                           /* of json_object */
    GPtrArray *serials, *monitors, *qmps, *qmps_pretty, *debugcons;   /* of char *, as written */
    char *cpu;
    SmpTopology smp;                       /* all zero: not given */
    char *name, *process_name, *uuid;
    char *kernel, *initrd, *append, *firmware, *mem_path;
    char *pidfile, *log_file, *log_mask;
    GHashTable *origins;                   /* json_object -> char *: "-device X,id=a" */
    GPtrArray *traces;                     /* of char *: patterns */
    bool stopped;                          /* -S */
    bool daemonize, nographic, display_none, no_defaults, no_user_config, debug_threads;
    bool snapshot;                         /* of every -drive */
    bool mem_prealloc, no_reboot, no_shutdown, timestamps;
    bool exit_now;                         /* help or a version was printed */
} Config;

Config *config_new(void);
void config_free(Config *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Config, config_free)

/* Where options came from, for errors that are found later; @origin is copied. */
void config_set_origin(Config *config, json_object *opts, const char *origin);
/* Puts that before an error's text; false. */
bool config_blame(const Config *config, json_object *opts, GError **error);

/* argv[1…]: false names the option, what is wrong and the nearest right one. */
bool cli_parse(Config *config, int argc, char **argv, GError **error);
/* -readconfig FILE: QEMU's ini form, [section "id"] and key = "value". */
bool cli_read_config(Config *config, const char *path, GError **error);
/* -set GROUP.ID.ARG=VALUE: changes what was given before it. */
bool cli_set(Config *config, const char *text, GError **error);
