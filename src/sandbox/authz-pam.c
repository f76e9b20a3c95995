/*
 * authz-pam: the account rules of a service of the host's PAM (/etc/pam.d): may this user come in now?  Nobody
 * is asked for a password, as who the client is has been made sure of.
 *
 * PAM's modules may ask other machines: they are called by a worker thread.
 */
#include "src/base/lazylib.h"
#include "src/sandbox/authz.h"

/* Of libpam's interface, which has not changed in decades, what is used here: <security/pam_appl.h>. */
typedef struct pam_handle pam_handle_t;
struct pam_message;
struct pam_response;
struct pam_conv {
    int (*conv)(int count, const struct pam_message **messages, struct pam_response **responses, void *opaque);
    void *opaque;
};
enum { PAM_SUCCESS = 0, PAM_CONV_ERR = 19, PAM_SILENT = 0x8000 };
int pam_start(const char *service, const char *user, const struct pam_conv *conv, pam_handle_t **ret);
int pam_acct_mgmt(pam_handle_t *pam, int flags);
int pam_end(pam_handle_t *pam, int status);
const char *pam_strerror(pam_handle_t *pam, int code);

#define FUNCTIONS(F) F(pam_acct_mgmt) F(pam_end) F(pam_start) F(pam_strerror)

FUNCTIONS(LAZY_FUNCTION)

static const LazyFunction functions[] = { FUNCTIONS(LAZY_ENTRY){ NULL, NULL } };

static LazyLibrary libpam = { "libpam.so.0", "libpam0g", functions, PTHREAD_MUTEX_INITIALIZER, false };

typedef struct AuthzPam {
    Object obj;
    char *service;
} AuthzPam;

typedef struct Question {
    const char *service, *user;
    char *why;                             /* g_free; NULL: nothing more to say */
} Question;

/* There is nobody who could answer. */
static int no_answer(int count, const struct pam_message **messages, struct pam_response **responses, void *opaque)
{
    return PAM_CONV_ERR;
}

/* In a worker thread. */
static int ask(void *opaque)
{
    const struct pam_conv conv = { no_answer, NULL };
    Question *q = opaque;
    pam_handle_t *pam = NULL;
    int ret = pam_start(q->service, q->user, &conv, &pam);

    if (ret == PAM_SUCCESS)
        ret = pam_acct_mgmt(pam, PAM_SILENT);
    if (ret != PAM_SUCCESS)
        q->why = g_strdup(pam ? pam_strerror(pam, ret) : "PAM could not begin");
    if (pam)
        pam_end(pam, ret);
    return ret;
}

static bool co_fn pam_allows(Object *obj, const char *identity, GError **error)
{
    Question q = { ((AuthzPam *)obj)->service, identity, NULL };
    bool yes = co_worker_call(ask, &q) == PAM_SUCCESS;

    if (!yes)
        fail(error, ERR_PERMISSION, "PAM's service '%s': %s", q.service, q.why ? q.why : "it could not be asked");
    g_free(q.why);
    return yes;
}

static bool pam_realize(Object *obj, GError **error)
{
    if (!((AuthzPam *)obj)->service)
        return fail(error, ERR_MISSING_PARAMETER, "Parameter 'service' is missing");
    return lazy_library_load(&libpam, error);
}

static const Property pam_props[] = {
    PROP("service", AuthzPam, service, .help = "name of the PAM service whose account rules count"),
    {}
};

static const AuthzOps pam_ops = { .allows = pam_allows };

static const Type pam_type = {
    .name = "authz-pam",
    .parent = "authz",
    .help = "lets in whom the host's PAM allows",
    .size = sizeof(AuthzPam),
    .user_creatable = true,
    .props = pam_props,
    .realize = pam_realize,
    .ops = &pam_ops,
};
TYPE_REGISTER(pam_type)
