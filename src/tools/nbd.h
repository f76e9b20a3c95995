/*
 * The parts of vireo-nbd: nbd-options.c (the command line), nbd-image.c (what is served),
 * nbd-list.c (--list), nbd-device.c (the kernel's client), vireo-nbd.c (the server, its life).
 */
#pragma once
#include "block/export.h"
#include "src/object/object.h"

/* ---- nbd-options.c ---- */

typedef struct NbdOptions {
    const char *port, *bind, *socket, *name, *description, *format, *cache, *aio, *discard,
        *detect_zeroes, *tls_creds, *tls_authz, *tls_hostname, *selinux, *pid_file, *snapshot, *device, *file;
    uint64_t offset, shared, threads, poll_max_ns;
    bool persistent, verbose, depth, list, read_only, temporary, image_opts, fork, disconnect;
    GPtrArray *objects, *bitmaps;          /* of const char */
} NbdOptions;

typedef enum NbdAsked { NBD_WRONG, NBD_ANSWERED, NBD_RUN } NbdAsked;
/* NBD_WRONG: *error says what.  NBD_ANSWERED: --help and the like, which is all.  @o: zeroes, to be
 * cleared in any case; its strings are argv's. */
NbdAsked nbd_options_parse(NbdOptions *o, int argc, char **argv, GError **error);
void nbd_options_clear(NbdOptions *o);

/* ---- nbd-image.c ---- */

typedef struct NbdImage {
    BlockNode *top;                        /* held */
    char *name;                            /* of the node to be exported */
} NbdImage;
/* Waits. */
bool nbd_image_open(NbdImage *image, const NbdOptions *o, BlockGraph *graph, GError **error);
void nbd_image_close(NbdImage *image);     /* the exports have gone */
bool nbd_image_writethrough(const NbdOptions *o);

/* ---- nbd-list.c ---- */

/* --list: what a server offers, on standard output. */
bool nbd_list(Object *root, const NbdOptions *o, GError **error);

/* ---- nbd-device.c: the kernel's client, /dev/nbdN ---- */

/* Whether the device is there and could be had; before anything else is done. */
bool nbd_device_check(const char *path, GError **error);
/* Gives the kernel @connections to the running server's export @name; the device is ready when this
 * returns.  Waits. */
bool nbd_device_connect(const char *path, BlockExports *exports, const char *name,
                        unsigned connections, GError **error);
/* Waits until the kernel has let go of it; one that is not connected is fine. */
bool nbd_device_disconnect(const char *path, GError **error);
