/*
 * Errors, as every function that can fail reports them.
 *
 * A function that can fail takes a `GError **error` last and returns false (or NULL, or a negative
 * value) when it has set it.  An error is made where the cause is known, prefixed as it rises, and
 * printed or sent once.  It carries, beside GLib's message: a stable code of ours (documented in
 * docs/errors.md), from which QMP's error class follows; the object it is about; and a hint that
 * says what to do.  QMP sends all of them (`class`, `desc`, `code`, `object`, `hint`).
 *
 * Thread: any.  None of these functions blocks.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>

#define VIREO_ERROR vireo_error_quark()
GQuark vireo_error_quark(void);

/* Stable: a code's number may change, its name (error_code_name) never does. */
typedef enum ErrorCode {
    ERR_GENERIC,            /* "generic": no finer code fits */
    ERR_INVALID_PARAMETER,  /* "invalid-parameter": a value is out of range or ill-formed */
    ERR_UNKNOWN_PARAMETER,  /* "unknown-parameter": no such option, property or member */
    ERR_MISSING_PARAMETER,  /* "missing-parameter": a mandatory one is absent */
    ERR_WRONG_TYPE,         /* "wrong-type": JSON value of another type than asked for */
    ERR_INVALID_SYNTAX,     /* "invalid-syntax": JSON or key=value text that cannot be parsed */
    ERR_NOT_FOUND,          /* "not-found": the named thing does not exist */
    ERR_DEVICE_NOT_FOUND,   /* "device-not-found": QMP class DeviceNotFound */
    ERR_COMMAND_NOT_FOUND,  /* "command-not-found": QMP class CommandNotFound */
    ERR_DEVICE_NOT_ACTIVE,  /* "device-not-active": QMP class DeviceNotActive */
    ERR_EXISTS,             /* "exists": the name or address is taken */
    ERR_IN_USE,             /* "in-use": busy; the text says by whom */
    ERR_LOCKED,             /* "locked": an image is locked by another process */
    ERR_PERMISSION,         /* "permission": the host refuses access */
    ERR_NO_SPACE,           /* "no-space" */
    ERR_IO,                 /* "io": reading or writing failed */
    ERR_CORRUPT,            /* "corrupt": an image, table or stream is inconsistent */
    ERR_UNSUPPORTED,        /* "unsupported": known, but not offered by this build, host or type */
    ERR_BAD_STATE,          /* "bad-state": not possible in the present run state */
    ERR_LIMIT,              /* "limit": too many, too deep, too large */
    ERR_HOST,               /* "host": another system call failed; the text has errno's words */
    ERR_TIMEOUT,            /* "timeout" */
    ERR__COUNT
} ErrorCode;

/* Sets *error (if error is not NULL) and returns false.  The text has no final full stop. */
bool fail(GError **error, ErrorCode code, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* The same for errno value @err (positive); appends ": " and its words, and picks the code
 * (ENOENT: not-found, EACCES/EPERM: permission, ENOSPC: no-space, EBUSY: in-use, …: host). */
bool fail_errno(GError **error, int err, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* Adds a hint, or the object it is about, to an error just made; both return false, so that
 * `return error_hint(error, "…")` reads well.  No-ops if error or *error is NULL. */
bool error_hint(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
bool error_object(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Puts text before the message; returns false.  No-op if error or *error is NULL. */
bool error_prefix(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Parts of an error; any GError is accepted (others give ERR_GENERIC, NULL and NULL). */
ErrorCode error_get_code(const GError *error);
const char *error_get_object(const GError *error);
const char *error_get_hint(const GError *error);
const char *error_code_name(ErrorCode code);   /* "not-found" */
const char *error_code_class(ErrorCode code);  /* QMP: "GenericError", "DeviceNotFound", … */

/* For main() and warnings: one line "vireo: TEXT" on stderr (with a time stamp after
 * -msg timestamp=on), then "vireo: hint: …" if it has one. */
void error_report(const GError *error);
void warn_report(const char *format, ...) G_GNUC_PRINTF(1, 2);
void info_report(const char *format, ...) G_GNUC_PRINTF(1, 2);
void report_set_timestamp(bool on);

/* What a guest did wrong: a log line ("guest-error"), at most a few a second from each place,
 * and only when -d guest_errors is on.  @who names the device. */
void guest_error(const char *who, const char *format, ...) G_GNUC_PRINTF(2, 3);
