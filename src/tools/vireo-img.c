/* vireo-img: makes, converts and looks after disk images. */
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include "src/base/loop.h"
#include "src/base/manpage.h"
#include "src/base/trace.h"
#include "src/base/util.h"
#include "src/object/describe.h"
#include "src/tools/img.h"

static const ImgCommand *const commands[] = {
    &img_amend, &img_bench, &img_bitmap, &img_check, &img_commit, &img_compare, &img_convert,
    &img_create, &img_dd, &img_info, &img_map, &img_measure, &img_rebase, &img_resize,
    &img_snapshot,
};

/* ---- what the tables say ---- */

static void print_option(const ImgOption *o)
{
    g_autofree char *letter = o->key < 256 ? g_strdup_printf("-%c", o->key) : g_strdup("  ");
    g_autofree char *name = o->name ? g_strdup_printf("%s--%s", o->key < 256 ? ", " : "  ", o->name)
                                    : g_strdup("");
    int width = printf("  %s%s%s%s", letter, name, o->value ? " " : "", o->value ?: "");

    if (width > 30)
        printf("\n%30s", "");
    printf("%*s%s\n", width > 30 ? 0 : 30 - width, "", o->help);
}

static void print_command_help(const ImgCommand *c)
{
    printf("usage: vireo-img %s [OPTION]... %s\n%s.\n\n", c->name, c->operands, c->help);
    for (const ImgOption *o = c->options; o->key; o++)
        print_option(o);
    if (c->details)
        printf("\n%s", c->details);
}

static void print_format(const BlockDriver *driver, void *opaque)
{
    printf(" %s", driver->name);
}

static void print_help(void)
{
    printf("vireo-img %s: makes, converts and looks after disk images\n\n"
           "usage: vireo-img COMMAND [OPTION]... [OPERAND]...\n\n", VIREO_VERSION);
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++)
        printf("  %-10s %s\n", commands[i]->name, commands[i]->help);
    printf("\n  -h, --help     this text; with a command: its options\n"
           "  -V, --version  the version\n"
           "  -T, --trace    trace events to write to stderr (a pattern)\n"
           "      --man-page the manual page, as troff\n\nSupported formats:");
    block_driver_foreach(print_format, NULL);
    printf("\n");
}

static void print_man_command(const ImgCommand *c)
{
    g_autofree char *line = g_strconcat("vireo-img ", c->name, NULL);
    g_autofree char *arguments = g_strconcat("[OPTION]... ", c->operands, NULL);
    g_autofree char *help = g_strconcat(c->help, ".", NULL);

    man_subsection(c->name);
    man_synopsis(line, arguments);
    man_paragraph(help);
    for (const ImgOption *o = c->options; o->key; o++) {
        g_autofree char *name = o->name ? g_strconcat("--", o->name, NULL) : NULL;

        man_option(o->key < 256 ? o->key : 0, name, o->value, o->help);
    }
    if (c->details)
        man_paragraph(c->details);
}

static void print_man_page(void)
{
    man_page("vireo-img", "make, convert and look after disk images");
    man_section("SYNOPSIS");
    man_synopsis("vireo-img", "COMMAND [OPTION]... [OPERAND]...");
    man_section("DESCRIPTION");
    man_paragraph(
        "Images must not be changed while a machine uses them: locks keep that from happening, and "
        "the error names the process that holds one. Sizes are bytes, or have a suffix: k, M, G, "
        "T, P or E, powers of 1024. SIGUSR1 makes a long command tell how far it is.");
    man_section("COMMANDS");
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++)
        print_man_command(commands[i]);
    man_section("EXIT STATUS");
    man_paragraph("0: done. 1: it failed.");
    man_paragraph("compare: 0 the images are the same, 1 they differ, 2 or more: an error. check: 0 "
                  "no errors, 1 the check did not come to an end, 2 the image is corrupt, 3 it has "
                  "leaked clusters only, 63 the format has no checks.");
}

/* ---- options ---- */

typedef struct Getopt {
    GString *letters;
    GArray *names;                         /* of struct option */
} Getopt;

static void getopt_of(const ImgCommand *c, Getopt *g)
{
    struct option help = { "help", no_argument, NULL, 'h' };

    g->letters = g_string_new("h");
    g->names = g_array_new(TRUE, TRUE, sizeof(struct option));
    g_array_append_val(g->names, help);
    for (const ImgOption *o = c->options; o->key; o++) {
        struct option name = { o->name, o->value ? required_argument : no_argument, NULL, o->key };

        if (o->key < 256)
            g_string_append_printf(g->letters, "%c%s", o->key, o->value ? ":" : "");
        if (o->name)
            g_array_append_val(g->names, name);
    }
}

enum { PARSED, PARSED_HELP, PARSED_WRONG };

static int parse_options(Img *img, int argc, char **argv)
{
    char *size = img->command->size_last && argc > 1 ? argv[--argc] : NULL;
    int result = PARSED, key;
    Getopt g;

    if (size)
        argv[argc] = NULL;
    getopt_of(img->command, &g);
    optind = 0;
    while ((key = getopt_long(argc, argv, g.letters->str, (struct option *)g.names->data, NULL)) >=
           0) {
        ImgGiven given = { key, optarg };

        if (key == '?' || key == 'h') {
            result = key == 'h' ? PARSED_HELP : PARSED_WRONG;
            break;
        }
        g_array_append_val(img->given, given);
    }
    img->n_operands = argc - optind;
    img->operands = argv + optind;
    if (size) {
        argv[argc] = size;
        img->n_operands++;
        if (!strcmp(size, "-h") || !strcmp(size, "--help"))
            result = PARSED_HELP;
    }
    g_string_free(g.letters, TRUE);
    g_array_free(g.names, TRUE);
    return result;
}

bool img_has(const Img *img, int key)
{
    for (unsigned i = 0; i < img->given->len; i++)
        if (g_array_index(img->given, ImgGiven, i).key == key)
            return true;
    return false;
}

const char *img_value(const Img *img, int key)
{
    for (unsigned i = img->given->len; i-- > 0;)
        if (g_array_index(img->given, ImgGiven, i).key == key)
            return g_array_index(img->given, ImgGiven, i).value;
    return NULL;
}

char *img_values(const Img *img, int key)
{
    g_autoptr(GString) all = NULL;

    for (unsigned i = 0; i < img->given->len; i++) {
        const ImgGiven *given = &g_array_index(img->given, ImgGiven, i);

        if (given->key != key)
            continue;
        if (!all)
            all = g_string_new(given->value);
        else
            g_string_append_printf(all, ",%s", given->value);
    }
    return all ? g_string_free(g_steal_pointer(&all), FALSE) : NULL;
}

bool img_parse_size(const char *text, const char *what, uint64_t *ret, GError **error)
{
    g_autoptr(json_object) value = json_object_new_string(text);

    if (!value_to_size(value, what, ret, error))
        return false;
    if (*ret > INT64_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "%s must be less than 8 EiB", what);
    return true;
}

bool img_size_value(const Img *img, int key, const char *what, uint64_t *ret, GError **error)
{
    const char *text = img_value(img, key);

    return !text || img_parse_size(text, what, ret, error);
}

int img_usage(GError **error, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    fail(error, ERR_INVALID_PARAMETER, "%s", text);
    error_hint(error, "Try 'vireo-img --help' for more information");
    return 1;
}

void img_print(const Img *img, const char *format, ...)
{
    va_list args;

    if (img->quiet)
        return;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
}

/* ---- running a command ---- */

/* SIGUSR1 asks how far it is. */
typedef struct ProgressSignal {
    Img *img;
    int fd;
} ProgressSignal;

static void on_signal(void *opaque, unsigned events)
{
    ProgressSignal *s = opaque;
    ImgProgress *p = &s->img->progress;
    struct signalfd_siginfo info;

    if (read(s->fd, &info, sizeof(info)) != sizeof(info))
        return;
    fprintf(stderr, "    (%3.2f/100%%)\n",
            p->total ? 100.0 * __atomic_load_n(&p->done, __ATOMIC_RELAXED) / p->total : 0.0);
}

static int signal_descriptor(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool make_objects(Img *img, GError **error)
{
    for (unsigned i = 0; i < img->given->len; i++) {
        const ImgGiven *given = &g_array_index(img->given, ImgGiven, i);
        g_autoptr(json_object) options = NULL;

        if (given->key != IMG_OBJECT)
            continue;
        options = options_parse(given->value, "qom-type", error);
        if (!options || !object_create_user(img->root, options, error))
            return error_prefix(error, "--object: ");
    }
    return true;
}

static bool check_output(Img *img, GError **error)
{
    const char *output = img_value(img, IMG_OUTPUT);

    img->quiet = img_has(img, 'q');
    img->progress.bar = img_has(img, 'p') && !img->quiet;
    img->json = output && !strcmp(output, "json");
    if (output && !img->json && strcmp(output, "human"))
        return fail(error, ERR_INVALID_PARAMETER, "--output must be used with human or json as "
                                                  "argument.");
    if (img->n_operands >= img->command->min && img->n_operands <= img->command->max)
        return true;
    img_usage(error, "%s expects %s%s", img->command->name, img->command->operands,
              img->n_operands ? "" : ", and there is nothing");
    return false;
}

static int run_with_graph(Img *img, GError **error)
{
    ProgressSignal progress = { img, signal_descriptor() };
    LoopFd *watch = loop_add_fd(loop_main(), progress.fd, G_IO_IN, on_signal, &progress);
    int status = 1;

    img->root = object_new_by_name("container", error);
    img->graph = img->root ? block_graph_new(img->root, error) : NULL;
    if (img->graph && make_objects(img, error))
        status = img->command->run(img, error);
    if (img->graph) {
        block_graph_close(img->graph);
        object_unparent(OBJECT(img->graph));
    }
    object_unref(img->root);
    loop_fd_remove(watch);
    close(progress.fd);
    return status;
}

static int report(GError *error, int status)
{
    if (!error)
        return status;
    error_report(error);
    g_error_free(error);
    return status ? status : 1;
}

/* --object help, --object TYPE,help: then that is all. */
static bool tell_of_objects(Img *img)
{
    for (unsigned i = 0; i < img->given->len; i++) {
        const ImgGiven *given = &g_array_index(img->given, ImgGiven, i);
        g_autofree char *text = given->key == IMG_OBJECT ? user_object_help(given->value) : NULL;

        if (text)
            return printf("%s", text) >= 0;
    }
    return false;
}

static int run_command(const ImgCommand *command, int argc, char **argv)
{
    Img img = { .command = command };
    GError *error = NULL;
    int status;

    img.given = g_array_new(FALSE, FALSE, sizeof(ImgGiven));
    switch (parse_options(&img, argc, argv)) {
    case PARSED_HELP:
        print_command_help(command);
        status = 0;
        break;
    case PARSED_WRONG:
        fprintf(stderr, "Try 'vireo-img --help' for more information\n");
        status = command == &img_compare ? 2 : 1;
        break;
    default:
        if (tell_of_objects(&img))
            status = 0;
        else if (check_output(&img, &error))
            status = run_with_graph(&img, &error);
        else
            status = command == &img_compare ? 2 : 1;
    }
    g_array_free(img.given, TRUE);
    return report(error, status);
}

static const ImgCommand *find_command(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++)
        if (!strcmp(commands[i]->name, name))
            return commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[G_N_ELEMENTS(commands) + 1] = { NULL };
    const char *near;
    GError *error = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++)
        names[i] = commands[i]->name;
    near = nearest_word(name, names);
    fail(&error, ERR_COMMAND_NOT_FOUND, "Command not found: %s", name);
    if (near)
        error_hint(&error, "did you mean '%s'?", near);
    else
        error_hint(&error, "Try 'vireo-img --help' for more information");
    return report(error, 1);
}

int main(int argc, char **argv)
{
    const ImgCommand *command;
    GError *error = NULL;

    g_set_prgname("vireo-img");
    argv[0] = (char *)"vireo-img";
    while (argc > 2 && (!strcmp(argv[1], "-T") || !strcmp(argv[1], "--trace"))) {
        if (!trace_set(argv[2], true)) {
            fail(&error, ERR_NOT_FOUND, "-T %s: no event has such a name", argv[2]);
            return report(error, 1);
        }
        argc -= 2;
        argv += 2;
    }
    if (argc < 2) {
        img_usage(&error, "Not enough arguments");
        return report(error, 1);
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
        return print_help(), 0;
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V"))
        return printf("vireo-img version %s\n", VIREO_VERSION), 0;
    if (!strcmp(argv[1], "--man-page"))
        return print_man_page(), 0;
    command = find_command(argv[1]);
    if (!command)
        return unknown_command(argv[1]);
    argv[1] = (char *)"vireo-img";
    return run_command(command, argc - 1, argv + 1);
}
