/* What the kinds of character devices share: the base object, its operations, option helpers. */
#pragma once
#include "src/base/options.h"
#include "src/chardev/chardev.h"

enum { CHAR_FRONTS_MAX = 8, CHAR_READ_BYTES = 4096, CHAR_QUEUE_BYTES = 1 << 20 };

/* Type.ops of a kind.  Everything but open may be NULL. */
typedef struct CharOps {
    const char *const *options;            /* the names it knows, NULL-ended; for error texts */
    /* Takes its options out of @options; what is left over is an error. */
    bool (*open)(Chardev *cd, json_object *options, GError **error);
    ssize_t (*read)(Chardev *cd, uint8_t *data, size_t size);    /* NULL: read(2) of in_fd */
    /* Bytes taken, -EAGAIN, or another -errno: hang up.  NULL: write(2) to out_fd. */
    ssize_t (*write)(Chardev *cd, const uint8_t *data, size_t size);
    bool (*ready)(Chardev *cd);            /* write may be tried again; NULL: poll out_fd */
    void (*hang_up)(Chardev *cd);          /* the input has ended; NULL: just stop reading */
    void (*update)(Chardev *cd);           /* a front end has room, came or went */
    char *(*filename)(Chardev *cd);        /* NULL: the kind's name */
    bool (*any_loop)(Chardev *cd);         /* NULL: it has to stay in the main loop */
    /* It leaves cd->loop for @to: what it watches itself is not watched any more, and is again with the
     * next update, in @to.  NULL: there is nothing. */
    void (*leave_loop)(Chardev *cd, Loop *to);
    unsigned max_fronts;                   /* 0: one */
} CharOps;

/* The loop's thread, and the VM lock where that is the main one; but for the bottom half, which any
 * thread may schedule. */
struct Chardev {
    Object obj;
    Loop *loop;                            /* the main loop, or where chardev_set_loop has put it */
    json_object *options;                  /* while it is opened */
    CharFront *fronts[CHAR_FRONTS_MAX];
    unsigned front_count;
    CharFront *focus;                      /* gets the input; NULL: nobody */
    int in_fd, out_fd;                     /* -1: none; closed by the base */
    LoopFd *in_watch, *out_watch;
    bool busy;                             /* in use without a front end: not to be deleted */
    bool connected;                        /* there is a peer; if not, output is dropped */
    bool want_writable;                    /* a front end waits for room */
    bool broken;                           /* to be hung up: writing failed, or all is said */
    bool input_ended;                      /* there is nothing to read any more, only to write */
    bool hup_seen;                         /* the peer has gone, and left bytes to be read */
    GByteArray *queue;                     /* of char_front_write_all */
    LoopBh update;
    int log_fd;
};

/* char-front.c */
void chardev_update(Chardev *cd);          /* any thread: look at watches and queues soon */
void chardev_set_connected(Chardev *cd, bool connected);   /* tells the front ends */
void chardev_event(Chardev *cd, CharEvent event);
void chardev_close_fds(Chardev *cd);       /* watches first */
bool chardev_any_loop(Chardev *cd);        /* CharOps.any_loop of what can always leave: true */
void chardev_move(Chardev *cd, Loop *loop);    /* chardev_set_loop, where it is known that it can */
size_t chardev_room(const Chardev *cd);    /* what the focus takes now */
void chardev_deliver(Chardev *cd, const uint8_t *data, size_t length);

/* chardev.c */
/* An opened chardev that is not in the tree yet; the caller's reference. */
Chardev *chardev_new(Object *root, const char *id, const char *kind, json_object *options,
                     GError **error);
void chardev_quit_requested(Chardev *cd);  /* Ctrl-A x */
/* char-compat.c: what chardev_create takes, of chardev-add's arguments; the caller's reference. */
json_object *chardev_options_of_qmp(const char *id, json_object *backend, GError **error);

/* Members taken out of @options, so that what is left is unknown.  Absent: *ret is left alone. */
bool take_bool(json_object *options, const char *key, bool *ret, GError **error);
bool take_u64(json_object *options, const char *key, uint64_t *ret, GError **error);
bool take_size(json_object *options, const char *key, uint64_t *ret, GError **error);
bool take_str(json_object *options, const char *key, char **ret, GError **error);  /* g_free */
/* The same, and an error if it is absent. */
bool need_str(json_object *options, const char *key, char **ret, GError **error);

bool set_nonblocking(int fd, GError **error);
