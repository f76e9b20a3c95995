/*
 * A QMP session: greeting, negotiation, commands one after the other, events.
 *
 * Commands are read only while there is room for their replies, and events wait in a bounded queue
 * (the oldest are dropped, and the next one that is sent says how many), so that a client that
 * never reads costs a bounded amount of memory and no time.  Each command runs in a turn of the main
 * loop of its own.  A handler may wait, in a coroutine or by running the loop: the session then takes
 * no further command.  Nothing of this ever waits for a client.
 *
 * What is read and written is handled in the session's I/O loop: that of the monitors' own thread, or
 * the main loop where there is no such thread or the chardev has to stay there.  Commands sent with
 * exec-oob run in it, too, so that they are answered whatever the main loop is busy with; and so do
 * questions that might have been, when no command waits: a thread that is not woken is time saved.
 */
#include <pthread.h>
#include <string.h>
#include <unistd.h>
#include "monitor/client.h"
#include "monitor/jsonstream.h"
#include "monitor/output.h"
#include "src/base/options.h"
#include "src/base/trace.h"

#define INPUT_MAX (64u * 1024)             /* bytes read ahead of the parser */
#define REQUESTS_MAX 8                     /* commands that wait; further ones are not read */
#define OUTPUT_HIGH (1024u * 1024)         /* unread replies: no further command is run */
#define EVENT_OUTPUT_HIGH (64u * 1024)     /* unread output: events are queued */
#define GATHERED_MAX (16u * 1024)          /* replies to what was read at once are written at once */
#define EVENTS_MAX 1024
#define FDS_MAX 64                         /* passed and not taken; beyond: the oldest are closed */

typedef struct Request {
    unsigned session;
    uint64_t end;                          /* bytes of the session up to its last one */
    json_object *message;                  /* an object, or … */
    GError *error;                         /* … why there is none */
} Request;

typedef struct PassedFd {
    int fd;
    uint64_t start;                        /* bytes of the session before those it came with */
} PassedFd;

typedef struct QueuedEvent {
    GBytes *text;                          /* shared by all clients */
    uint64_t sequence;
} QueuedEvent;

struct MonitorClient {
    Vm *vm;
    Chardev *chardev;
    bool pretty, single_use;
    Loop *loop;                            /* the I/O loop */
    gint refs;                             /* atomic: the set's, and one of each command that runs */

    /* The I/O loop's thread. */
    CharFront front;
    GByteArray *input;                     /* not parsed yet */
    uint64_t received;                     /* bytes of this session */
    GArray *fds;                           /* of PassedFd: not taken yet */
    JsonStream *stream;
    bool starved;                          /* the chardev has heard that there is no room */
    bool gathering;                        /* output is written when all input is parsed */
    LoopBh io;

    /* The main thread. */
    LoopBh run;
    uint64_t running_end;                  /* Request.end of the command that runs */
    bool closed;

    pthread_mutex_t lock;                  /* for all below; not GLib's, for ThreadSanitizer */
    bool connected, negotiated, oob;
    bool ending;                           /* the client sends no more: what it has sent is answered */
    unsigned session;                      /* counts them: a reply is the one's that asked */
    GQueue requests;                       /* of Request */
    unsigned handlers;                     /* in the main loop, begun and not ended: then no further
                                              one is begun */
    MonitorOutput out;                     /* written to the chardev by the I/O loop only */
    GQueue events;                         /* of QueuedEvent */
    uint64_t sequence, dropped;
};

static void client_unref(MonitorClient *c);

static void lock(MonitorClient *c)
{
    pthread_mutex_lock(&c->lock);
}

static void unlock(MonitorClient *c)
{
    pthread_mutex_unlock(&c->lock);
}

Vm *monitor_client_vm(MonitorClient *c)
{
    return c->vm;
}

bool monitor_client_is_pretty(const MonitorClient *c)
{
    return c->pretty;
}

/* ---- events: under the lock ---- */

static void free_event(void *opaque)
{
    QueuedEvent *event = opaque;
    g_bytes_unref(event->text);
    g_free(event);
}

/* The text is shared, and lacks its last brace: what is this client's comes before it. */
static void send_event(MonitorClient *c, QueuedEvent *event)
{
    const char *space = c->pretty ? " " : "";
    g_autofree char *dropped =
        c->dropped ? g_strdup_printf(",%s\"dropped\":%s%" G_GUINT64_FORMAT, space, space, c->dropped)
                   : g_strdup("");
    g_autofree char *own = g_strdup_printf(",%s\"sequence\":%s%" G_GUINT64_FORMAT "%s}\r\n", space,
                                           space, event->sequence, dropped);
    size_t length;
    const char *text = g_bytes_get_data(event->text, &length);
    c->dropped = 0;
    monitor_output_write(&c->out, text, length);
    monitor_output_write(&c->out, own, strlen(own));
}

static void send_events(MonitorClient *c)
{
    while (c->events.length && monitor_output_pending(&c->out) < EVENT_OUTPUT_HIGH) {
        QueuedEvent *event = g_queue_pop_head(&c->events);
        send_event(c, event);
        free_event(event);
    }
}

/* As far as the peer takes it.  The I/O loop's thread. */
static void flush_output(MonitorClient *c)
{
    do {
        send_events(c);
        monitor_output_flush(&c->out);
    } while (c->events.length && monitor_output_pending(&c->out) < EVENT_OUTPUT_HIGH);
}

/* Something is to be written: by the I/O loop's thread, at once or with what it will say to the rest of
 * what was read. */
static void output_added(MonitorClient *c)
{
    if (!loop_is_current(c->loop))
        loop_bh_schedule(&c->io);
    else if (!c->gathering || monitor_output_pending(&c->out) >= GATHERED_MAX)
        flush_output(c);
}

void monitor_client_event(MonitorClient *c, const MonitorEvent *message)
{
    lock(c);
    if (c->connected && c->negotiated) {
        QueuedEvent *event = g_new(QueuedEvent, 1);
        *event = (QueuedEvent){ g_bytes_ref(message->text[c->pretty]), ++c->sequence };
        g_queue_push_tail(&c->events, event);
        if (c->events.length > EVENTS_MAX) {
            free_event(g_queue_pop_head(&c->events));
            c->dropped++;
        }
        output_added(c);
    }
    unlock(c);
}

/* ---- replies ---- */

/* Under the lock.  Events that were there before come before it. */
static void send_message(MonitorClient *c, json_object *message)
{
    size_t length;
    const char *text = json_object_to_json_string_length(message, monitor_json_style(c->pretty),
                                                         &length);
    send_events(c);
    monitor_output_write(&c->out, text, length);
    monitor_output_write(&c->out, "\r\n", 2);
    output_added(c);
}

static void send_greeting(MonitorClient *c)
{
    json_object *greeting = json_object_new_object();
    json_object *qmp = json_object_new_object();
    json_object *version = NULL;
    json_object *capabilities = json_object_new_array();
    const QmpCommand *command = qmp_command_find("query-version");
    if (qmp_dispatch(c, command, NULL, &version, NULL))
        json_object_object_add(qmp, "version", version);
    json_object_array_add(capabilities, json_object_new_string("oob"));
    json_object_object_add(qmp, "capabilities", capabilities);
    json_object_object_add(greeting, "QMP", qmp);
    send_message(c, greeting);
    json_object_put(greeting);
}

static json_object *error_details(const GError *error)
{
    json_object *details = json_object_new_object();
    const char *object = error_get_object(error), *hint = error_get_hint(error);
    ErrorCode code = error_get_code(error);
    json_object_object_add(details, "class", json_object_new_string(error_code_class(code)));
    json_object_object_add(details, "desc", json_object_new_string(error->message));
    json_object_object_add(details, "code", json_object_new_string(error_code_name(code)));
    if (object)
        json_object_object_add(details, "object", json_object_new_string(object));
    if (hint)
        json_object_object_add(details, "hint", json_object_new_string(hint));
    return details;
}

/* {"return": …} or {"error": …}, with the command's id, unless the session that asked has ended.
 * Takes over @result. */
static void send_reply(MonitorClient *c, const Request *request, bool ok, json_object *result,
                       const GError *error)
{
    json_object *reply = json_object_new_object();
    json_object *id;
    if (ok)
        json_object_object_add(reply, "return", result);
    else
        json_object_object_add(reply, "error", error_details(error));
    if (json_object_object_get_ex(request->message, "id", &id))
        json_object_object_add(reply, "id", json_object_get(id));
    lock(c);
    if (c->connected && c->session == request->session)
        send_message(c, reply);
    unlock(c);
    json_object_put(reply);
}

/* ---- commands ---- */

static void free_request(void *opaque)
{
    Request *request = opaque;
    json_object_put(request->message);
    g_clear_error(&request->error);
    g_free(request);
}

bool monitor_client_negotiate(MonitorClient *c, bool oob, GError **error)
{
    lock(c);
    bool first = !c->negotiated;
    c->negotiated = true;
    c->oob = first ? oob : c->oob;
    unlock(c);
    return first || fail(error, ERR_COMMAND_NOT_FOUND,
                         "Capabilities negotiation is already complete, command ignored");
}

typedef struct FdCall {
    MonitorClient *client;
    uint64_t end;                          /* of the command that asks */
    int fd;
} FdCall;

static void drop_fds(MonitorClient *c, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        close(g_array_index(c->fds, PassedFd, i).fd);
    if (count)
        g_array_remove_range(c->fds, 0, count);
}

/* Those that came with what is received now. */
static void keep_fds(MonitorClient *c)
{
    PassedFd passed = { -1, c->received };
    while ((passed.fd = char_front_take_fd(&c->front)) >= 0)
        g_array_append_val(c->fds, passed);
    if (c->fds->len > FDS_MAX)
        drop_fds(c, c->fds->len - FDS_MAX);
}

/* The first of the last lot that was there before the command's end: what a command before it has left,
 * as it failed, is not what this one means. */
static void take_fd(void *opaque)
{
    FdCall *call = opaque;
    MonitorClient *c = call->client;
    const PassedFd *fds = (const PassedFd *)c->fds->data;
    unsigned count = 0;
    while (count < c->fds->len && fds[count].start < call->end)
        count++;
    if (!count)
        return;
    unsigned first = count - 1;
    while (first && fds[first - 1].start == fds[count - 1].start)
        first--;
    drop_fds(c, first);
    call->fd = g_array_index(c->fds, PassedFd, 0).fd;
    g_array_remove_index(c->fds, 0);
}

int monitor_client_take_fd(MonitorClient *c)
{
    FdCall call = { c, c->running_end, -1 };
    loop_call(c->loop, take_fd, &call);
    return call.fd;
}

static bool check_members(json_object *message, bool oob_allowed, GError **error)
{
    static const char *const known[] = { "execute", "exec-oob", "arguments", "id", NULL };
    json_object_object_foreach(message, key, value)
    {
        if (!g_strv_contains(known, key) || (!oob_allowed && !strcmp(key, "exec-oob")))
            return fail(error, ERR_UNKNOWN_PARAMETER, "QMP input member '%s' is unexpected", key);
        if (g_str_has_prefix(key, "exec") && !json_object_is_type(value, json_type_string))
            return fail(error, ERR_WRONG_TYPE, "QMP input member '%s' must be a string", key);
        if (!strcmp(key, "arguments") && !json_object_is_type(value, json_type_object))
            return fail(error, ERR_WRONG_TYPE, "QMP input member 'arguments' must be an object");
    }
    return true;
}

static void unknown_command(const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (const QmpCommand *command = qmp_commands; command->name; command++)
        g_ptr_array_add(names, (char *)command->name);
    g_ptr_array_add(names, NULL);
    fail(error, ERR_COMMAND_NOT_FOUND, "there is no command '%s'", name);
    const char *near = nearest_word(name, (const char *const *)names->pdata);
    if (near)
        error_hint(error, "did you mean '%s'?", near);
}

static const QmpCommand *find_command(const char *name, bool negotiated, GError **error)
{
    const QmpCommand *command = qmp_command_find(name);
    if (!negotiated && strcmp(name, "qmp_capabilities")) {
        fail(error, ERR_COMMAND_NOT_FOUND,
             "Expecting capabilities negotiation with 'qmp_capabilities'");
        return NULL;
    }
    if (!command)
        unknown_command(name, error);
    return command;
}

/* What a message asks for; *ret_arguments is borrowed. */
static const QmpCommand *check_request(MonitorClient *c, json_object *message,
                                       json_object **ret_arguments, GError **error)
{
    json_object *execute = NULL, *oob = NULL;
    lock(c);
    bool oob_allowed = c->oob, negotiated = c->negotiated;
    unlock(c);
    if (!json_object_is_type(message, json_type_object)) {
        fail(error, ERR_WRONG_TYPE, "QMP input must be a JSON object");
        return NULL;
    }
    if (!check_members(message, oob_allowed, error))
        return NULL;
    json_object_object_get_ex(message, "execute", &execute);
    json_object_object_get_ex(message, "exec-oob", &oob);
    json_object_object_get_ex(message, "arguments", ret_arguments);
    if (!execute == !oob) {
        fail(error, execute ? ERR_UNKNOWN_PARAMETER : ERR_MISSING_PARAMETER,
             execute ? "QMP input has both 'execute' and 'exec-oob'"
                     : "QMP input lacks member 'execute'");
        return NULL;
    }
    const QmpCommand *command = find_command(json_object_get_string(execute ? execute : oob),
                                             negotiated, error);
    if (command && oob && !command->oob) {
        fail(error, ERR_INVALID_PARAMETER, "The command %s does not support OOB", command->name);
        return NULL;
    }
    return command;
}

/* Runs @command (NULL: @error says why there is none) and replies. */
static void carry_out(MonitorClient *c, Request *request, const QmpCommand *command,
                      json_object *arguments, GError *error)
{
    g_autoptr(GError) failure = error;
    json_object *result = NULL;
    bool ok = false;
    if (command) {
        TRACE(qmp_command, "%s", command->name);
        ok = qmp_dispatch(c, command, arguments, &result, &failure);
    }
    send_reply(c, request, ok, result, failure);
    free_request(request);
}

/* In the I/O loop; not only what is sent out of band, see runs_here. */
static void run_here(MonitorClient *c, Request *request)
{
    GError *error = NULL;
    json_object *arguments = NULL;
    const QmpCommand *command = check_request(c, request->message, &arguments, &error);
    carry_out(c, request, command, arguments, error);
}

/* A command of the session itself, while it runs. */
typedef struct Running {
    MonitorClient *client;
    Request *request;
    const QmpCommand *command;
    json_object *arguments;
    GError *error;
} Running;

static void co_fn run_in_band(void *opaque)
{
    g_autofree Running *r = opaque;
    MonitorClient *c = r->client;
    g_atomic_int_inc(&c->refs);
    carry_out(c, r->request, r->command, r->arguments, r->error);
    lock(c);
    c->handlers--;
    if (c->connected && c->requests.length)
        loop_bh_schedule(&c->run);
    else if (c->ending)
        loop_bh_schedule(&c->io);
    unlock(c);
    client_unref(c);
}

/* The next command that may run now, and is begun; NULL: none. */
static Request *next_request(MonitorClient *c)
{
    Request *request = NULL;
    lock(c);
    if (c->connected && !c->handlers && monitor_output_pending(&c->out) < OUTPUT_HIGH) {
        bool full = c->requests.length >= REQUESTS_MAX;
        request = g_queue_pop_head(&c->requests);
        c->handlers += request != NULL;
        if (full)
            loop_bh_schedule(&c->io);      /* there is room for a request again */
    }
    unlock(c);
    return request;
}

static void run_next(void *opaque)
{
    MonitorClient *c = opaque;
    Request *request = next_request(c);
    if (!request)
        return;
    c->running_end = request->end;
    Running *r = g_new0(Running, 1);
    *r = (Running){ .client = c, .request = request, .error = g_steal_pointer(&request->error) };
    if (!r->error)
        r->command = check_request(c, request->message, &r->arguments, &r->error);
    if (r->command && r->command->coroutine)
        co_start(run_in_band, r);
    else
        run_in_band(r);
}

/* ---- input: the I/O loop's thread ---- */

/* A question that may be answered in any thread, and has no events that have to be told before the reply;
 * or what concerns nothing but the session. */
static bool needs_no_main_loop(const char *name)
{
    const QmpCommand *command = qmp_command_find(name);
    return command && ((command->oob && g_str_has_prefix(name, "query-")) ||
                       !strcmp(name, "qmp_capabilities"));
}

/* Under the lock.  What need not wait for the main loop does not, if that keeps the order of commands. */
static bool runs_here(MonitorClient *c, json_object *message)
{
    json_object *name;
    if (!json_object_is_type(message, json_type_object))
        return false;
    if (c->oob && json_object_object_get_ex(message, "exec-oob", NULL))
        return true;
    return c->loop != loop_main() && !c->handlers && !c->requests.length &&
           json_object_object_get_ex(message, "execute", &name) &&
           json_object_is_type(name, json_type_string) &&
           needs_no_main_loop(json_object_get_string(name));
}

/* Takes over @message and @error. */
static void take_message(MonitorClient *c, uint64_t end, json_object *message, GError *error)
{
    Request *request = g_new(Request, 1);
    lock(c);
    *request = (Request){ c->session, end, message, error };
    bool here = runs_here(c, message);
    if (!here)
        g_queue_push_tail(&c->requests, request);
    unlock(c);
    if (here)
        run_here(c, request);
}

/* There is room for a request and its reply, and somebody to read it. */
static bool may_take(MonitorClient *c)
{
    lock(c);
    bool yes = c->connected && c->requests.length < REQUESTS_MAX &&
               monitor_output_pending(&c->out) < OUTPUT_HIGH;
    unlock(c);
    return yes;
}

static void drop_input(MonitorClient *c, size_t *used)
{
    g_byte_array_remove_range(c->input, 0, *used);
    *used = 0;
}

/* Parses what was read, as long as there is room for what it asks. */
static void parse_input(MonitorClient *c)
{
    size_t done = 0;
    c->gathering = true;
    while (done < c->input->len && may_take(c)) {
        json_object *message = NULL;
        GError *error = NULL;
        size_t used;
        JsonStreamResult result = json_stream_feed(c->stream, c->input->data + done,
                                                   c->input->len - done, &used, &message, &error);
        done += used;
        if (result == JSON_STREAM_MORE)
            continue;
        take_message(c, c->received - c->input->len + done, message, error);
    }
    c->gathering = false;
    drop_input(c, &done);
}

static size_t can_receive(void *opaque)
{
    MonitorClient *c = opaque;
    size_t room = may_take(c) ? INPUT_MAX - c->input->len : 0;
    c->starved = !room;
    return room;
}

/* Under the lock: all that the client has sent is answered, and all answers are written. */
static bool all_is_said(const MonitorClient *c)
{
    return !c->input->len && !c->requests.length && !c->handlers &&
           !monitor_output_pending(&c->out);
}

static void write_output(MonitorClient *c)
{
    lock(c);
    flush_output(c);
    unlock(c);
}

/* Events out, commands in; schedules what can run. */
static void client_pump(void *opaque)
{
    MonitorClient *c = opaque;
    write_output(c);
    do {
        parse_input(c);
        write_output(c);
    } while (c->input->len && may_take(c));
    lock(c);
    if (c->connected && c->requests.length)
        loop_bh_schedule(&c->run);
    else if (c->connected && c->ending && all_is_said(c))
        char_front_hang_up(&c->front);
    unlock(c);
    if (c->starved && can_receive(c))
        char_front_accept_input(&c->front);
}

static void receive(void *opaque, const uint8_t *data, size_t length)
{
    MonitorClient *c = opaque;
    keep_fds(c);
    c->received += length;
    g_byte_array_append(c->input, data, length);
    client_pump(c);
}

/* As with "printf … | socat - UNIX:…". */
static bool input_ended(void *opaque)
{
    MonitorClient *c = opaque;
    lock(c);
    c->ending = c->connected && !all_is_said(c);
    bool stays = c->ending;
    unlock(c);
    return stays;
}

static void clear_queues(MonitorClient *c)
{
    g_queue_clear_full(&c->requests, free_request);
    g_queue_clear_full(&c->events, free_event);
    monitor_output_reset(&c->out);
}

static void clear_input(MonitorClient *c)
{
    g_byte_array_set_size(c->input, 0);
    json_stream_reset(c->stream);
    drop_fds(c, c->fds->len);
    c->received = 0;
}

/* A new session, whatever the one before left. */
static void session_start(MonitorClient *c)
{
    clear_input(c);
    lock(c);
    clear_queues(c);
    c->negotiated = c->oob = c->ending = false;
    c->sequence = c->dropped = 0;
    c->connected = true;
    c->session++;
    send_greeting(c);
    unlock(c);
}

static void close_later(void *opaque)
{
    MonitorClient *c = opaque;
    monitor_client_close(c);
    client_unref(c);
}

static void close_in_main_loop(MonitorClient *c)
{
    g_atomic_int_inc(&c->refs);
    loop_post(loop_main(), close_later, c);
}

static void session_end(MonitorClient *c)
{
    clear_input(c);
    lock(c);
    c->connected = c->ending = false;
    clear_queues(c);
    unlock(c);
    if (c->single_use)
        close_in_main_loop(c);
}

static void on_char_event(void *opaque, CharEvent event)
{
    MonitorClient *c = opaque;
    lock(c);
    bool connected = c->connected;
    unlock(c);
    if (event == CHAR_OPENED && !connected)
        session_start(c);
    else if (event == CHAR_CLOSED && connected)
        session_end(c);
}

/* ---- beginning and end ---- */

typedef struct AttachCall {
    MonitorClient *client;
    GError **error;
    bool ok;
} AttachCall;

/* In the I/O loop. */
static void attach(void *opaque)
{
    AttachCall *call = opaque;
    MonitorClient *c = call->client;
    call->ok = char_front_attach(&c->front, c->chardev, call->error);
    if (!call->ok)
        return;
    char_front_set_open(&c->front, true);
    if (char_front_connected(&c->front))
        on_char_event(c, CHAR_OPENED);
}

/* What has been said is written as far as it goes, nothing more is read, and the chardev goes back
 * to the main loop, or away with its connection. */
static void detach(void *opaque)
{
    MonitorClient *c = opaque;
    lock(c);
    if (c->connected)
        flush_output(c);
    c->connected = false;
    unlock(c);
    char_front_detach(&c->front);
    loop_bh_cancel(&c->io);
    if (c->single_use)
        object_unref(c->chardev);
    else if (c->loop != loop_main())
        chardev_set_loop(c->chardev, loop_main());
}

/* One of the set's, not attached yet. */
static MonitorClient *add_client(MonitorSet *set, Chardev *chr, Loop *loop, bool pretty)
{
    MonitorClient *c = g_new0(MonitorClient, 1);
    c->vm = set->vm;
    c->chardev = chr;
    c->pretty = pretty;
    c->refs = 1;
    c->loop = loop;
    c->input = g_byte_array_new();
    c->fds = g_array_new(FALSE, FALSE, sizeof(PassedFd));
    c->stream = json_stream_new(JSON_STREAM_MAX_BYTES);
    c->front = (CharFront){ .can_receive = can_receive, .receive = receive,
                            .event = on_char_event, .input_ended = input_ended,
                            .writable = client_pump, .opaque = c };
    pthread_mutex_init(&c->lock, NULL);
    monitor_output_init(&c->out, &c->front);
    loop_bh_init(&c->run, loop_main(), run_next, c);
    loop_bh_init(&c->io, c->loop, client_pump, c);
    pthread_mutex_lock(&set->lock);
    g_ptr_array_add(set->clients, c);
    pthread_mutex_unlock(&set->lock);
    return c;
}

MonitorClient *monitor_client_new(Vm *vm, Chardev *chr, bool pretty, GError **error)
{
    MonitorSet *set = monitor_set_of(vm);
    bool moved = set->io_loop && chardev_set_loop(chr, set->io_loop);
    MonitorClient *c = add_client(set, chr, moved ? set->io_loop : loop_main(), pretty);
    AttachCall call = { c, error, false };
    loop_call(c->loop, attach, &call);
    if (call.ok)
        return c;
    monitor_client_close(c);
    return NULL;
}

void monitor_client_accept(MonitorSet *set, Chardev *connection, bool pretty)
{
    g_autoptr(GError) error = NULL;
    MonitorClient *c = add_client(set, connection, loop_current(), pretty);
    AttachCall call = { c, &error, false };
    c->single_use = true;
    attach(&call);
    if (call.ok)
        return;
    error_report(error);
    close_in_main_loop(c);
}

static void client_unref(MonitorClient *c)
{
    if (!g_atomic_int_dec_and_test(&c->refs))
        return;
    clear_queues(c);
    monitor_output_clear(&c->out);
    pthread_mutex_destroy(&c->lock);
    json_stream_free(c->stream);
    drop_fds(c, c->fds->len);
    g_array_unref(c->fds);
    g_byte_array_unref(c->input);
    g_free(c);
}

void monitor_client_close(MonitorClient *c)
{
    if (c->closed)
        return;
    c->closed = true;
    MonitorSet *set = monitor_set_of(c->vm);
    pthread_mutex_lock(&set->lock);
    g_ptr_array_remove(set->clients, c);
    pthread_mutex_unlock(&set->lock);
    loop_call(c->loop, detach, c);
    loop_bh_cancel(&c->run);
    client_unref(c);
}
