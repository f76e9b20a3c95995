/*
 * Who may come in: objects that are asked about an identity, which somebody else has made sure of: the
 * distinguished name of a client's certificate, the name of its shared key.
 *
 *     authz-simple      one identity
 *     authz-list        rules, the first of which that matches decides
 *     authz-list-file   such rules in a file, which is read again when it changes
 *     authz-pam         the account rules of a service of the host's PAM
 *
 * Whatever goes wrong on the way to an answer means no.  Threads: main thread, VM lock.
 */
#pragma once
#include "src/base/coroutine.h"
#include "src/object/object.h"

/* Type.ops of a type that is_a "authz".  False: refused, and *error says why, if it is not just the
 * object's answer (then *error is left alone). */
typedef struct AuthzOps {
    bool co_fn (*allows)(Object *authz, const char *identity, GError **error);
} AuthzOps;

/* Whether there is an authorization object of that name, for who wants to know early. */
bool authz_exists(Object *root, const char *id, GError **error);
/* Whether the object @id lets @identity in; false with an error that names both.  It is looked up for each
 * question, so that it may be replaced by another one meanwhile.  May wait. */
bool co_fn authz_allows(Object *root, const char *id, const char *identity, GError **error);
