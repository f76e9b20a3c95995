/*
 * vireo-nbd: offers an image to others over NBD.
 *
 *     options -> (fork) -> objects -> image -> export -> sockets -> serve
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include "src/base/loop.h"
#include "src/base/options.h"
#include "src/base/process.h"
#include "src/base/trace.h"
#include "src/base/util.h"
#include "src/object/iothread.h"
#include "src/sandbox/selinux.h"
#include "src/tools/nbd.h"

typedef struct Server {
    NbdOptions options;
    Object *root;
    BlockGraph *graph;
    BlockExports *exports;
    NbdImage image;
    int signals;
    bool opening;                          /* the image: there is nothing yet that a signal would have to end */
    unsigned clients;
    bool seen, done;                       /* a client was there; it is over */
} Server;

static void put_text(json_object *options, const char *key, const char *text)
{
    if (text)
        json_object_object_add(options, key, json_object_new_string(text));
}

/* ---- the server ---- */

static void on_client(unsigned clients, void *opaque)
{
    Server *s = opaque;

    s->clients = clients;
    s->seen |= clients > 0;
    if (s->seen && !clients && !s->options.persistent) {
        s->done = true;
        loop_kick(loop_main());
    }
}

/* As many as there can be clients at a time, where that does not ask for more than the host has. */
static unsigned thread_count(const NbdOptions *o)
{
    return o->threads ? o->threads : MIN(o->shared ? o->shared : 16, g_get_num_processors());
}

/* In the thread.  It serves connections, and nothing of a machine's. */
static void make_patient(void *opaque)
{
    loop_set_patient(opaque, true);
}

static bool start_threads(Server *s, json_object *export, GError **error)
{
    unsigned count = thread_count(&s->options);
    json_object *names = json_object_new_array();

    json_object_object_add(export, "iothread", names);
    for (unsigned i = 0; i < count; i++) {
        g_autoptr(json_object) thread = json_object_new_object();
        g_autofree char *id = g_strdup_printf("serve%u", i);
        Object *object;

        put_text(thread, "qom-type", "iothread");
        put_text(thread, "id", id);
        json_object_object_add(thread, "poll-max-ns", json_object_new_int64(s->options.poll_max_ns));
        object = object_create_user(s->root, thread, error);
        if (!object)
            return false;
        loop_call(iothread_loop(object), make_patient, iothread_loop(object));
        json_object_array_add(names, json_object_new_string(id));
    }
    return true;
}

/* Connections of the kernel's: one for each thread that serves. */
static unsigned device_links(const NbdOptions *o)
{
    return o->device ? thread_count(o) : 0;
}

static bool add_export(Server *s, GError **error)
{
    const NbdOptions *o = &s->options;
    g_autoptr(json_object) export = json_object_new_object();
    json_object *bitmaps = json_object_new_array();

    put_text(export, "type", "nbd");
    put_text(export, "id", "export");
    put_text(export, "node-name", s->image.name);
    put_text(export, "name", o->name ? o->name : "");
    put_text(export, "description", o->description);
    json_add_bool(export, "writable", !o->read_only);
    json_add_bool(export, "writethrough", nbd_image_writethrough(o));
    json_add_bool(export, "allocation-depth", o->depth);
    json_add_bool(export, "multi-conn", o->shared != 1 || device_links(o) > 1);
    for (unsigned i = 0; i < o->bitmaps->len; i++)
        json_object_array_add(bitmaps, json_object_new_string(o->bitmaps->pdata[i]));
    json_object_object_add(export, "bitmaps", bitmaps);
    return start_threads(s, export, error) && block_export_add(s->exports, export, error);
}

/* NULL: nowhere: only the kernel is served. */
static json_object *address(const NbdOptions *o)
{
    json_object *addr;

    if (o->device && !o->socket && !o->port && !o->bind)
        return NULL;
    addr = json_object_new_object();
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
    const NbdOptions *o = &s->options;

    if (o->socket || o->port || o->bind)
        return fail(error, ERR_INVALID_PARAMETER, "a socket was handed over (LISTEN_FDS): "
                                                  "--socket, --port and --bind are one too many");
    if (o->selinux)
        return fail(error, ERR_INVALID_PARAMETER, "--selinux-label: a socket was handed over (LISTEN_FDS), with a "
                                                  "label of its own");
    for (unsigned i = 0; i < count; i++) {
        fcntl(3 + i, F_SETFD, FD_CLOEXEC);
        if (!nbd_server_add_socket(s->exports, 3 + i, error))
            return false;
    }
    return true;
}

static bool listen_at(Server *s, json_object *addr, GError **error)
{
    const char *label = s->options.selinux, *what = "--selinux-label";
    bool ok;

    if (!label)
        return nbd_server_add_address(s->exports, addr, error);
    ok = selinux_label_sockets(what, label, error) && nbd_server_add_address(s->exports, addr, error);
    return selinux_label_sockets(what, NULL, ok ? error : NULL) && ok;
}

static bool listen_all(Server *s, unsigned inherited, GError **error)
{
    g_autoptr(json_object) addr = inherited ? NULL : address(&s->options);

    if (inherited)
        return listen_inherited(s, inherited, error);
    return !addr || listen_at(s, addr, error);
}

static bool start_server(Server *s, unsigned inherited, GError **error)
{
    const NbdOptions *o = &s->options;
    NbdServerOptions options = { .tls_creds = o->tls_creds, .tls_authz = o->tls_authz,
                                 .max_connections = o->shared ? o->shared + device_links(o) : 0,
                                 .handshake_seconds = NBD_HANDSHAKE_SECONDS,
                                 .on_client = on_client, .opaque = s };

    /* Listening last: who can connect finds the export. */
    return nbd_server_start(s->exports, &options, error) && add_export(s, error) &&
           (!o->device || nbd_device_connect(o->device, s->exports, o->name ? o->name : "",
                                             device_links(o), error)) &&
           listen_all(s, inherited, error);
}

/* ---- life of the process ---- */

/* As if it had never been blocked. */
static void die_of(Server *s, int number)
{
    sigset_t set;

    if (s->options.pid_file)
        unlink(s->options.pid_file);
    sigemptyset(&set);
    sigaddset(&set, number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    raise(number);
}

/* The server of an image may not answer for a long time: whoever waits for that may stop waiting. */
static void on_signal(void *opaque, unsigned events)
{
    Server *s = opaque;
    struct signalfd_siginfo info;

    if (read(s->signals, &info, sizeof(info)) != sizeof(info))
        return;
    if (s->opening)
        die_of(s, info.ssi_signo);
    s->done = true;
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

/* Until the last client has gone, or a signal comes: then a device is taken from the kernel while it
 * can still write what it holds back. */
static bool serve(Server *s, int parent, GError **error)
{
    const char *device = s->options.device;
    bool ok = parent < 0 || process_ready(parent, "--fork", error);

    if (ok)
        loop_wait(&s->done);
    return ok && (!device || !s->clients || nbd_device_disconnect(device, error));
}

static bool open_image(Server *s, GError **error)
{
    bool ok;

    s->opening = true;
    ok = nbd_image_open(&s->image, &s->options, s->graph, error);
    s->opening = false;
    return ok;
}

static bool run(Server *s, unsigned inherited, int parent, GError **error)
{
    const NbdOptions *o = &s->options;
    auto_fd pid_fd = -1;
    bool ok;

    if ((o->selinux && !selinux_usable("--selinux-label", error)) || !make_objects(s, error))
        return false;
    if (o->list)
        return nbd_list(s->root, o, error);
    if (o->pid_file && !process_write_pid("--pid-file", o->pid_file, &pid_fd, error))
        return false;
    s->exports = block_exports_of(s->root);
    ok = open_image(s, error) && start_server(s, inherited, error) &&
         serve(s, parent, error) && nbd_server_stop(s->exports, error);
    if (o->pid_file)
        unlink(o->pid_file);
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
    nbd_image_close(&s->image);
    block_graph_close(s->graph);
    delete_objects(s->root);
    object_unref(s->root);
}

static int report(GError *error, int status)
{
    if (error)
        error_report(error);
    return error ? 1 : status;
}

/* A device of the kernel's is served in the background, as the mount that uses it goes on. */
static int daemonize(const NbdOptions *o)
{
    if (o->fork)
        return process_daemonize("--fork");
    return o->device && !o->verbose ? process_daemonize("--connect") : -1;
}

static int disconnect(const char *device)
{
    g_autoptr(GError) error = NULL;

    if (nbd_device_disconnect(device, &error))
        printf("%s disconnected\n", device);
    return report(error, 0);
}

static int serve_image(NbdOptions *o, unsigned inherited)
{
    Server s = { .options = *o, .signals = -1 };
    LoopFd *watch = NULL;
    g_autoptr(GError) error = NULL;
    int parent, status;

    if (o->device && !nbd_device_check(o->device, &error))
        return report(error, 1);
    parent = daemonize(o);
    if (o->verbose)
        trace_set("nbd_*", true);
    if (!o->list) {                        /* which waits in libnbd, and leaves nothing behind */
        s.signals = process_take_signals();
        watch = loop_add_fd(loop_main(), s.signals, G_IO_IN, on_signal, &s);
    }
    s.root = object_new_by_name("container", NULL);
    s.graph = block_graph_new(s.root, NULL);
    status = run(&s, inherited, parent, &error) ? 0 : 1;
    clean_up(&s);
    if (watch) {
        loop_fd_remove(watch);
        close(s.signals);
    }
    return report(error, status);
}

int main(int argc, char **argv)
{
    NbdOptions options = { 0 };
    unsigned inherited = inherited_sockets();
    g_autoptr(GError) error = NULL;
    NbdAsked asked;
    int status;

    g_set_prgname("vireo-nbd");
    asked = nbd_options_parse(&options, argc, argv, &error);
    status = asked != NBD_RUN     ? report(error, 0)
             : options.disconnect ? disconnect(options.file)
                                  : serve_image(&options, inherited);
    nbd_options_clear(&options);
    return status;
}
