/* Authorization: finding the object that is asked; the kind that knows one identity. */
#include "src/sandbox/authz.h"
#include <string.h>

static Object *find(Object *root, const char *id, GError **error)
{
    Object *objects = object_child(root, "objects");
    Object *authz = objects ? object_child(objects, id) : NULL;

    if (!authz)
        fail(error, ERR_NOT_FOUND, "No authorization object with id '%s'", id);
    else if (!object_is_a(authz, "authz"))
        fail(error, ERR_WRONG_TYPE, "Object with id '%s' is not an authorization object", id);
    else
        return authz;
    error_object(error, "%s", id);
    return NULL;
}

bool authz_exists(Object *root, const char *id, GError **error)
{
    return find(root, id, error) != NULL;
}

/* A name may hold what would look like lines of the log's own. */
static char *printable(const char *text)
{
    char *copy = g_utf8_make_valid(text, -1);

    for (char *c = copy; *c; c++) {
        if (g_ascii_iscntrl(*c))
            *c = '?';
    }
    return copy;
}

/* Held meanwhile: an object that waits for its answer is in use.  Text that is not UTF-8 is not what an
 * administrator can have written down. */
bool co_fn authz_allows(Object *root, const char *id, const char *identity, GError **error)
{
    Object *found = find(root, id, error);
    g_autoptr(Object) authz = found ? object_ref(found) : NULL;
    g_autoptr(GError) cause = NULL;
    g_autofree char *shown = NULL;
    const AuthzOps *ops;

    if (!authz)
        return false;
    ops = type_ops(authz->type);
    if (g_utf8_validate(identity, -1, NULL) && ops->allows(authz, identity, &cause))
        return true;
    shown = printable(identity);
    fail(error, ERR_PERMISSION, "'%s' refuses '%s'%s%s", id, shown, cause ? ": " : "",
         cause ? cause->message : "");
    return error_object(error, "%s", id);
}

static const Type authz_type = {
    .name = "authz",
    .parent = "user-object",
    .help = "says who may come in",
    .abstract = true,
};
TYPE_REGISTER(authz_type)

/* ---- authz-simple ---- */

typedef struct AuthzSimple {
    Object obj;
    char *identity;
} AuthzSimple;

static bool simple_realize(Object *obj, GError **error)
{
    return ((AuthzSimple *)obj)->identity ||
           fail(error, ERR_MISSING_PARAMETER, "Parameter 'identity' is missing");
}

static bool co_fn simple_allows(Object *obj, const char *identity, GError **error)
{
    return !strcmp(((AuthzSimple *)obj)->identity, identity);
}

static const Property simple_props[] = {
    PROP("identity", AuthzSimple, identity, .runtime = true, .help = "who is let in"),
    {}
};

static const AuthzOps simple_ops = { .allows = simple_allows };

static const Type simple_type = {
    .name = "authz-simple",
    .parent = "authz",
    .help = "lets one identity in",
    .size = sizeof(AuthzSimple),
    .user_creatable = true,
    .props = simple_props,
    .realize = simple_realize,
    .ops = &simple_ops,
};
TYPE_REGISTER(simple_type)
