/*
 * Image locks between processes: OFD locks on single bytes, laid out as QEMU does, so that a vireo
 * and a QEMU process respect each other.
 *
 * Bit n of the permissions held is a shared lock of byte 100 + n; bit n of the permissions not shared
 * with others is a shared lock of byte 200 + n.  Whether somebody conflicts is found by asking if an
 * exclusive lock of the opposite byte could be had.
 */
#pragma once
#include "src/base/error.h"

/* Holds @perm and keeps others from what is not in @shared.  Takes the new locks first and gives
 * back the old ones (@old_…) only when nobody conflicts; on failure the old ones are as they were.
 * @filename is for the error, which tells who is in the way.  May wait for a file server: for worker
 * threads. */
bool image_lock_change(int fd, const char *filename, unsigned old_perm, unsigned old_shared,
                       unsigned perm, unsigned shared, GError **error);
/* Takes the locks on a second descriptor of the file, for an owner that has them already. */
bool image_lock_again(int fd, const char *filename, unsigned perm, unsigned shared, GError **error);
/* False: the file system has no OFD locks. */
bool image_lock_supported(int fd);
