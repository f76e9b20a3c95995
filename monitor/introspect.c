/*
 * query-qmp-schema: the descriptors of commands, events and types as SchemaInfo.  Types of the
 * schema are masked with numbers, so that a client cannot come to depend on their names; only what
 * a command or an event uses is listed.
 */
#include "monitor/dispatch.h"
#include <string.h>

typedef struct Mask {
    GHashTable *names;                     /* const QmpType *: its name in the reply */
    GQueue todo;                           /* of const QmpType, named but not described yet */
    unsigned next;
} Mask;

static const QmpType empty_struct = { .name = "empty", .kind = QMP_KIND_STRUCT };

/* All integers are "int" to a client. */
static const QmpType *canonical(const QmpType *type)
{
    if (!type)
        return &empty_struct;
    return type->kind == QMP_KIND_INT || type->kind == QMP_KIND_UINT ? &qmp_type_int : type;
}

static char *make_name(Mask *mask, const QmpType *type);

static const char *name_of(Mask *mask, const QmpType *type)
{
    type = canonical(type);
    char *name = g_hash_table_lookup(mask->names, type);
    if (name)
        return name;
    name = make_name(mask, type);
    g_hash_table_insert(mask->names, (void *)type, name);
    g_queue_push_tail(&mask->todo, (void *)type);
    return name;
}

static char *make_name(Mask *mask, const QmpType *type)
{
    switch (type->kind) {
    case QMP_KIND_ENUM:
    case QMP_KIND_STRUCT:
    case QMP_KIND_ALTERNATE:
        return g_strdup_printf("%u", mask->next++);
    case QMP_KIND_ARRAY:
        return g_strdup_printf("[%s]", name_of(mask, type->element));
    default:
        return g_strdup(type->name);
    }
}

static json_object *words(const char *const *list)
{
    json_object *array = json_object_new_array();
    for (; *list; list++)
        json_object_array_add(array, json_object_new_string(*list));
    return array;
}

static json_object *info(const char *name, const char *meta, const char *const *features)
{
    json_object *object = json_object_new_object();
    json_add_str(object, "name", name);
    json_add_str(object, "meta-type", meta);
    if (features)
        json_object_object_add(object, "features", words(features));
    return object;
}

static json_object *describe_members(Mask *mask, const QmpType *type)
{
    json_object *array = json_object_new_array();
    for (const QmpMember *m = type->members; m && m->name; m++) {
        json_object *member = json_object_new_object();
        json_add_str(member, "name", m->name);
        json_add_str(member, "type", name_of(mask, m->type));
        if (m->optional)
            json_object_object_add(member, "default", NULL);
        if (m->features)
            json_object_object_add(member, "features", words(m->features));
        json_object_array_add(array, member);
    }
    return array;
}

static json_object *describe_variants(Mask *mask, const QmpType *type)
{
    json_object *array = json_object_new_array();
    for (int i = 0; type->tag->type->words[i]; i++) {
        json_object *variant = json_object_new_object();
        json_add_str(variant, "case", type->tag->type->words[i]);
        json_add_str(variant, "type", name_of(mask, type->branches[i]));
        json_object_array_add(array, variant);
    }
    return array;
}

static json_object *describe_struct(Mask *mask, const QmpType *type)
{
    json_object *object = info(name_of(mask, type), "object", type->features);
    json_object_object_add(object, "members", describe_members(mask, type));
    if (type->tag) {
        json_add_str(object, "tag", type->tag->name);
        json_object_object_add(object, "variants", describe_variants(mask, type));
    }
    return object;
}

static json_object *describe_enum(Mask *mask, const QmpType *type)
{
    json_object *object = info(name_of(mask, type), "enum", type->features);
    json_object *members = json_object_new_array();
    for (int i = 0; type->words[i]; i++) {
        json_object *member = json_object_new_object();
        json_add_str(member, "name", type->words[i]);
        json_object_array_add(members, member);
    }
    json_object_object_add(object, "members", members);
    json_object_object_add(object, "values", words(type->words));
    return object;
}

static json_object *describe_alternate(Mask *mask, const QmpType *type)
{
    json_object *object = info(name_of(mask, type), "alternate", type->features);
    json_object *members = json_object_new_array();
    for (int i = 0; type->branches[i]; i++) {
        json_object *member = json_object_new_object();
        json_add_str(member, "type", name_of(mask, type->branches[i]));
        json_object_array_add(members, member);
    }
    json_object_object_add(object, "members", members);
    return object;
}

static json_object *describe_builtin(Mask *mask, const QmpType *type)
{
    static const char *const json_types[] = {
        [QMP_KIND_STR] = "string", [QMP_KIND_BOOL] = "boolean", [QMP_KIND_NUMBER] = "number",
        [QMP_KIND_NULL] = "null", [QMP_KIND_ANY] = "value", [QMP_KIND_INT] = "int",
    };
    json_object *object = info(name_of(mask, type), "builtin", NULL);
    json_add_str(object, "json-type", json_types[type->kind]);
    return object;
}

static json_object *describe_type(Mask *mask, const QmpType *type)
{
    json_object *object;
    switch (type->kind) {
    case QMP_KIND_STRUCT:
        return describe_struct(mask, type);
    case QMP_KIND_ENUM:
        return describe_enum(mask, type);
    case QMP_KIND_ALTERNATE:
        return describe_alternate(mask, type);
    case QMP_KIND_ARRAY:
        object = info(name_of(mask, type), "array", NULL);
        json_add_str(object, "element-type", name_of(mask, type->element));
        return object;
    default:
        return describe_builtin(mask, type);
    }
}

static json_object *describe_command(Mask *mask, const QmpCommand *command)
{
    json_object *object = info(command->name, "command", command->features);
    json_add_str(object, "arg-type", name_of(mask, command->data));
    json_add_str(object, "ret-type", name_of(mask, command->returns));
    if (command->oob)
        json_object_object_add(object, "allow-oob", json_object_new_boolean(true));
    return object;
}

json_object *qmp_introspect(void)
{
    Mask mask = { .names = g_hash_table_new_full(NULL, NULL, NULL, g_free),
                  .todo = G_QUEUE_INIT };
    json_object *reply = json_object_new_array();
    for (const QmpCommand *command = qmp_commands; command->name; command++)
        json_object_array_add(reply, describe_command(&mask, command));
    for (const QmpEventInfo *event = qmp_events; event->name; event++) {
        json_object *object = info(event->name, "event", event->features);
        json_add_str(object, "arg-type", name_of(&mask, event->data));
        json_object_array_add(reply, object);
    }
    const QmpType *type;
    while ((type = g_queue_pop_head(&mask.todo)))
        json_object_array_add(reply, describe_type(&mask, type));
    g_hash_table_unref(mask.names);
    return reply;
}
