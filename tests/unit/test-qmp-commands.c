/*
 * Every command answers, and what it answers is what query-qmp-schema says.  The check knows nothing
 * of the schema's files: it reads the introspection as a client would.
 */
#include "tests/unit/qmp-peer.h"
#include "block/driver.h"
#include "src/object/type.h"

typedef struct Session {
    Vm *vm;
    Peer *peer;
    json_object *schema;                   /* the reply of query-qmp-schema */
    GHashTable *entries;                   /* name: its entry, borrowed */
} Session;

static json_object *run(Session *s, const char *command)
{
    peer_send(s->peer, command);
    for (;;) {
        json_object *message = peer_next(s->peer);
        if (!has(message, "event"))
            return message;
        json_object_put(message);
    }
}

/* What a command returns; it must not fail. */
static json_object *run_ok(Session *s, const char *command)
{
    g_autoptr(json_object) reply = run(s, command);
    ck_assert_msg(has(reply, "return"), "%s: %s", command, json_object_to_json_string(reply));
    return json_object_get(get(reply, "return"));
}

static void make_machine(Vm *vm)
{
    g_autoptr(GError) error = NULL;
    vm->machine = machine_new(vm->root, "none", &vm->lock, &vm->machine_env, NULL, &error);
    ck_assert_msg(vm->machine != NULL, "%s", error ? error->message : "");
    ck_assert(machine_build(vm->machine, &error));
    ck_assert(machine_done(vm->machine, &error));
}

static void session_open(Session *s)
{
    s->vm = new_vm();
    make_machine(s->vm);
    s->peer = peer_ready(s->vm, "mon0");
    s->schema = run_ok(s, "{\"execute\": \"query-qmp-schema\"}");
    s->entries = g_hash_table_new(g_str_hash, g_str_equal);
    for (size_t i = 0; i < json_object_array_length(s->schema); i++) {
        json_object *entry = json_object_array_get_idx(s->schema, i);
        const char *name = get_str(entry, "name");
        ck_assert_msg(g_hash_table_insert(s->entries, (void *)name, entry), "%s is there twice",
                      name);
    }
}

static void session_close(Session *s)
{
    g_hash_table_unref(s->entries);
    json_object_put(s->schema);
    peer_close(s->peer);
    free_vm(s->vm);
}

static json_object *entry(Session *s, const char *name)
{
    json_object *found = g_hash_table_lookup(s->entries, name);
    ck_assert_msg(found != NULL, "the schema has no '%s'", name);
    return found;
}

/* ---- a value against its type ---- */

static void check_value(Session *s, json_object *value, const char *type, const char *where);

static json_object *find_member(json_object *members, const char *key, const char *value)
{
    for (size_t i = 0; i < json_object_array_length(members); i++) {
        json_object *member = json_object_array_get_idx(members, i);
        if (!strcmp(get_str(member, key), value))
            return member;
    }
    return NULL;
}

static bool is_member(Session *s, json_object *type, json_object *object, const char *name,
                      json_object **ret)
{
    *ret = find_member(get(type, "members"), "name", name);
    if (*ret || !has(type, "tag"))
        return *ret != NULL;
    const char *tag = get_str(object, get_str(type, "tag"));
    json_object *variant = find_member(get(type, "variants"), "case", tag);
    return variant && is_member(s, entry(s, get_str(variant, "type")), object, name, ret);
}

static void check_mandatory(Session *s, json_object *type, json_object *object, const char *where)
{
    json_object *members = get(type, "members");
    for (size_t i = 0; i < json_object_array_length(members); i++) {
        json_object *member = json_object_array_get_idx(members, i);
        ck_assert_msg(has(member, "default") || has(object, get_str(member, "name")),
                      "%s has no '%s'", where, get_str(member, "name"));
    }
}

static void check_object(Session *s, json_object *object, json_object *type, const char *where)
{
    ck_assert_msg(json_object_is_type(object, json_type_object), "%s is no object", where);
    check_mandatory(s, type, object, where);
    json_object_object_foreach(object, name, value)
    {
        json_object *member;
        g_autofree char *inner = g_strdup_printf("%s.%s", where, name);
        ck_assert_msg(is_member(s, type, object, name, &member), "%s is not in the schema", inner);
        check_value(s, value, get_str(member, "type"), inner);
    }
}

static void check_array(Session *s, json_object *array, const char *element, const char *where)
{
    ck_assert_msg(json_object_is_type(array, json_type_array), "%s is no array", where);
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        g_autofree char *inner = g_strdup_printf("%s[%zu]", where, i);
        check_value(s, json_object_array_get_idx(array, i), element, inner);
    }
}

static void check_enum(json_object *value, json_object *type, const char *where)
{
    json_object *words = get(type, "values");
    ck_assert_msg(json_object_is_type(value, json_type_string), "%s is no string", where);
    for (size_t i = 0; i < json_object_array_length(words); i++) {
        if (json_object_equal(value, json_object_array_get_idx(words, i)))
            return;
    }
    ck_abort_msg("%s: '%s' is not in the enum", where, json_object_get_string(value));
}

static void check_builtin(json_object *value, const char *kind, const char *where)
{
    json_type type = json_object_get_type(value);
    bool fits = !strcmp(kind, "value") || (!strcmp(kind, "string") && type == json_type_string) ||
                (!strcmp(kind, "int") && type == json_type_int) ||
                (!strcmp(kind, "boolean") && type == json_type_boolean) ||
                (!strcmp(kind, "null") && type == json_type_null) ||
                (!strcmp(kind, "number") && (type == json_type_int || type == json_type_double));
    ck_assert_msg(fits, "%s is no %s: %s", where, kind, json_object_to_json_string(value));
}

static void check_value(Session *s, json_object *value, const char *type, const char *where)
{
    json_object *info = entry(s, type);
    const char *meta = get_str(info, "meta-type");
    if (!strcmp(meta, "object"))
        check_object(s, value, info, where);
    else if (!strcmp(meta, "array"))
        check_array(s, value, get_str(info, "element-type"), where);
    else if (!strcmp(meta, "enum"))
        check_enum(value, info, where);
    else if (!strcmp(meta, "builtin"))
        check_builtin(value, get_str(info, "json-type"), where);
    else
        ck_abort_msg("%s: a reply has meta-type %s", where, meta);
}

/* A command with these arguments answers what its ret-type says. */
static json_object *check_command(Session *s, const char *command, const char *arguments)
{
    g_autofree char *text = g_strdup_printf("{\"execute\": \"%s\", \"arguments\": %s}", command,
                                            arguments);
    json_object *result = run_ok(s, text);
    check_value(s, result, get_str(entry(s, command), "ret-type"), command);
    return result;
}

static void drop(json_object *value)
{
    json_object_put(value);
}

/* ---- the tests ---- */

START_TEST(the_schema_describes_itself)
{
    Session s;
    session_open(&s);
    check_value(&s, s.schema, get_str(entry(&s, "query-qmp-schema"), "ret-type"), "schema");
    json_object *add = entry(&s, "device_add");
    ck_assert_str_eq(json_object_to_json_string_ext(get(add, "features"), JSON_C_TO_STRING_PLAIN),
                     "[\"json-cli\",\"json-cli-hotplug\"]");
    session_close(&s);
}
END_TEST

/* Every type that is named is there, and every one that is there is named. */
START_TEST(the_schema_is_closed)
{
    Session s;
    session_open(&s);
    g_autoptr(GHashTable) named = g_hash_table_new(g_str_hash, g_str_equal);
    for (size_t i = 0; i < json_object_array_length(s.schema); i++) {
        json_object *e = json_object_array_get_idx(s.schema, i), *list;
        static const char *const keys[] = { "arg-type", "ret-type", "element-type" };
        for (unsigned k = 0; k < G_N_ELEMENTS(keys); k++) {
            if (has(e, keys[k]))
                g_hash_table_add(named, (void *)get_str(entry(&s, get_str(e, keys[k])), "name"));
        }
        if (strcmp(get_str(e, "meta-type"), "enum") && json_object_object_get_ex(e, "members", &list)) {
            for (size_t k = 0; k < json_object_array_length(list); k++)
                g_hash_table_add(named, (void *)get_str(json_object_array_get_idx(list, k), "type"));
        }
        if (json_object_object_get_ex(e, "variants", &list)) {
            for (size_t k = 0; k < json_object_array_length(list); k++)
                g_hash_table_add(named, (void *)get_str(json_object_array_get_idx(list, k), "type"));
        }
    }
    GHashTableIter iter;
    void *name, *e;
    g_hash_table_iter_init(&iter, named);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        entry(&s, name);
    g_hash_table_iter_init(&iter, s.entries);
    while (g_hash_table_iter_next(&iter, &name, &e)) {
        const char *meta = get_str(e, "meta-type");
        if (strcmp(meta, "command") && strcmp(meta, "event"))
            ck_assert_msg(g_hash_table_contains(named, name), "nothing uses type %s", (char *)name);
    }
    session_close(&s);
}
END_TEST

START_TEST(commands_and_schema_agree)
{
    Session s;
    session_open(&s);
    g_autoptr(json_object) list = check_command(&s, "query-commands", "{}");
    unsigned described = 0;
    for (size_t i = 0; i < json_object_array_length(s.schema); i++)
        described += !strcmp(get_str(json_object_array_get_idx(s.schema, i), "meta-type"), "command");
    ck_assert_uint_eq(json_object_array_length(list), described);
    for (size_t i = 0; i < json_object_array_length(list); i++)
        entry(&s, get_str(json_object_array_get_idx(list, i), "name"));
    session_close(&s);
}
END_TEST

static bool needs_arguments(Session *s, json_object *command)
{
    json_object *members = get(entry(s, get_str(command, "arg-type")), "members");
    for (size_t i = 0; i < json_object_array_length(members); i++) {
        if (!has(json_object_array_get_idx(members, i), "default"))
            return true;
    }
    return false;
}

/* What may fail in this machine: it has no CPUs, no power button, no NBD server, and the session is
 * negotiated. */
static bool may_fail(const char *name)
{
    static const char *const names[] = { "qmp_capabilities", "inject-nmi", "system_powerdown",
                                         "block_resize", "add-fd", "nbd-server-stop", NULL };
    return g_strv_contains(names, name);
}

START_TEST(every_command_answers_as_the_schema_says)
{
    Session s;
    session_open(&s);
    unsigned checked = 0;
    for (size_t i = 0; i < json_object_array_length(s.schema); i++) {
        json_object *e = json_object_array_get_idx(s.schema, i);
        const char *name = get_str(e, "name");
        if (strcmp(get_str(e, "meta-type"), "command") || needs_arguments(&s, e) || may_fail(name))
            continue;
        drop(check_command(&s, name, "{}"));
        checked++;
    }
    ck_assert_uint_gt(checked, 30);
    session_close(&s);
}
END_TEST

/* A command that lacks what it needs says so, and names it. */
START_TEST(every_command_names_what_is_missing)
{
    Session s;
    session_open(&s);
    for (size_t i = 0; i < json_object_array_length(s.schema); i++) {
        json_object *e = json_object_array_get_idx(s.schema, i);
        const char *name = get_str(e, "name");
        if (strcmp(get_str(e, "meta-type"), "command") || !needs_arguments(&s, e))
            continue;
        g_autofree char *text = g_strdup_printf("{\"execute\": \"%s\"}", name);
        g_autofree char *prefix = g_strdup_printf("command '%s': argument '", name);
        g_autoptr(json_object) reply = run(&s, text);
        const char *desc = get_str(get(reply, "error"), "desc");
        ck_assert_msg(g_str_has_prefix(desc, prefix) && g_str_has_suffix(desc, "' is missing"),
                      "%s", desc);
    }
    session_close(&s);
}
END_TEST

static void list_type(const Type *type, void *opaque)
{
    Session *s = opaque;
    g_autofree char *arguments = g_strdup_printf("{\"typename\": \"%s\"}", type->name);
    drop(check_command(s, "qom-list-properties", arguments));
    if (type_is_a(type, "device") && !type->abstract) {
        drop(check_command(s, "device-list-properties", arguments));
    } else {
        g_autofree char *text = g_strdup_printf(
            "{\"execute\": \"device-list-properties\", \"arguments\": %s}", arguments);
        g_autoptr(json_object) reply = run(s, text);
        ck_assert_str_eq(get_str(get(reply, "error"), "class"), "GenericError");
    }
}

START_TEST(every_type_lists_its_properties)
{
    Session s;
    session_open(&s);
    type_foreach(NULL, list_type, &s);
    g_autoptr(json_object) none =
        check_command(&s, "qom-list-properties", "{\"typename\": \"no-such-type\"}");
    ck_assert_uint_eq(json_object_array_length(none), 0);
    drop(check_command(&s, "qom-list-properties", "{\"typename\": \"none-machine\"}"));
    session_close(&s);
}
END_TEST

START_TEST(machine_types_have_their_suffix)
{
    Session s;
    session_open(&s);
    g_autoptr(json_object) types = check_command(&s, "qom-list-types", "{\"implements\": \"machine\"}");
    ck_assert_ptr_nonnull(find_member(types, "name", "none-machine"));
    g_autoptr(json_object) machines = check_command(&s, "query-machines", "{}");
    json_object *none = find_member(machines, "name", "none");
    ck_assert_ptr_nonnull(none);
    ck_assert(!json_object_get_boolean(get(none, "hotpluggable-cpus")));
    session_close(&s);
}
END_TEST

static bool list_object(Object *obj, void *opaque)
{
    Session *s = opaque;
    g_autofree char *path = object_path(obj);
    g_autofree char *arguments = g_strdup_printf("{\"path\": \"%s\"}", path);
    g_autoptr(json_object) list = check_command(s, "qom-list", arguments);
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        const char *name = get_str(json_object_array_get_idx(list, i), "name");
        ck_assert_msg(g_hash_table_add(names, (char *)name), "%s: '%s' twice", path, name);
        g_autofree char *text = g_strdup_printf(
            "{\"execute\": \"qom-get\", \"arguments\": {\"path\": \"%s\", \"property\": \"%s\"}}",
            path, name);
        drop(run_ok(s, text));
    }
    return true;
}

START_TEST(every_property_can_be_read)
{
    Session s;
    session_open(&s);
    drop(check_command(&s, "object-add", "{\"qom-type\": \"iothread\", \"id\": \"io1\"}"));
    object_walk(s.vm->root, list_object, &s);
    session_close(&s);
}
END_TEST

START_TEST(objects)
{
    Session s;
    session_open(&s);
    drop(check_command(&s, "object-add",
                       "{\"qom-type\": \"iothread\", \"id\": \"io1\", \"poll-max-ns\": 5}"));
    drop(check_command(&s, "object-add",       /* as clients of old write it */
                       "{\"qom-type\": \"iothread\", \"id\": \"io2\", \"props\": {\"poll-max-ns\": 6}}"));
    g_autoptr(json_object) threads = check_command(&s, "query-iothreads", "{}");
    ck_assert_int_eq(json_object_get_int(get(find_member(threads, "id", "io1"), "poll-max-ns")), 5);
    ck_assert_int_eq(json_object_get_int(get(find_member(threads, "id", "io2"), "poll-max-ns")), 6);
    ck_assert_int_gt(json_object_get_int(get(find_member(threads, "id", "io1"), "thread-id")), 0);
    drop(check_command(&s, "qom-set",
                       "{\"path\": \"/objects/io1\", \"property\": \"poll-max-ns\", \"value\": 77}"));
    g_autoptr(json_object) value = run_ok(
        &s, "{\"execute\": \"qom-get\", \"arguments\": {\"path\": \"io1\", \"property\": \"poll-max-ns\"}}");
    ck_assert_int_eq(json_object_get_int(value), 77);
    drop(check_command(&s, "object-del", "{\"id\": \"io1\"}"));
    drop(check_command(&s, "object-del", "{\"id\": \"io2\"}"));
    g_autoptr(json_object) again = run(&s, "{\"execute\": \"object-del\", \"arguments\": {\"id\": \"io1\"}}");
    ck_assert_str_eq(get_str(get(again, "error"), "class"), "GenericError");
    session_close(&s);
}
END_TEST

START_TEST(block_nodes)
{
    Session s;
    session_open(&s);
    drop(check_command(&s, "blockdev-add",
                       "{\"driver\": \"null-co\", \"node-name\": \"n0\", \"size\": 1048576}"));
    drop(check_command(&s, "blockdev-add",
                       "{\"driver\": \"raw\", \"node-name\": \"r0\", \"file\": \"n0\"}"));
    g_autoptr(json_object) nodes = check_command(&s, "query-named-block-nodes", "{\"flat\": true}");
    json_object *raw = find_member(nodes, "node-name", "r0");
    ck_assert_int_eq(json_object_get_int(get(get(raw, "image"), "virtual-size")), 1048576);
    drop(check_command(&s, "query-blockstats", "{\"query-nodes\": true}"));
    g_autoptr(json_object) busy = run(
        &s, "{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"n0\"}}");
    ck_assert_str_eq(get_str(get(busy, "error"), "code"), "in-use");
    drop(check_command(&s, "blockdev-del", "{\"node-name\": \"r0\"}"));
    drop(check_command(&s, "blockdev-del", "{\"node-name\": \"n0\"}"));
    g_autoptr(json_object) nameless = run(
        &s, "{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"null-co\"}}");
    ck_assert_str_eq(get_str(get(nameless, "error"), "desc"),
                     "command 'blockdev-add': argument 'node-name' is missing");
    session_close(&s);
}
END_TEST

/* Options that the schema does not tell of: vireo's own, old forms of the command line, and what is only
 * named to be refused. */
static bool is_untold(const char *option)
{
    static const char *const untold[] = { "path", "host", "port", "header", NULL };
    return g_str_has_prefix(option, "x-") || g_strv_contains(untold, option);
}

/* What a driver takes is what the schema lets through, and nothing else. */
static void check_driver(const BlockDriver *driver, void *opaque)
{
    Session *s = opaque;
    json_object *options = entry(s, get_str(entry(s, "blockdev-add"), "arg-type"));
    json_object *variant = find_member(get(options, "variants"), "case", driver->name);
    ck_assert_msg(variant != NULL, "the schema has no driver '%s'", driver->name);
    json_object *members = get(entry(s, get_str(variant, "type")), "members");
    for (unsigned i = 0; driver->options && driver->options[i]; i++)
        ck_assert_msg(is_untold(driver->options[i]) ||
                          find_member(members, "name", driver->options[i]),
                      "the schema has no option '%s' of driver '%s'", driver->options[i], driver->name);
    for (size_t i = 0; i < json_object_array_length(members); i++) {
        const char *name = get_str(json_object_array_get_idx(members, i), "name");
        ck_assert_msg(driver->options && g_strv_contains(driver->options, name),
                      "driver '%s' takes no '%s'", driver->name, name);
    }
}

START_TEST(block_drivers_and_schema_agree)
{
    Session s;
    session_open(&s);
    block_driver_foreach(check_driver, &s);
    json_object *options = entry(&s, get_str(entry(&s, "blockdev-add"), "arg-type"));
    json_object *variants = get(options, "variants");
    for (size_t i = 0; i < json_object_array_length(variants); i++) {
        const char *name = get_str(json_object_array_get_idx(variants, i), "case");
        ck_assert_msg(block_driver_find(name) != NULL, "there is no driver '%s'", name);
    }
    session_close(&s);
}
END_TEST

START_TEST(character_devices)
{
    Session s;
    session_open(&s);
    drop(check_command(&s, "chardev-add",
                       "{\"id\": \"r0\", \"backend\": {\"type\": \"ringbuf\", \"data\": {\"size\": 16}}}"));
    drop(check_command(&s, "ringbuf-write", "{\"device\": \"r0\", \"data\": \"hello\"}"));
    drop(check_command(&s, "ringbuf-write",
                       "{\"device\": \"r0\", \"data\": \"/w==\", \"format\": \"base64\"}"));
    g_autoptr(json_object) text = check_command(&s, "ringbuf-read", "{\"device\": \"r0\", \"size\": 100}");
    ck_assert_str_eq(json_object_get_string(text), "hello\xef\xbf\xbd");
    g_autoptr(json_object) pty = check_command(
        &s, "chardev-add", "{\"id\": \"p0\", \"backend\": {\"type\": \"pty\", \"data\": {}}}");
    ck_assert(g_str_has_prefix(get_str(pty, "pty"), "/dev/pts/"));
    g_autoptr(json_object) all = check_command(&s, "query-chardev", "{}");
    g_autofree char *name = g_strconcat("pty:", get_str(pty, "pty"), NULL);
    ck_assert_str_eq(get_str(find_member(all, "label", "p0"), "filename"), name);
    ck_assert(json_object_get_boolean(get(find_member(all, "label", "mon0"), "frontend-open")));
    drop(check_command(&s, "chardev-change",
                       "{\"id\": \"r0\", \"backend\": {\"type\": \"null\", \"data\": {}}}"));
    drop(check_command(&s, "chardev-remove", "{\"id\": \"r0\"}"));
    drop(check_command(&s, "chardev-remove", "{\"id\": \"p0\"}"));
    g_autoptr(json_object) own = run(
        &s, "{\"execute\": \"chardev-remove\", \"arguments\": {\"id\": \"mon0\"}}");
    ck_assert_str_eq(get_str(get(own, "error"), "code"), "in-use");
    session_close(&s);
}
END_TEST

START_TEST(trace_events)
{
    Session s;
    session_open(&s);
    drop(check_command(&s, "trace-event-set-state", "{\"name\": \"qmp_command\", \"enable\": true}"));
    g_autoptr(json_object) on = check_command(&s, "trace-event-get-state", "{\"name\": \"qmp_comm*\"}");
    ck_assert_str_eq(get_str(find_member(on, "name", "qmp_command"), "state"), "enabled");
    drop(check_command(&s, "trace-event-set-state", "{\"name\": \"*\", \"enable\": false}"));
    g_autoptr(json_object) none = run(
        &s, "{\"execute\": \"trace-event-set-state\", \"arguments\": {\"name\": \"x\", \"enable\": true}}");
    ck_assert_str_eq(get_str(get(none, "error"), "code"), "not-found");
    session_close(&s);
}
END_TEST

/* Handlers pass these between the machine and the schema as numbers. */
START_TEST(words_are_in_the_same_order)
{
    for (int i = 0; i < QMP_RUN_STATE__COUNT; i++)
        ck_assert_str_eq(run_state_words[i], qmp_run_state_words[i]);
    for (int i = 0; i < QMP_WATCHDOG_ACTION__COUNT; i++)
        ck_assert_str_eq(watchdog_action_words[i], qmp_watchdog_action_words[i]);
}
END_TEST

/* ---- the monitor for people ---- */

static void check_hmp(Session *s, const char *line, const char *want)
{
    g_autofree char *arguments = g_strdup_printf("{\"command-line\": \"%s\"}", line);
    g_autoptr(json_object) text = check_command(s, "human-monitor-command", arguments);
    ck_assert_str_eq(json_object_get_string(text), want);
}

START_TEST(lines_for_people)
{
    Session s;
    session_open(&s);
    check_hmp(&s, "info status", "VM status: paused (prelaunch)\r\n");
    check_hmp(&s, "savevm x", "unknown command: 'savevm'\r\n");
    check_hmp(&s, "info weather", "unknown command: 'info weather'\r\n");
    check_hmp(&s, "", "");
    check_hmp(&s, "system_reset now", "usage: system_reset \r\n");
    check_hmp(&s, "object_add iothread,id=io9", "");
    check_hmp(&s, "qom-get /objects/io9 type", "\"iothread\"\r\n");
    session_close(&s);
}
END_TEST

/* Every info command says something of this machine without an error of ours. */
START_TEST(every_info_runs)
{
    Session s;
    session_open(&s);
    g_autoptr(json_object) list = check_command(&s, "human-monitor-command", "{\"command-line\": \"info\"}");
    g_auto(GStrv) lines = g_strsplit(json_object_get_string(list), "\r\n", -1);
    ck_assert_uint_gt(g_strv_length(lines), 15);
    for (unsigned i = 0; lines[i] && *lines[i]; i++) {
        g_auto(GStrv) words = g_strsplit(lines[i], " ", 3);
        g_autofree char *arguments = g_strdup_printf("{\"command-line\": \"info %s\"}", words[1]);
        g_autoptr(json_object) text = check_command(&s, "human-monitor-command", arguments);
        ck_assert_msg(!strstr(json_object_get_string(text), "unknown command"), "%s", lines[i]);
    }
    session_close(&s);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, the_schema_describes_itself);
    tcase_add_test(tc, the_schema_is_closed);
    tcase_add_test(tc, commands_and_schema_agree);
    tcase_add_test(tc, every_command_answers_as_the_schema_says);
    tcase_add_test(tc, every_command_names_what_is_missing);
    tcase_add_test(tc, every_type_lists_its_properties);
    tcase_add_test(tc, machine_types_have_their_suffix);
    tcase_add_test(tc, every_property_can_be_read);
    tcase_add_test(tc, objects);
    tcase_add_test(tc, block_nodes);
    tcase_add_test(tc, block_drivers_and_schema_agree);
    tcase_add_test(tc, character_devices);
    tcase_add_test(tc, trace_events);
    tcase_add_test(tc, words_are_in_the_same_order);
    tcase_add_test(tc, lines_for_people);
    tcase_add_test(tc, every_info_runs);
}

int main(void)
{
    return run_tests("qmp-commands", add_tests);
}
