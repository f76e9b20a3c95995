/*
 * The table of command-line options, from which parsing, -help, completion, the man page and
 * query-command-line-options come.
 */
#pragma once
#include "src/cli/config.h"

typedef enum CliSection {
    CLI_STANDARD, CLI_BLOCK, CLI_CHARDEV, CLI_BOOT, CLI_DEVICE, CLI_CONTROL, CLI_DEBUG, CLI__COUNT
} CliSection;

/* A parameter of a key=value option. */
typedef struct CliParam {
    const char *name;
    enum { PARAM_STRING, PARAM_BOOL, PARAM_NUMBER, PARAM_SIZE } type;
    const char *help;
} CliParam;

typedef struct CliOption {
    const char *name, *alias;              /* without the dash */
    const char *value;                     /* how help shows the value; NULL: takes none */
    const char *help;                      /* one line */
    CliSection section;
    /* One of these three: a switch, a text, or key=value (also JSON) parsed beforehand. */
    void (*flag)(Config *config);
    bool (*text)(Config *config, const char *value, GError **error);
    bool (*opts)(Config *config, json_object *opts, GError **error);
    const char *implied;                   /* opts: key of a first word without '=' */
    const CliParam *params;                /* opts: what it takes, ended by {}; NULL: anything */
} CliOption;

extern const CliOption cli_options[];      /* ended by {} */
const CliOption *cli_option_find(const char *name);
/* What the option's value says: an object; NULL: it is ill-formed.  @implied: the first parameter's name, if
 * that may be left out; or NULL. */
json_object *cli_parse_value(const CliOption *option, const char *value, const char *implied, GError **error);
/* Gives @opts to the option's handler, if the names in it are its parameters'. */
bool cli_apply(Config *config, const CliOption *option, json_object *opts, GError **error);
/* That alone. */
bool cli_check(const CliOption *option, json_object *opts, GError **error);
const char *cli_section_title(CliSection section);

/* help.c: texts for people, written to stdout. */
void cli_print_help(void);
void cli_print_version(void);
void cli_print_man_page(void);
void cli_print_completion(void);           /* for bash */
/* "-smp help": false, if the option has no table of parameters. */
bool cli_print_params(const CliOption *option);
/* "-device help", "-machine help", "-cpu help", "-device X,help" …: true if it was a question.
 * @opts NULL: "help" was all. */
bool cli_print_topic(const char *option, json_object *opts);
bool cli_is_help(const char *value);       /* "help" or "?" */
/* query-command-line-options: [{"option", "parameters": [{"name", "type", "help"}]}]. */
json_object *cli_describe_options(void);
