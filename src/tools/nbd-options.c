/* The command line of vireo-nbd: qemu-nbd's options, as one table. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "src/base/manpage.h"
#include "src/base/options.h"
#include "src/base/trace.h"
#include "src/base/util.h"
#include "src/object/describe.h"
#include "src/tools/nbd.h"

enum {                                     /* options without a letter */
    OPT_CACHE = 256, OPT_AIO, OPT_DISCARD, OPT_DETECT_ZEROES, OPT_OBJECT, OPT_TLS_CREDS,
    OPT_TLS_AUTHZ, OPT_TLS_HOSTNAME, OPT_IMAGE_OPTS, OPT_FORK, OPT_PID_FILE, OPT_SELINUX,
    OPT_THREADS, OPT_POLL, OPT_MAN
};

static const struct {
    int key;
    const char *name, *value, *help;       /* value: NULL: it takes none */
} table[] = {
    { 'p', "port", "PORT", "TCP port to listen on (10809)" },
    { 'b', "bind", "HOST", "address to listen on (all of this host's)" },
    { 'k', "socket", "PATH", "unix socket to listen on, instead of TCP" },
    { 'e', "shared", "NUM", "so many clients at a time (1); 0: any number" },
    { 't', "persistent", NULL, "stay when the last client has gone" },
    { 'v', "verbose", NULL, "say on standard error what happens" },
    { 'x', "export-name", "NAME", "what clients call the export (empty)" },
    { 'D', "description", "TEXT", "what lists of exports say of it" },
    { 'o', "offset", "OFFSET", "begin so many bytes into the image" },
    { 'A', "allocation-depth", NULL, "offer qemu:allocation-depth" },
    { 'B', "bitmap", "NAME", "offer a dirty bitmap of the image; may be given again" },
    { 'L', "list", NULL, "list the exports of another server" },
    { OPT_OBJECT, "object", "OBJECT", "a user creatable object, as vireo's -object; help lists them" },
    { OPT_TLS_CREDS, "tls-creds", "ID", "TLS credentials: an object named before" },
    { OPT_TLS_AUTHZ, "tls-authz", "ID", "who may connect, by certificate or key: an authz-* object named before" },
    { OPT_TLS_HOSTNAME, "tls-hostname", "NAME", "with --list: whom the server's certificate must name, if not the "
                                        "host" },
    { 'T', "trace", "PATTERN", "trace events to write to standard error" },
    { OPT_FORK, "fork", NULL, "leave a server behind, and end when it can be connected to" },
    { OPT_PID_FILE, "pid-file", "PATH", "write the server's process id there" },
    { OPT_SELINUX, "selinux-label", "LABEL", "SELinux label of the socket that is listened at" },
    { 'c', "connect", "DEV", "the image becomes the device DEV (/dev/nbd0) of this host's kernel" },
    { 'd', "disconnect", NULL, "FILE is such a device: the kernel lets go of it" },
    { 'f', "format", "FMT", "the image's format; without it its first bytes tell" },
    { 'r', "read-only", NULL, "clients may not write" },
    { 's', "snapshot", NULL, "leave the image as it is: what is written is forgotten at the end" },
    { 'l', "load-snapshot", "SNAPSHOT", "an internal snapshot of the image, read-only: its id or "
                                        "name, or snapshot.id=ID,snapshot.name=NAME" },
    { 'n', "nocache", NULL, "the same as --cache=none" },
    { OPT_CACHE, "cache", "MODE", "none, writeback (the default), writethrough, directsync "
                                  "or unsafe" },
    { OPT_AIO, "aio", "MODE", "native, io_uring or threads" },
    { OPT_DISCARD, "discard", "MODE", "ignore or unmap (the default)" },
    { OPT_DETECT_ZEROES, "detect-zeroes", "MODE", "off (the default), on or unmap" },
    { OPT_IMAGE_OPTS, "image-opts", NULL, "FILE is a list of block options: driver=qcow2,…" },
    { OPT_THREADS, "threads", "NUM", "threads that serve clients; more than there are processors "
                                     "help nothing" },
    { OPT_POLL, "poll-max-ns", "NS", "how long a thread looks for the next request before it sleeps "
                                     "(200000); 0: not at all" },
    { 'h', "help", NULL, "this text" },
    { OPT_MAN, "man-page", NULL, "the manual page, as troff" },
    { 'V', "version", NULL, "the version" },
};

static const char status_text[] = "0: done. 1: it failed, and a line on standard error says why.";

/* ---- what the table says ---- */

static void print_help(void)
{
    printf("usage: vireo-nbd [OPTION]... FILE\n       vireo-nbd -c DEV [OPTION]... FILE\n"
           "       vireo-nbd -d DEV\n       vireo-nbd -L [OPTION]...\n"
           "Offers the image FILE to others over NBD.\n\n");
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        g_autofree char *left = g_strdup_printf("%s%s%s", table[i].name, table[i].value ? "=" : "",
                                                table[i].value ? table[i].value : "");

        if (table[i].key < 256)
            printf("  -%c, --%-26s %s\n", table[i].key, left, table[i].help);
        else
            printf("      --%-26s %s\n", left, table[i].help);
    }
    printf("\nExit status: %s\n", status_text);
}

static void print_man_page(void)
{
    man_page("vireo-nbd", "offer a disk image over NBD");
    man_section("SYNOPSIS");
    man_synopsis("vireo-nbd", "[OPTION]... FILE");
    man_synopsis("vireo-nbd", "-c DEV [OPTION]... FILE");
    man_synopsis("vireo-nbd", "-d DEV");
    man_synopsis("vireo-nbd", "-L [OPTION]...");
    man_section("DESCRIPTION");
    man_paragraph("Serves the image FILE by the Network Block Device protocol, on a unix socket, over "
                  "TCP, or to this host's kernel, which makes a block device of it. Without "
                  "--persistent it ends when the last client has gone; SIGTERM, SIGINT and SIGHUP end "
                  "it in order: what clients were told is done is in the image.");
    man_paragraph("A service manager may hand over listening sockets (LISTEN_FDS, LISTEN_PID).");
    man_section("OPTIONS");
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        g_autofree char *name = g_strconcat("--", table[i].name, NULL);

        man_option(table[i].key < 256 ? table[i].key : 0, name, table[i].value, table[i].help);
    }
    man_section("EXIT STATUS");
    man_paragraph(status_text);
    man_section("EXAMPLES");
    man_paragraph("vireo-nbd --fork --persistent --shared=5 --socket=/run/disk.sock -r -f qcow2 disk.qcow2");
    man_paragraph("vireo-nbd -c /dev/nbd0 -f qcow2 disk.qcow2; mount /dev/nbd0p1 /mnt; …; umount /mnt; "
                  "vireo-nbd -d /dev/nbd0");
}

static void print_trace_event(const char *name, bool enabled, void *opaque)
{
    printf("%s\n", name);
}

/* What an option asks for that is then all: true. */
static bool answer(int key, const char *value)
{
    g_autofree char *objects = key == OPT_OBJECT ? user_object_help(value) : NULL;

    if (objects)
        printf("%s", objects);
    else if (key == 'h')
        print_help();
    else if (key == 'V')
        printf("vireo-nbd %s\n", VIREO_VERSION);
    else if (key == OPT_MAN)
        print_man_page();
    else if (key == 'T' && !strcmp(value, "help"))
        trace_foreach("*", print_trace_event, NULL);
    else
        return false;
    return true;
}

/* ---- taking them ---- */

static bool take_size(const char *option, const char *text, uint64_t *ret, GError **error)
{
    g_autoptr(json_object) value = json_object_new_string(text);

    return value_to_size(value, option, ret, error);
}

static bool take_number(const char *option, const char *text, uint64_t most, uint64_t *ret,
                        GError **error)
{
    g_autoptr(json_object) value = json_object_new_string(text);

    if (!value_to_u64(value, option, ret, error))
        return false;
    return *ret <= most || fail(error, ERR_INVALID_PARAMETER, "%s: at most %" PRIu64, option, most);
}

static bool take_trace(const char *pattern, GError **error)
{
    const char *name = g_str_has_prefix(pattern, "enable=") ? strchr(pattern, '=') + 1 : pattern;

    return trace_set(name, true) ||
           fail(error, ERR_NOT_FOUND, "--trace: no trace event matches '%s'", name);
}

static bool take_option(NbdOptions *o, int key, const char *value, GError **error)
{
    switch (key) {
    case 'p': o->port = value; return true;
    case 'b': o->bind = value; return true;
    case 'k': o->socket = value; return true;
    case 'e': return take_number("--shared", value, INT_MAX, &o->shared, error);
    case 't': o->persistent = true; return true;
    case 'v': o->verbose = true; return true;
    case 'x': o->name = value; return true;
    case 'D': o->description = value; return true;
    case 'o': return take_size("--offset", value, &o->offset, error);
    case 'A': o->depth = true; return true;
    case 'B': g_ptr_array_add(o->bitmaps, (void *)value); return true;
    case 'L': o->list = true; return true;
    case 'T': return take_trace(value, error);
    case 'c': o->device = value; return true;
    case 'd': o->disconnect = true; return true;
    case 'f': o->format = value; return true;
    case 'r': o->read_only = true; return true;
    case 's': o->temporary = true; return true;
    case 'l': o->snapshot = value; o->read_only = true; return true;
    case 'n': o->cache = "none"; return true;
    case OPT_CACHE: o->cache = value; return true;
    case OPT_AIO: o->aio = value; return true;
    case OPT_DISCARD: o->discard = value; return true;
    case OPT_DETECT_ZEROES: o->detect_zeroes = value; return true;
    case OPT_OBJECT: g_ptr_array_add(o->objects, (void *)value); return true;
    case OPT_TLS_CREDS: o->tls_creds = value; return true;
    case OPT_TLS_AUTHZ: o->tls_authz = value; return true;
    case OPT_TLS_HOSTNAME: o->tls_hostname = value; return true;
    case OPT_IMAGE_OPTS: o->image_opts = true; return true;
    case OPT_FORK: o->fork = true; return true;
    case OPT_PID_FILE: o->pid_file = value; return true;
    case OPT_SELINUX: o->selinux = value; return true;
    case OPT_THREADS: return take_number("--threads", value, 64, &o->threads, error);
    case OPT_POLL: return take_number("--poll-max-ns", value, 1000000000, &o->poll_max_ns, error);
    }
    return fail(error, ERR_UNKNOWN_PARAMETER, "unknown option");
}

static bool check_options(const NbdOptions *o, GError **error)
{
    bool tcp = o->port || o->bind;

    if (!o->file != o->list)
        return fail(error, ERR_INVALID_PARAMETER,
                    o->list ? "List mode is incompatible with a file name"
                            : "Invalid number of arguments");
    if (o->list && (o->device || o->disconnect))
        return fail(error, ERR_INVALID_PARAMETER, "List mode is incompatible with %s",
                    o->device ? "--connect" : "--disconnect");
    if (o->device && o->disconnect)
        return fail(error, ERR_INVALID_PARAMETER, "--connect does not go with --disconnect");
    if (o->socket && tcp)
        return fail(error, ERR_INVALID_PARAMETER, "--socket does not go with --port and --bind");
    if (o->device && o->tls_creds && !o->socket && !tcp)
        return fail(error, ERR_INVALID_PARAMETER,
                    "--tls-creds: the kernel's own connection needs no TLS, and there is no other");
    if (o->tls_authz && !o->tls_creds)
        return fail(error, ERR_INVALID_PARAMETER, "--tls-authz is not permitted without --tls-creds");
    if (o->tls_authz && o->list)
        return fail(error, ERR_INVALID_PARAMETER, "TLS authorization is incompatible with export list");
    if (o->tls_hostname && !o->tls_creds)
        return fail(error, ERR_INVALID_PARAMETER, "--tls-hostname is not permitted without --tls-creds");
    if (o->tls_hostname && !o->list)
        return fail(error, ERR_INVALID_PARAMETER, "TLS hostname is only supported with export list");
    if (o->selinux && (o->list || (o->device && !o->socket && !tcp)))
        return fail(error, ERR_INVALID_PARAMETER, "--selinux-label: there is no socket to listen at");
    if (o->image_opts && o->format)
        return fail(error, ERR_INVALID_PARAMETER, "--image-opts and -f are mutually exclusive");
    if (o->temporary && o->snapshot)
        return fail(error, ERR_INVALID_PARAMETER, "--snapshot does not go with --load-snapshot: a "
                                                  "snapshot that is loaded is not written");
    if (o->detect_zeroes && !strcmp(o->detect_zeroes, "unmap") && o->discard &&
        strcmp(o->discard, "unmap") && strcmp(o->discard, "on"))
        return fail(error, ERR_INVALID_PARAMETER,
                    "--detect-zeroes=unmap is not allowed without --discard=unmap");
    return true;
}

static bool wrong_word(int key, const char *word, GError **error)
{
    fail(error, ERR_UNKNOWN_PARAMETER, key == '?' ? "unknown option '%s'" : "option '%s' needs a value",
         word);
    return error_hint(error, "vireo-nbd --help lists the options");
}

static void make_tables(struct option *longs, GString *shorts)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        longs[i] = (struct option){ table[i].name, table[i].value != NULL, NULL, table[i].key };
        if (table[i].key < 256)
            g_string_append_printf(shorts, "%c%s", table[i].key, table[i].value ? ":" : "");
    }
}

NbdAsked nbd_options_parse(NbdOptions *o, int argc, char **argv, GError **error)
{
    struct option longs[G_N_ELEMENTS(table) + 1] = { { 0 } };
    GString *shorts = g_string_new(":");
    NbdAsked asked = NBD_RUN;
    int key;

    o->shared = 1;
    o->poll_max_ns = 200000;
    o->objects = g_ptr_array_new();
    o->bitmaps = g_ptr_array_new();
    make_tables(longs, shorts);
    while (asked == NBD_RUN && (key = getopt_long(argc, argv, shorts->str, longs, NULL)) != -1) {
        if (key == '?' || key == ':') {
            wrong_word(key, argv[optind - 1], error);
            asked = NBD_WRONG;
        } else if (answer(key, optarg)) {
            asked = NBD_ANSWERED;
        } else if (!take_option(o, key, optarg, error)) {
            asked = NBD_WRONG;
        }
    }
    g_string_free(shorts, TRUE);
    if (asked != NBD_RUN)
        return asked;
    if (optind + 1 < argc) {
        fail(error, ERR_INVALID_PARAMETER, "Invalid number of arguments");
        return NBD_WRONG;
    }
    o->file = optind < argc ? argv[optind] : NULL;
    return check_options(o, error) ? NBD_RUN : NBD_WRONG;
}

void nbd_options_clear(NbdOptions *o)
{
    g_ptr_array_free(o->objects, TRUE);
    g_ptr_array_free(o->bitmaps, TRUE);
}
