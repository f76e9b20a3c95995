/* A list of rules about identities, and what counts where none of them matches. */
#pragma once
#include <json-c/json.h>
#include "src/base/error.h"

typedef struct AuthzRules {
    GPtrArray *list;                       /* of AuthzRule, in order; NULL: none */
    int policy;                            /* index into authz_policy_words */
} AuthzRules;

enum { AUTHZ_DENY, AUTHZ_ALLOW };
extern const char *const authz_policy_words[];

/* [{"match": …, "policy": …, "format": …}, …] in the place of the rules there are.  False: they stay. */
bool authz_rules_set(AuthzRules *rules, json_object *array, GError **error);
json_object *authz_rules_get(const AuthzRules *rules);   /* the same; a new reference */
/* An object with "rules" and "policy", either of which may be left out. */
bool authz_rules_parse(AuthzRules *rules, json_object *object, GError **error);
void authz_rules_clear(AuthzRules *rules);

bool authz_rules_allow(const AuthzRules *rules, const char *identity);
