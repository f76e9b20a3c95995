/*
 * Character devices: a stream of bytes between a front end (a serial port, a monitor) and the host
 * (a terminal, a pty, a socket, a file …).  Each is an Object under /chardevs whose type is_a
 * "chardev" (chardev-socket, chardev-pty, …).  Main loop, VM lock; a front end that asks for it is
 * called in another loop (chardev_set_loop).
 */
#pragma once
#include "src/base/loop.h"
#include "src/object/object.h"

typedef struct Chardev Chardev;
typedef struct CharFront CharFront;

typedef enum CharEvent {
    CHAR_OPENED,               /* a peer is there (again) */
    CHAR_CLOSED,
    CHAR_BREAK,
    CHAR_MUX_IN, CHAR_MUX_OUT  /* focus of a mux */
} CharEvent;

/* The front end's side; embedded in the device or monitor. */
struct CharFront {
    Chardev *chardev;          /* NULL: not attached; writes are dropped */
    size_t (*can_receive)(void *opaque);                       /* bytes it takes now */
    void (*receive)(void *opaque, const uint8_t *data, size_t length);
    void (*event)(void *opaque, CharEvent event);              /* may be NULL */
    /* The peer will send no more, but may still read.  True: the connection stays for what there is to
     * say, until char_front_hang_up.  May be NULL: it ends at once. */
    bool (*input_ended)(void *opaque);
    void (*writable)(void *opaque);                            /* after a short write; may be NULL */
    void *opaque;
    /* The owner's reference, which chardev_change replaces; NULL: it cannot be changed. */
    Chardev **slot;
    bool is_open;              /* the front end is in use: query-chardev's frontend-open */
    unsigned mux_index;
};

/* Attaches: false if another front end has it (a mux takes several). */
bool char_front_attach(CharFront *front, Chardev *chardev, GError **error);
void char_front_detach(CharFront *front);
/* Takes as much as it can now and returns it; what is left: wait for writable().  Never blocks.
 * A chardev without a peer takes (and drops) all. */
size_t char_front_write(CharFront *front, const void *data, size_t length);
/* Same, but what cannot be written now is queued (up to 1 MiB; beyond: dropped, false). */
bool char_front_write_all(CharFront *front, const void *data, size_t length);
void char_front_accept_input(CharFront *front);   /* can_receive has grown */
void char_front_hang_up(CharFront *front);        /* ends the connection soon */
void char_front_set_open(CharFront *front, bool open);
bool char_front_connected(const CharFront *front);
/* Descriptors that came with SCM_RIGHTS before the last bytes received; the caller owns them. */
int char_front_take_fd(CharFront *front);         /* -1: none */

/* -chardev.  @options: {"backend": "socket", "id": …, …} with QEMU's names; left as it is.  The
 * result is the tree's, as with all of these. */
Chardev *chardev_create(Object *root, json_object *options, GError **error);
/* chardev-add: {"type": "socket", "data": {…}} with QMP's member names and defaults. */
Chardev *chardev_create_qmp(Object *root, const char *id, json_object *backend, GError **error);
/* A command-line short form: "stdio", "null", "pty", "unix:PATH,server=on,wait=off", "tcp:…",
 * "file:PATH", "mon:stdio", "chardev:ID", "none" (returns NULL without error). */
Chardev *chardev_create_compat(Object *root, const char *id, const char *text, GError **error);
/* chardev-change: another back end in place of the one that has the options' id, with its front end if
 * it has one.  If that fails, all stays as it was.  ERR_UNSUPPORTED: a multiplexer, or a monitor's. */
Chardev *chardev_change(Object *root, json_object *options, GError **error);
Chardev *chardev_change_qmp(Object *root, const char *id, json_object *backend, GError **error);
Chardev *chardev_find(Object *root, const char *id);
bool chardev_delete(Object *root, const char *id, GError **error);
const char *chardev_id(const Chardev *chardev);
char *chardev_filename(const Chardev *chardev);   /* "pty:/dev/pts/3", "unix:…,server=on"; g_free */
const char *chardev_pty_path(const Chardev *chardev);
void chardev_send_break(Chardev *chardev);        /* to the front end, as Ctrl-A b does */
bool chardev_frontend_open(const Chardev *chardev);
/* A ring buffer's contents (ringbuf-read, ringbuf-write). */
bool chardev_ringbuf_write(Chardev *chardev, const uint8_t *data, size_t length, GError **error);
GBytes *chardev_ringbuf_read(Chardev *chardev, size_t length, GError **error);
/* What Ctrl-A x on a multiplexed terminal calls. */
void chardev_set_quit_hook(Object *root, LoopFn *fn, void *opaque);
/* Put the terminal back as it was found (at exit, also after a signal). */
void chardev_restore_terminal(void);

/* A listening socket hands each connection to @accept as a chardev of its own, whose reference
 * is the callee's (the monitor serves many clients on one socket).  @loop: where it listens, @accept is
 * called, and the connections are.  Any other chardev: ERR_UNSUPPORTED. */
bool chardev_listen_many(Chardev *listener, Loop *loop,
                         void (*accept)(Chardev *connection, void *opaque), void *opaque,
                         GError **error);
/* @accept is not called any more; the listener goes back to the main loop. */
void chardev_listen_end(Chardev *listener);

/* Moves a chardev to another loop: there its descriptors are watched, its front end is called, and calls
 * the functions above.  False: this kind cannot leave the main loop.  In the thread of the loop that it
 * leaves, while no front end is attached. */
bool chardev_set_loop(Chardev *chardev, Loop *loop);

/* A property kind: the member is a Chardev *, set by id ("chardev"). */
extern const PropertyKind prop_chardev;
