/*
 * vireo-nbd: offers an image to others over NBD.  Options are those of qemu-nbd.
 *
 *     options -> (fork) -> objects -> image -> export -> sockets -> serve
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include "block/chain.h"
#include "block/export.h"
#include "block/image.h"
#include "block/nbd/proto.h"
#include "src/base/trace.h"
#include "src/base/util.h"
#include "src/tools/nbd.h"

enum {                                     /* options without a letter */
    OPT_CACHE = 256, OPT_AIO, OPT_DISCARD, OPT_DETECT_ZEROES, OPT_OBJECT, OPT_TLS_CREDS,
    OPT_TLS_AUTHZ, OPT_TLS_HOSTNAME, OPT_IMAGE_OPTS, OPT_FORK, OPT_PID_FILE, OPT_SELINUX,
    OPT_THREADS
};

static const struct {
    int key;
    const char *name, *value, *help;       /* value: NULL: it takes none */
} table[] = {
    { 'h', "help", NULL, "show this" },
    { 'V', "version", NULL, "show the version" },
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
    { OPT_OBJECT, "object", "OBJECT", "a user creatable object, as vireo's -object" },
    { OPT_TLS_CREDS, "tls-creds", "ID", "TLS credentials: an object named before" },
    { OPT_TLS_AUTHZ, "tls-authz", "ID", "not offered" },
    { OPT_TLS_HOSTNAME, "tls-hostname", "NAME", "not offered" },
    { OPT_FORK, "fork", NULL, "leave a server behind, and end when it can be connected to" },
    { OPT_PID_FILE, "pid-file", "PATH", "write the server's process id there" },
    { OPT_SELINUX, "selinux-label", "LABEL", "not offered" },
    { 'c', "connect", "DEV", "not offered: the kernel's NBD client" },
    { 'd', "disconnect", NULL, "not offered: the kernel's NBD client" },
    { 'f', "format", "FMT", "the image's format; without it its first bytes tell" },
    { 'r', "read-only", NULL, "clients may not write" },
    { 's', "snapshot", NULL, "not offered: writes to a temporary image" },
    { 'l', "load-snapshot", "SNAPSHOT", "an internal snapshot of the image, read-only" },
    { 'n', "nocache", NULL, "the same as --cache=none" },
    { OPT_CACHE, "cache", "MODE", "none, writeback (the default), writethrough, directsync "
                                  "or unsafe" },
    { OPT_AIO, "aio", "MODE", "native, io_uring or threads" },
    { OPT_DISCARD, "discard", "MODE", "ignore or unmap (the default)" },
    { OPT_DETECT_ZEROES, "detect-zeroes", "MODE", "off (the default), on or unmap" },
    { OPT_IMAGE_OPTS, "image-opts", NULL, "FILE is a list of block options: driver=qcow2,…" },
    { OPT_THREADS, "threads", "NUM", "threads that serve clients; more than there are processors "
                                     "help nothing" },
};

typedef struct Options {
    const char *port, *bind, *socket, *name, *description, *format, *cache, *aio, *discard,
        *detect_zeroes, *tls_creds, *tls_authz, *pid_file, *snapshot, *file;
    uint64_t offset, shared, threads;
    bool persistent, verbose, depth, list, read_only, image_opts, fork;
    GPtrArray *objects, *bitmaps;          /* of const char */
} Options;

typedef struct Server {
    Options options;
    Object *root;
    BlockGraph *graph;
    BlockExports *exports;
    BlockNode *image;                      /* held; NULL: the graph does */
    char *image_name;                      /* of the node that is exported */
    int signals;
    bool seen, done;                       /* a client was there; it is over */
} Server;

/* ---- options ---- */

static void show_help(void)
{
    printf("usage: vireo-nbd [OPTION]… FILE\n       vireo-nbd -L [OPTION]…\n"
           "Offers the image FILE to others over NBD.\n\n");
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        g_autofree char *left = g_strdup_printf("%s%s%s", table[i].name, table[i].value ? "=" : "",
                                                table[i].value ? table[i].value : "");

        if (table[i].key < 256)
            printf("  -%c, --%-26s %s\n", table[i].key, left, table[i].help);
        else
            printf("      --%-26s %s\n", left, table[i].help);
    }
}

static bool refuse(GError **error, const char *option, const char *hint)
{
    fail(error, ERR_UNSUPPORTED, "%s is not offered by this build", option);
    return error_hint(error, "%s", hint);
}

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

static bool take_option(Options *o, int key, const char *value, GError **error)
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
    case 'f': o->format = value; return true;
    case 'r': o->read_only = true; return true;
    case 'l': o->snapshot = value; o->read_only = true; return true;
    case 'n': o->cache = "none"; return true;
    case OPT_CACHE: o->cache = value; return true;
    case OPT_AIO: o->aio = value; return true;
    case OPT_DISCARD: o->discard = value; return true;
    case OPT_DETECT_ZEROES: o->detect_zeroes = value; return true;
    case OPT_OBJECT: g_ptr_array_add(o->objects, (void *)value); return true;
    case OPT_TLS_CREDS: o->tls_creds = value; return true;
    case OPT_TLS_AUTHZ: o->tls_authz = value; return true;
    case OPT_IMAGE_OPTS: o->image_opts = true; return true;
    case OPT_FORK: o->fork = true; return true;
    case OPT_PID_FILE: o->pid_file = value; return true;
    case OPT_THREADS: return take_number("--threads", value, 64, &o->threads, error);
    case 's':
        return refuse(error, "--snapshot", "make an overlay with vireo-img create -b, serve that");
    case 'c':
    case 'd':
        return refuse(error, key == 'c' ? "--connect" : "--disconnect",
                      "nbd-client connects a kernel's device to a server's socket");
    case OPT_TLS_HOSTNAME:
        return refuse(error, "--tls-hostname", "the name in the address is checked");
    case OPT_SELINUX:
        return refuse(error, "--selinux-label", "start it in a domain of its own");
    }
    return fail(error, ERR_UNKNOWN_PARAMETER, "unknown option");
}

static bool check_options(const Options *o, GError **error)
{
    bool tcp = o->port || o->bind;

    if (!o->file != o->list)
        return fail(error, ERR_INVALID_PARAMETER,
                    o->list ? "List mode is incompatible with a file name"
                            : "Invalid number of arguments");
    if (o->socket && tcp)
        return fail(error, ERR_INVALID_PARAMETER, "--socket does not go with --port and --bind");
    if (o->image_opts && o->format)
        return fail(error, ERR_INVALID_PARAMETER, "--image-opts and -f are mutually exclusive");
    return true;
}

/* False with *error: a wrong line.  False without: -h or -V, which have been answered. */
static bool parse(Options *o, int argc, char **argv, GError **error)
{
    struct option longs[G_N_ELEMENTS(table) + 1] = { { 0 } };
    GString *shorts = g_string_new(":");
    int key;
    bool ok = true;

    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        longs[i] = (struct option){ table[i].name, table[i].value != NULL, NULL, table[i].key };
        if (table[i].key < 256)
            g_string_append_printf(shorts, "%c%s", table[i].key, table[i].value ? ":" : "");
    }
    while (ok && (key = getopt_long(argc, argv, shorts->str, longs, NULL)) != -1) {
        if (key == 'h' || key == 'V') {
            if (key == 'h')
                show_help();
            else
                printf("vireo-nbd %s\n", VIREO_VERSION);
            g_string_free(shorts, TRUE);
            return false;
        }
        if (key == '?' || key == ':') {
            ok = fail(error, ERR_UNKNOWN_PARAMETER, key == '?' ? "unknown option '%s'"
                                                               : "option '%s' needs a value",
                      argv[optind - 1]);
            error_hint(error, "vireo-nbd --help lists the options");
        } else {
            ok = take_option(o, key, optarg, error);
        }
    }
    g_string_free(shorts, TRUE);
    if (ok && optind + 1 < argc)
        return fail(error, ERR_INVALID_PARAMETER, "Invalid number of arguments");
    o->file = optind < argc ? argv[optind] : NULL;
    return ok && check_options(o, error);
}

/* ---- the image ---- */

static void put_text(json_object *options, const char *key, const char *text)
{
    if (text)
        json_object_object_add(options, key, json_object_new_string(text));
}

static void put_bool(json_object *options, const char *key, bool on)
{
    json_object_object_add(options, key, json_object_new_boolean(on));
}

static bool put_cache(const Options *o, json_object *options, GError **error)
{
    static const char *const modes[] = { "none", "writeback", "writethrough", "directsync",
                                         "unsafe", NULL };
    const char *mode = o->cache ? o->cache : "writeback";
    json_object *cache;

    if (!g_strv_contains(modes, mode))
        return fail(error, ERR_INVALID_PARAMETER, "Invalid cache mode '%s'", mode);
    cache = json_object_new_object();
    put_bool(cache, "direct", !strcmp(mode, "none") || !strcmp(mode, "directsync"));
    put_bool(cache, "no-flush", !strcmp(mode, "unsafe"));
    json_object_object_add(options, "cache", cache);
    return true;
}

static bool writethrough(const Options *o)
{
    return o->cache && (!strcmp(o->cache, "writethrough") || !strcmp(o->cache, "directsync"));
}

static BlockNode *co_fn open_by_options(Server *s, json_object *common, GError **error)
{
    g_autoptr(json_object) options = options_parse(s->options.file, "driver", error);

    if (!options)
        return NULL;
    json_object_object_foreach(common, key, value) {
        if (!json_object_object_get_ex(options, key, NULL))
            json_object_object_add(options, key, json_object_get(value));
    }
    return block_node_open(s->graph, options, error);
}

static BlockNode *co_fn open_by_name(Server *s, json_object *common, GError **error)
{
    const Options *o = &s->options;
    g_autoptr(json_object) protocol = block_filename_options(o->file, NULL, error);
    json_object *driver;

    if (!protocol)
        return NULL;
    if (o->aio && json_object_object_get_ex(protocol, "driver", &driver) &&
        !strcmp(json_object_get_string(driver), "nbd"))
        return fail(error, ERR_INVALID_PARAMETER, "--aio is for files"), NULL;
    put_text(protocol, "aio", o->aio);
    return block_image_open_on(s->graph, protocol, o->format, common, error);
}

/* "ID_OR_NAME", "snapshot.id=ID", "snapshot.name=NAME" */
static bool co_fn show_snapshot(BlockNode *node, const char *param, GError **error)
{
    const char *name = param;

    if (g_str_has_prefix(param, "snapshot.id="))
        name = param + strlen("snapshot.id=");
    else if (g_str_has_prefix(param, "snapshot.name="))
        name = param + strlen("snapshot.name=");
    return block_co_snapshot_load(node, name, error) >= 0;
}

static bool co_fn open_image(Server *s, GError **error)
{
    const Options *o = &s->options;
    g_autoptr(json_object) common = json_object_new_object(), window = NULL;
    BlockNode *node;

    put_text(common, "node-name", "image");
    put_bool(common, "read-only", o->read_only);
    put_text(common, "discard", o->discard ? o->discard : "unmap");
    put_text(common, "detect-zeroes", o->detect_zeroes);
    if (!put_cache(o, common, error))
        return false;
    node = o->image_opts ? open_by_options(s, common, error) : open_by_name(s, common, error);
    s->image = o->image_opts ? NULL : node;
    if (!node)
        return error_prefix(error, "Failed to open '%s': ", o->file);
    if (o->snapshot && !show_snapshot(node, o->snapshot, error))
        return error_prefix(error, "Failed to load snapshot: ");
    s->image_name = g_strdup(block_node_name(node));
    if (!o->offset)
        return true;
    if (o->offset >= (uint64_t)block_node_size(node))
        return fail(error, ERR_INVALID_PARAMETER, "Offset (%" PRIu64 ") has to be smaller than the "
                    "image size (%" PRId64 ")", o->offset, block_node_size(node));
    window = json_object_new_object();
    put_text(window, "driver", "raw");
    put_text(window, "node-name", "window");
    put_text(window, "file", s->image_name);
    put_bool(window, "read-only", o->read_only);
    put_text(window, "discard", "unmap");
    json_object_object_add(window, "offset", json_object_new_int64(o->offset));
    g_free(s->image_name);
    s->image_name = g_strdup("window");
    return block_node_open(s->graph, window, error) != NULL;
}

typedef struct Opening {
    Server *server;
    GError **error;
    bool ok;
} Opening;

static void co_fn open_run(void *opaque)
{
    Opening *opening = opaque;

    opening->ok = open_image(opening->server, opening->error);
}

/* ---- the server ---- */

static void on_client(unsigned clients, void *opaque)
{
    Server *s = opaque;

    s->seen |= clients > 0;
    if (s->seen && !clients && !s->options.persistent) {
        s->done = true;
        loop_kick(loop_main());
    }
}

static bool start_threads(Server *s, json_object *export, GError **error)
{
    const Options *o = &s->options;
    uint64_t count = o->threads ? o->threads
                                : MIN(o->shared ? o->shared : 16, g_get_num_processors());
    json_object *names = json_object_new_array();

    json_object_object_add(export, "iothread", names);
    for (uint64_t i = 0; i < count; i++) {
        g_autoptr(json_object) thread = json_object_new_object();
        g_autofree char *id = g_strdup_printf("serve%" PRIu64, i);

        put_text(thread, "qom-type", "iothread");
        put_text(thread, "id", id);
        if (!object_create_user(s->root, thread, error))
            return false;
        json_object_array_add(names, json_object_new_string(id));
    }
    return true;
}

static bool add_export(Server *s, GError **error)
{
    const Options *o = &s->options;
    g_autoptr(json_object) export = json_object_new_object();
    json_object *bitmaps = json_object_new_array();

    put_text(export, "type", "nbd");
    put_text(export, "id", "export");
    put_text(export, "node-name", s->image_name);
    put_text(export, "name", o->name ? o->name : "");
    put_text(export, "description", o->description);
    put_bool(export, "writable", !o->read_only);
    put_bool(export, "writethrough", writethrough(o));
    put_bool(export, "allocation-depth", o->depth);
    put_bool(export, "multi-conn", o->shared != 1);
    for (unsigned i = 0; i < o->bitmaps->len; i++)
        json_object_array_add(bitmaps, json_object_new_string(o->bitmaps->pdata[i]));
    json_object_object_add(export, "bitmaps", bitmaps);
    return start_threads(s, export, error) && block_export_add(s->exports, export, error);
}

static json_object *address(const Options *o)
{
    json_object *addr = json_object_new_object();

    put_text(addr, "type", o->socket ? "unix" : "inet");
    if (o->socket) {
        put_text(addr, "path", o->socket);
    } else {
        put_text(addr, "host", o->bind ? o->bind : "");
        put_text(addr, "port", o->port ? o->port : "10809");
    }
    return addr;
}

/* Sockets that a service manager made (sd_listen_fds(3)); 0: none. */
static unsigned inherited_sockets(void)
{
    const char *pid = g_getenv("LISTEN_PID"), *count = g_getenv("LISTEN_FDS");
    unsigned n = pid && count && strtol(pid, NULL, 10) == getpid() ? strtoul(count, NULL, 10) : 0;

    g_unsetenv("LISTEN_PID");
    g_unsetenv("LISTEN_FDS");
    return MIN(n, 64);
}

static bool listen_inherited(Server *s, unsigned count, GError **error)
{
    const Options *o = &s->options;

    if (o->socket || o->port || o->bind)
        return fail(error, ERR_INVALID_PARAMETER, "a socket was handed over (LISTEN_FDS): "
                                                  "--socket, --port and --bind are one too many");
    for (unsigned i = 0; i < count; i++) {
        fcntl(3 + i, F_SETFD, FD_CLOEXEC);
        if (!nbd_server_add_socket(s->exports, 3 + i, error))
            return false;
    }
    return true;
}

static bool start_server(Server *s, unsigned inherited, GError **error)
{
    const Options *o = &s->options;
    g_autoptr(json_object) addr = inherited ? NULL : address(o);
    NbdServerOptions options = { .addr = NULL, .tls_creds = o->tls_creds, .tls_authz = o->tls_authz,
                                 .max_connections = o->shared,
                                 .handshake_seconds = NBD_HANDSHAKE_SECONDS,
                                 .on_client = on_client, .opaque = s };

    if (!nbd_server_start(s->exports, &options, error))
        return false;
    /* Listening last: who can connect finds the export. */
    if (!add_export(s, error))
        return false;
    return inherited ? listen_inherited(s, inherited, error)
                     : nbd_server_add_address(s->exports, addr, error);
}

/* ---- life of the process ---- */

static void on_signal(void *opaque, unsigned events)
{
    Server *s = opaque;
    struct signalfd_siginfo info;

    if (read(s->signals, &info, sizeof(info)) == sizeof(info))
        s->done = true;
}

static int block_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* In the child: the descriptor on which the parent waits.  Does not return in the parent, which
 * ends as the child's set-up does. */
static int fork_server(void)
{
    int fds[2];
    char ok = 0;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
        fprintf(stderr, "vireo-nbd: --fork: %s\n", strerror(errno));
        exit(1);
    }
    if (pid) {
        close(fds[1]);
        while (read(fds[0], &ok, 1) < 0 && errno == EINTR)
            continue;
        _exit(ok ? 0 : 1);
    }
    close(fds[0]);
    setsid();
    return fds[1];
}

static bool write_pid(const char *path, GError **error)
{
    g_autofree char *text = g_strdup_printf("%d\n", getpid());
    g_autoptr(GError) cause = NULL;

    return g_file_set_contents(path, text, -1, &cause) ||
           fail(error, ERR_HOST, "--pid-file: %s", cause->message);
}

static void let_parent_go(int fd)
{
    auto_fd notify = fd;
    auto_fd null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int i = 0; null >= 0 && i < 3; i++)
        dup2(null, i);
    if (write(notify, "k", 1) != 1)
        return;                            /* it has gone: nobody waits */
}

static bool make_objects(Server *s, GError **error)
{
    for (unsigned i = 0; i < s->options.objects->len; i++) {
        const char *text = s->options.objects->pdata[i];
        g_autoptr(json_object) object = options_parse(text, "qom-type", error);

        if (!object || !object_create_user(s->root, object, error))
            return error_prefix(error, "--object: ");
    }
    return true;
}

static bool run(Server *s, unsigned inherited, int parent, GError **error)
{
    Opening opening = { s, error, false };
    LoopFd *watch;
    bool ok;

    if (!make_objects(s, error))
        return false;
    if (s->options.list)
        return nbd_list(s->root, s->options.socket, s->options.bind, s->options.port,
                        s->options.tls_creds, error);
    s->exports = block_exports_of(s->root);
    co_run_sync(open_run, &opening);
    if (!opening.ok || !start_server(s, inherited, error) ||
        (s->options.pid_file && !write_pid(s->options.pid_file, error)))
        return false;
    watch = loop_add_fd(loop_main(), s->signals, G_IO_IN, on_signal, s);
    if (parent >= 0)
        let_parent_go(parent);
    loop_wait(&s->done);
    loop_fd_remove(watch);
    ok = nbd_server_stop(s->exports, error);
    if (s->options.pid_file)
        unlink(s->options.pid_file);
    return ok;
}

static void delete_objects(Object *root)
{
    Object *objects = object_child(root, "objects");

    while (objects && objects->children && objects->children->len) {
        Object *object = objects->children->pdata[objects->children->len - 1];

        object_unrealize(object);
        object_unparent(object);
    }
}

static void clean_up(Server *s)
{
    block_exports_close(s->root);
    block_node_put(s->image);
    block_graph_close(s->graph);
    delete_objects(s->root);
    object_unref(s->root);
    g_free(s->image_name);
    g_ptr_array_free(s->options.objects, TRUE);
    g_ptr_array_free(s->options.bitmaps, TRUE);
}

int main(int argc, char **argv)
{
    Server s = { .options = { .shared = 1, .objects = g_ptr_array_new(),
                              .bitmaps = g_ptr_array_new() } };
    unsigned inherited = inherited_sockets();
    g_autoptr(GError) error = NULL;
    int parent = -1, status;

    g_set_prgname("vireo-nbd");
    if (!parse(&s.options, argc, argv, &error)) {
        if (error)
            error_report(error);
        return error ? 1 : 0;
    }
    if (s.options.fork)
        parent = fork_server();
    if (s.options.verbose)
        trace_set("nbd_*", true);
    s.signals = block_signals();
    s.root = object_new_by_name("container", NULL);
    s.graph = block_graph_new(s.root, NULL);
    status = run(&s, inherited, parent, &error) ? 0 : 1;
    clean_up(&s);
    if (error)
        error_report(error);
    return status;
}
