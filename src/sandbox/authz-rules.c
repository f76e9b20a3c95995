/* Rules about identities. */
#include "src/sandbox/authz-rules.h"
#include <string.h>
#include "src/base/options.h"

typedef struct AuthzRule {
    char *match;
    int policy, format;
} AuthzRule;

enum { FORMAT_EXACT, FORMAT_GLOB };

const char *const authz_policy_words[] = { "deny", "allow", NULL };
static const char *const format_words[] = { "exact", "glob", NULL };

static void free_rule(void *opaque)
{
    AuthzRule *rule = opaque;

    g_free(rule->match);
    g_free(rule);
}

static bool take_enum(json_object *object, const char *key, const char *const *words, int *ret,
                      GError **error)
{
    g_autoptr(json_object) value = options_take(object, key);

    return !value || value_to_enum(value, key, words, ret, error);
}

static bool missing(const char *key, GError **error)
{
    return fail(error, ERR_MISSING_PARAMETER, "'%s' is missing", key);
}

/* @object is emptied. */
static bool parse_rule(json_object *object, AuthzRule *rule, GError **error)
{
    static const char *const known[] = { "match", "policy", "format", NULL };
    g_autoptr(json_object) match = options_take(object, "match");
    const char *text;

    rule->policy = -1;
    if (!match)
        return missing("match", error);
    if (!value_to_str(match, "match", &text, error) ||
        !take_enum(object, "policy", authz_policy_words, &rule->policy, error) ||
        !take_enum(object, "format", format_words, &rule->format, error))
        return false;
    if (!g_utf8_validate(text, json_object_get_string_len(match), NULL))
        return fail(error, ERR_INVALID_PARAMETER, "'match' is no text in UTF-8");
    rule->match = g_strdup(text);
    return rule->policy < 0 ? missing("policy", error)
                            : options_check_empty(object, "rule", known, error);
}

static json_object *copy_members(json_object *object)
{
    json_object *copy = json_object_new_object();

    json_object_object_foreach(object, key, value)
        json_object_object_add(copy, key, json_object_get(value));
    return copy;
}

bool authz_rules_set(AuthzRules *rules, json_object *array, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(free_rule);

    if (!json_object_is_type(array, json_type_array))
        return fail(error, ERR_WRONG_TYPE, "'rules' must be a list of objects");
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        json_object *item = json_object_array_get_idx(array, i);
        g_autoptr(json_object) copy = NULL;
        AuthzRule *rule;

        if (!json_object_is_type(item, json_type_object))
            return fail(error, ERR_WRONG_TYPE, "rules.%zu must be an object", i);
        copy = copy_members(item);
        rule = g_new0(AuthzRule, 1);
        g_ptr_array_add(list, rule);
        if (!parse_rule(copy, rule, error))
            return error_prefix(error, "rules.%zu: ", i);
    }
    if (rules->list)
        g_ptr_array_unref(rules->list);
    rules->list = g_steal_pointer(&list);
    return true;
}

json_object *authz_rules_get(const AuthzRules *rules)
{
    json_object *array = json_object_new_array();

    for (unsigned i = 0; rules->list && i < rules->list->len; i++) {
        const AuthzRule *rule = rules->list->pdata[i];
        json_object *item = json_object_new_object();

        json_add_str(item, "match", rule->match);
        json_add_str(item, "policy", authz_policy_words[rule->policy]);
        json_add_str(item, "format", format_words[rule->format]);
        json_object_array_add(array, item);
    }
    return array;
}

bool authz_rules_parse(AuthzRules *rules, json_object *object, GError **error)
{
    static const char *const known[] = { "rules", "policy", NULL };
    g_autoptr(json_object) copy = copy_members(object);
    g_autoptr(json_object) array = options_take(copy, "rules");
    AuthzRules fresh = { .policy = AUTHZ_DENY };

    if ((array && !authz_rules_set(&fresh, array, error)) ||
        !take_enum(copy, "policy", authz_policy_words, &fresh.policy, error) ||
        !options_check_empty(copy, "list", known, error)) {
        authz_rules_clear(&fresh);
        return false;
    }
    authz_rules_clear(rules);
    *rules = fresh;
    return true;
}

void authz_rules_clear(AuthzRules *rules)
{
    g_clear_pointer(&rules->list, g_ptr_array_unref);
}

static bool matches(const AuthzRule *rule, const char *identity)
{
    return rule->format == FORMAT_GLOB ? g_pattern_match_simple(rule->match, identity)
                                       : !strcmp(rule->match, identity);
}

bool authz_rules_allow(const AuthzRules *rules, const char *identity)
{
    for (unsigned i = 0; rules->list && i < rules->list->len; i++) {
        const AuthzRule *rule = rules->list->pdata[i];

        if (matches(rule, identity))
            return rule->policy == AUTHZ_ALLOW;
    }
    return rules->policy == AUTHZ_ALLOW;
}
