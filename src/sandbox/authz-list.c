/* authz-list: rules that come with the object. */
#include "src/sandbox/authz-rules.h"
#include "src/sandbox/authz.h"

typedef struct AuthzList {
    Object obj;
    AuthzRules rules;
} AuthzList;

static json_object *get_rules(Object *obj, const Property *prop)
{
    return authz_rules_get(&((AuthzList *)obj)->rules);
}

static bool set_rules(Object *obj, const Property *prop, json_object *value, GError **error)
{
    return authz_rules_set(&((AuthzList *)obj)->rules, value, error);
}

static bool co_fn list_allows(Object *obj, const char *identity, GError **error)
{
    return authz_rules_allow(&((AuthzList *)obj)->rules, identity);
}

static void list_finalize(Object *obj)
{
    authz_rules_clear(&((AuthzList *)obj)->rules);
}

static const Property list_props[] = {
    PROP_OF("policy", AuthzList, rules.policy, prop_enum, .words = authz_policy_words, .runtime = true,
            .help = "for those whom no rule matches: deny or allow"),
    PROP_FN("rules", get_rules, set_rules, .runtime = true,
            .help = "list of match=, policy= (deny, allow) and format= (exact, glob); the first that "
                    "matches decides"),
    {}
};

static const AuthzOps list_ops = { .allows = list_allows };

static const Type list_type = {
    .name = "authz-list",
    .parent = "authz",
    .help = "lets in whom its rules allow",
    .size = sizeof(AuthzList),
    .user_creatable = true,
    .props = list_props,
    .finalize = list_finalize,
    .ops = &list_ops,
};
TYPE_REGISTER(list_type)
