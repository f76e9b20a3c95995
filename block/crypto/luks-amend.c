#include "block/crypto/luks-amend.h"
#include "block/crypto/key-secret.h"
#include "src/base/options.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { ITER_TIME_DEFAULT_MS = 2000 };

typedef struct LuksAmend {
    Luks *luks;
    const LuksIo *io;
    int state;                             /* of state_words */
    const char *new_secret, *old_secret;   /* ids; NULL: not given */
    GBytes *new_passphrase, *old_passphrase;
    int slot;                              /* -1: not given */
    bool force, has_iter_time;
    uint64_t iter_time_ms;
} LuksAmend;

enum { ACTIVE, INACTIVE };
static const char *const state_words[] = { "active", "inactive", NULL };

/* Options. */

static bool parse_slot(json_object *options, LuksAmend *a, GError **error)
{
    uint64_t slot = 0;

    a->slot = -1;
    if (!json_object_object_get_ex(options, "keyslot", NULL))
        return true;
    if (!options_get_u64(options, "keyslot", &slot, error))
        return false;
    if (slot >= LUKS_SLOTS)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Invalid keyslot specified. Must be between 0 and %d", LUKS_SLOTS - 1);
    a->slot = slot;
    return true;
}

static bool check_known(json_object *options, GError **error)
{
    static const char *const known[] = { "driver", "state", "new-secret", "old-secret", "keyslot",
                                         "iter-time", NULL };

    json_object_object_foreach(options, key, value)
    {
        (void)value;
        if (!g_strv_contains(known, key))
            return fail(error, ERR_UNSUPPORTED,
                        "Changing '%s' of an encrypted image is not supported", key);
    }
    return true;
}

/* What does not go together. */
static bool check_together(const LuksAmend *a, GError **error)
{
    if (a->state < 0)
        return fail(error, ERR_MISSING_PARAMETER, "Parameter 'state' is missing");
    if (a->state == ACTIVE && !a->new_secret)
        return fail(error, ERR_MISSING_PARAMETER, "'new-secret' is required to activate a keyslot");
    if (a->state == ACTIVE && a->old_secret)
        return fail(error, ERR_INVALID_PARAMETER,
                    "'old-secret' must not be given when activating keyslots");
    if (a->state == INACTIVE && a->new_secret)
        return fail(error, ERR_INVALID_PARAMETER,
                    "'new-secret' must not be given when erasing keyslots");
    if (a->state == INACTIVE && a->has_iter_time)
        return fail(error, ERR_INVALID_PARAMETER,
                    "'iter-time' must not be given when erasing keyslots");
    if (a->state == INACTIVE && !a->old_secret && a->slot < 0)
        return fail(error, ERR_MISSING_PARAMETER,
                    "To erase keyslots, either 'keyslot' or 'old-secret' "
                    "must be given");
    return true;
}

static bool parse(json_object *options, LuksAmend *a, GError **error)
{
    a->state = -1;
    a->iter_time_ms = ITER_TIME_DEFAULT_MS;
    a->has_iter_time = json_object_object_get_ex(options, "iter-time", NULL);
    if (!check_known(options, error) ||
        !options_get_enum(options, "state", state_words, &a->state, error) ||
        !options_get_str(options, "new-secret", &a->new_secret, error) ||
        !options_get_str(options, "old-secret", &a->old_secret, error) ||
        !options_get_u64(options, "iter-time", &a->iter_time_ms, error) ||
        !parse_slot(options, a, error) || !check_together(a, error))
        return false;
    return (a->iter_time_ms && a->iter_time_ms <= UINT32_MAX) ||
           fail(error, ERR_INVALID_PARAMETER, "iter-time must be between 1 and %u ms", UINT32_MAX);
}

static bool find_secrets(LuksAmend *a, BlockGraph *graph, GError **error)
{
    if (a->new_secret)
        a->new_passphrase = block_key_secret(graph, a->new_secret, error);
    if (a->old_secret)
        a->old_passphrase = block_key_secret(graph, a->old_secret, error);
    return (!a->new_secret || a->new_passphrase) && (!a->old_secret || a->old_passphrase);
}

static const uint8_t *text_of(GBytes *secret, size_t *ret_bytes)
{
    const uint8_t *text = g_bytes_get_data(secret, ret_bytes);

    return text ? text : (const uint8_t *)"";
}

/* Adding. */

static int co_fn add_to(LuksAmend *a, int slot, GError **error)
{
    size_t bytes;
    const uint8_t *text = text_of(a->new_passphrase, &bytes);

    return luks_add_slot(a->luks, a->io, slot, text, bytes, a->iter_time_ms, error);
}

static int first_free(const LuksAmend *a)
{
    for (int i = 0; i < LUKS_SLOTS; i++)
        if (!luks_slot_is_used(a->luks, i))
            return i;
    return -1;
}

/* The only slot: while its material is being written nothing would open the image.  So another slot
 * has the new passphrase meanwhile. */
static int co_fn replace_last(LuksAmend *a, GError **error)
{
    int aside = first_free(a), ret = add_to(a, aside, error);

    if (ret == 0)
        ret = add_to(a, a->slot, error);
    return ret == 0 ? luks_erase_slot(a->luks, a->io, aside, error) : ret;
}

static int co_fn activate(LuksAmend *a, GError **error)
{
    bool used = a->slot >= 0 && luks_slot_is_used(a->luks, a->slot);

    if (!luks_has_key(a->luks)) {
        fail(error, ERR_MISSING_PARAMETER,
             "a key slot can only be added to an image that is open with "
             "'key-secret'");
        return -EINVAL;
    }
    if (used && !a->force) {
        fail(error, ERR_IN_USE, "Refusing to overwrite active keyslot %d - please erase it first",
             a->slot);
        return -EBUSY;
    }
    return used && luks_slots_used(a->luks) == 1 ? replace_last(a, error)
                                                 : add_to(a, a->slot, error);
}

/* Erasing. */

static bool co_fn is_old(LuksAmend *a, int slot)
{
    size_t bytes;
    const uint8_t *text = text_of(a->old_passphrase, &bytes);

    return luks_opens_slot(a->luks, a->io, slot, text, bytes);
}

/* Which slots are to go, as bits; 0: none, and told. */
static unsigned co_fn choose(LuksAmend *a, GError **error)
{
    unsigned slots = 0;

    if (a->slot >= 0 && !luks_slot_is_used(a->luks, a->slot) && !a->force) {
        fail(error, ERR_BAD_STATE, "Given keyslot %d is already erased (inactive)", a->slot);
        return 0;
    }
    if (a->slot >= 0 && a->old_secret && !is_old(a, a->slot)) {
        fail(error, ERR_PERMISSION, "Given keyslot %d doesn't contain the given (old) password",
             a->slot);
        return 0;
    }
    if (a->slot >= 0)
        return 1u << a->slot;
    for (int i = 0; i < LUKS_SLOTS; i++)
        if (is_old(a, i))
            slots |= 1u << i;
    if (!slots)
        fail(error, ERR_PERMISSION, "No keyslots match given (old) password for erase operation");
    return slots;
}

static bool leaves_one(const LuksAmend *a, unsigned slots)
{
    for (int i = 0; i < LUKS_SLOTS; i++)
        if (luks_slot_is_used(a->luks, i) && !(slots >> i & 1))
            return true;
    return false;
}

static int co_fn inactivate(LuksAmend *a, GError **error)
{
    unsigned slots = choose(a, error);
    int ret = slots ? 0 : -EINVAL;

    if (slots && !a->force && !leaves_one(a, slots)) {
        fail(error, ERR_PERMISSION,
             "Erasing the last active keyslots would make all the data in the "
             "image inaccessible, for ever: refused");
        error_hint(error, "--force erases them");
        return -EPERM;
    }
    for (int i = 0; ret == 0 && i < LUKS_SLOTS; i++)
        if (slots >> i & 1)
            ret = luks_erase_slot(a->luks, a->io, i, error);
    return ret;
}

int co_fn luks_amend(Luks *luks, const LuksIo *io, BlockGraph *graph, json_object *options,
                     bool force, GError **error)
{
    LuksAmend a = { .luks = luks, .io = io, .force = force };
    int ret = -EINVAL;

    if (parse(options, &a, error) && find_secrets(&a, graph, error)) {
        co_mutex_lock(luks_lock(luks));
        ret = a.state == ACTIVE ? activate(&a, error) : inactivate(&a, error);
        co_mutex_unlock(luks_lock(luks));
    }
    if (a.new_passphrase)
        g_bytes_unref(a.new_passphrase);
    if (a.old_passphrase)
        g_bytes_unref(a.old_passphrase);
    return ret;
}
