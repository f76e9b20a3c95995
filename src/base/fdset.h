/*
 * Descriptors that others passed to this process: sets of them, which stand for the path
 * "/dev/fdset/ID" wherever a file is opened (-add-fd, add-fd), and single ones by name (getfd).
 * As the descriptor table itself they belong to the process, not to a machine.
 *
 * Thread: any; a mutex inside.  Every function that takes a descriptor owns it from then on, also
 * when it fails.
 */
#pragma once
#include <json-c/json.h>
#include <stdint.h>
#include <sys/types.h>
#include "src/base/error.h"

/* Adds to set @set_id (made if there is none); -1: a new set with the lowest free number.
 * @opaque: the user's words about it, or NULL.  *ret_id (may be NULL) gets the set's number. */
bool fdset_add(int fd, int64_t set_id, const char *opaque, int64_t *ret_id, GError **error);
/* Removes one (@fd) or all (-1) of a set.  Files opened from it stay open. */
bool fdset_remove(int64_t set_id, int fd, GError **error);
json_object *fdset_query(void);        /* QMP FdsetInfo array; the caller's */
void fdset_clear(void);                /* forgets and closes everything, names too */

/* Opens @path: "/dev/fdset/ID" gives a duplicate of the set's descriptor with the access mode asked
 * for, anything else is open(2).  Close-on-exec.  -1 with an error. */
int file_open(const char *path, int flags, mode_t mode, GError **error);

/* getfd: a name that begins with a digit is refused; one that is taken is replaced. */
bool fd_name_put(const char *name, int fd, GError **error);
/* fd=TEXT of an option: a name (which is used up), or the number of an inherited descriptor.
 * The descriptor is the caller's then.  -1 with an error. */
int fd_name_take(const char *text, GError **error);
