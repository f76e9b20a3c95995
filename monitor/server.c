/*
 * A QMP session: greeting, negotiation, commands one after the other, events.
 *
 * Commands are read only while there is room for their replies, and events wait in a bounded queue
 * (the oldest are dropped, and the next one that is sent says how many), so that a client that
 * never reads costs a bounded amount of memory and no time.  Each command runs in a turn of the main
 * loop of its own.  A handler may wait, in a coroutine or by running the loop: the session then takes
 * no further command, but commands sent with exec-oob are carried out at once.  Nothing of this
 * ever waits for a client.
 */
#include <string.h>
#include "monitor/client.h"
#include "monitor/jsonstream.h"
#include "monitor/output.h"
#include "src/base/options.h"
#include "src/base/trace.h"

#define INPUT_MAX (64u * 1024)             /* bytes read ahead of the parser */
#define REQUESTS_MAX 8                     /* commands that wait; further ones are not read */
#define OUTPUT_HIGH (1024u * 1024)         /* unread replies: no further command is run */
#define EVENT_OUTPUT_HIGH (64u * 1024)     /* unread output: events are queued */
#define EVENTS_MAX 1024

typedef struct Request {
    json_object *message;                  /* an object, or … */
    GError *error;                         /* … why there is none */
} Request;

typedef struct QueuedEvent {
    json_object *message;                  /* shared by all clients */
    uint64_t sequence;
} QueuedEvent;

struct MonitorClient {
    Vm *vm;
    Chardev *chardev;
    CharFront front;
    bool pretty, single_use;
    bool negotiated, oob;
    bool connected, closed;
    unsigned entered;                      /* our functions on the stack: not freed meanwhile */
    unsigned handlers;                     /* commands begun and not ended: no further one is begun */
    unsigned session;                      /* counts them: a reply is the one's that asked */
    GByteArray *input;                     /* not parsed yet */
    JsonStream *stream;
    GQueue requests;                       /* of Request */
    LoopBh run;
    MonitorOutput out;
    GQueue events;                         /* of QueuedEvent */
    uint64_t sequence, dropped;
};

Vm *monitor_client_vm(MonitorClient *c)
{
    return c->vm;
}

/* ---- output ---- */

static void send_message(MonitorClient *c, json_object *message)
{
    int style = c->pretty ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED : 0;
    size_t length;
    const char *text = json_object_to_json_string_length(
        message, style | JSON_C_TO_STRING_NOSLASHESCAPE, &length);
    monitor_output_write(&c->out, text, length);
    monitor_output_write(&c->out, "\r\n", 2);
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
    monitor_output_flush(&c->out);
}

/* {"return": …} or {"error": …}, with the command's id.  Takes over @result. */
static void send_reply(MonitorClient *c, json_object *request, bool ok, json_object *result,
                       const GError *error)
{
    json_object *reply = json_object_new_object();
    json_object *id;
    if (ok) {
        json_object_object_add(reply, "return", result);
    } else {
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
        json_object_object_add(reply, "error", details);
    }
    if (json_object_object_get_ex(request, "id", &id))
        json_object_object_add(reply, "id", json_object_get(id));
    send_message(c, reply);
    json_object_put(reply);
    monitor_output_flush(&c->out);
}

/* ---- events ---- */

static void free_event(void *opaque)
{
    QueuedEvent *event = opaque;
    json_object_put(event->message);
    g_free(event);
}

/* The message is shared: a copy of its top level gets what is this client's. */
static void send_event(MonitorClient *c, QueuedEvent *event)
{
    json_object *copy = json_object_new_object();
    json_object_object_foreach(event->message, key, value)
        json_object_object_add(copy, key, json_object_get(value));
    json_object_object_add(copy, "sequence", json_object_new_uint64(event->sequence));
    if (c->dropped)
        json_object_object_add(copy, "dropped", json_object_new_uint64(c->dropped));
    c->dropped = 0;
    send_message(c, copy);
    json_object_put(copy);
}

static void flush_events(MonitorClient *c)
{
    while (c->events.length && monitor_output_pending(&c->out) < EVENT_OUTPUT_HIGH) {
        QueuedEvent *event = g_queue_pop_head(&c->events);
        send_event(c, event);
        free_event(event);
        monitor_output_flush(&c->out);
    }
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
    if (c->negotiated)
        return fail(error, ERR_COMMAND_NOT_FOUND,
                    "Capabilities negotiation is already complete, command ignored");
    c->negotiated = true;
    c->oob = oob;
    return true;
}

int monitor_client_take_fd(MonitorClient *c)
{
    return char_front_take_fd(&c->front);
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

static const QmpCommand *find_command(MonitorClient *c, const char *name, GError **error)
{
    const QmpCommand *command = qmp_command_find(name);
    if (!c->negotiated && strcmp(name, "qmp_capabilities")) {
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
    if (!json_object_is_type(message, json_type_object)) {
        fail(error, ERR_WRONG_TYPE, "QMP input must be a JSON object");
        return NULL;
    }
    if (!check_members(message, c->oob, error))
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
    const QmpCommand *command = find_command(c, json_object_get_string(execute ? execute : oob),
                                             error);
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
    unsigned session = c->session;
    bool ok = false;
    if (command) {
        TRACE(qmp_command, "%s", command->name);
        c->handlers++;
        ok = qmp_dispatch(c, command, arguments, &result, &failure);
        c->handlers--;
    }
    if (c->connected && c->session == session)
        send_reply(c, request->message, ok, result, failure);
    else
        json_object_put(result);
    free_request(request);
}

/* A command that may wait: others go on meanwhile, the session itself when it has ended. */
typedef struct Waiting {
    MonitorClient *client;
    Request *request;
    const QmpCommand *command;
    json_object *arguments;
} Waiting;

static bool client_enter(MonitorClient *c);
static void client_leave(MonitorClient *c, bool had_room);
static void client_pump(MonitorClient *c);

static void co_fn carry_out_waiting(void *opaque)
{
    g_autofree Waiting *w = opaque;
    bool had_room = client_enter(w->client);
    carry_out(w->client, w->request, w->command, w->arguments, NULL);
    client_pump(w->client);
    client_leave(w->client, had_room);
}

static void run_request(MonitorClient *c, Request *request)
{
    GError *error = g_steal_pointer(&request->error);
    json_object *arguments = NULL;
    const QmpCommand *command =
        error ? NULL : check_request(c, request->message, &arguments, &error);
    if (!command || !command->coroutine) {
        carry_out(c, request, command, arguments, error);
        return;
    }
    Waiting *w = g_new(Waiting, 1);
    *w = (Waiting){ c, request, command, arguments };
    co_start(carry_out_waiting, w);
}

static bool is_oob(MonitorClient *c, json_object *message)
{
    return c->oob && json_object_is_type(message, json_type_object) &&
           json_object_object_get_ex(message, "exec-oob", NULL);
}

static bool may_run(MonitorClient *c)
{
    return !c->handlers && monitor_output_pending(&c->out) < OUTPUT_HIGH;
}

static void take_message(MonitorClient *c, json_object *message, GError *error)
{
    Request *request = g_new(Request, 1);
    *request = (Request){ message, error };
    if (message && is_oob(c, message)) {
        run_request(c, request);
        return;
    }
    g_queue_push_tail(&c->requests, request);
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
    while (c->connected && done < c->input->len && c->requests.length < REQUESTS_MAX &&
           monitor_output_pending(&c->out) < OUTPUT_HIGH) {
        json_object *message = NULL;
        GError *error = NULL;
        size_t used;
        JsonStreamResult result = json_stream_feed(c->stream, c->input->data + done,
                                                   c->input->len - done, &used, &message, &error);
        done += used;
        if (result == JSON_STREAM_MORE)
            continue;
        if (message && is_oob(c, message))
            drop_input(c, &done);          /* more may come while the command runs */
        take_message(c, message, error);
    }
    if (c->connected)
        drop_input(c, &done);
}

static bool has_room(const MonitorClient *c)
{
    return c->requests.length < REQUESTS_MAX && c->input->len < INPUT_MAX;
}

/* Events out, commands in; schedules what can run. */
static void client_pump(MonitorClient *c)
{
    flush_events(c);
    parse_input(c);
    if (c->connected && c->requests.length && may_run(c))
        loop_bh_schedule(&c->run);
}

/* Every call from outside is between these two: the session may end in any of them. */
static bool client_enter(MonitorClient *c)
{
    c->entered++;
    return has_room(c);
}

static void client_free(MonitorClient *c);

static void client_leave(MonitorClient *c, bool had_room)
{
    if (c->connected && !had_room && has_room(c))
        char_front_accept_input(&c->front);
    if (!--c->entered && c->closed)
        client_free(c);
}

static void run_next(void *opaque)
{
    MonitorClient *c = opaque;
    bool had_room = client_enter(c);
    if (c->requests.length && may_run(c))
        run_request(c, g_queue_pop_head(&c->requests));
    client_pump(c);
    client_leave(c, had_room);
}

void monitor_client_event(MonitorClient *c, json_object *message)
{
    if (!c->connected || !c->negotiated)
        return;
    bool had_room = client_enter(c);
    QueuedEvent *event = g_new(QueuedEvent, 1);
    *event = (QueuedEvent){ json_object_get(message), ++c->sequence };
    g_queue_push_tail(&c->events, event);
    if (c->events.length > EVENTS_MAX) {
        free_event(g_queue_pop_head(&c->events));
        c->dropped++;
    }
    flush_events(c);
    client_leave(c, had_room);
}

/* ---- the character device ---- */

static size_t can_receive(void *opaque)
{
    MonitorClient *c = opaque;
    if (!c->connected || !has_room(c) || monitor_output_pending(&c->out) >= OUTPUT_HIGH)
        return 0;
    return INPUT_MAX - c->input->len;
}

static void receive(void *opaque, const uint8_t *data, size_t length)
{
    MonitorClient *c = opaque;
    if (!c->connected)
        return;
    bool had_room = client_enter(c);
    g_byte_array_append(c->input, data, length);
    client_pump(c);
    client_leave(c, had_room);
}

static void writable(void *opaque)
{
    MonitorClient *c = opaque;
    client_enter(c);
    monitor_output_flush(&c->out);
    client_pump(c);
    client_leave(c, false);
}

static void clear_queues(MonitorClient *c)
{
    g_queue_clear_full(&c->requests, free_request);
    g_queue_clear_full(&c->events, free_event);
    g_byte_array_set_size(c->input, 0);
    json_stream_reset(c->stream);
    monitor_output_reset(&c->out);
}

/* A new session, whatever the one before left. */
static void session_start(MonitorClient *c)
{
    clear_queues(c);
    c->negotiated = c->oob = false;
    c->sequence = c->dropped = 0;
    c->connected = true;
    c->session++;
    send_greeting(c);
}

static void session_end(MonitorClient *c)
{
    c->connected = false;
    clear_queues(c);
    if (c->single_use)
        monitor_client_close(c);
}

static void on_char_event(void *opaque, CharEvent event)
{
    MonitorClient *c = opaque;
    bool had_room = client_enter(c);
    if (event == CHAR_OPENED && !c->connected)
        session_start(c);
    else if (event == CHAR_CLOSED && c->connected)
        session_end(c);
    client_leave(c, had_room);
}

MonitorClient *monitor_client_new(Vm *vm, Chardev *chr, bool pretty, bool single_use,
                                  GError **error)
{
    MonitorClient *c = g_new0(MonitorClient, 1);
    c->vm = vm;
    c->chardev = chr;
    c->pretty = pretty;
    c->single_use = single_use;
    c->input = g_byte_array_new();
    c->stream = json_stream_new(JSON_STREAM_MAX_BYTES);
    c->front = (CharFront){ .can_receive = can_receive, .receive = receive,
                            .event = on_char_event, .writable = writable, .opaque = c };
    monitor_output_init(&c->out, &c->front);
    loop_bh_init(&c->run, loop_main(), run_next, c);
    g_ptr_array_add(monitor_set_of(vm)->clients, c);
    if (!char_front_attach(&c->front, chr, error)) {
        monitor_client_close(c);
        return NULL;
    }
    char_front_set_open(&c->front, true);
    if (char_front_connected(&c->front) && !c->connected)
        session_start(c);
    return c;
}

static void client_free(MonitorClient *c)
{
    clear_queues(c);
    monitor_output_clear(&c->out);
    json_stream_free(c->stream);
    g_byte_array_unref(c->input);
    g_free(c);
}

/* Later: it may be the chardev that tells us of its end. */
static void drop_chardev(void *opaque)
{
    object_unref(opaque);
}

void monitor_client_close(MonitorClient *c)
{
    if (c->closed)
        return;
    if (c->connected)
        monitor_output_flush(&c->out);
    c->closed = true;
    c->connected = false;
    loop_bh_cancel(&c->run);
    g_ptr_array_remove(monitor_set_of(c->vm)->clients, c);
    char_front_detach(&c->front);
    if (c->single_use)
        loop_post(loop_main(), drop_chardev, c->chardev);
    if (!c->entered)
        client_free(c);
}
