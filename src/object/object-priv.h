/* What the files of this folder share. */
#pragma once
#include "src/object/object.h"

/* A node of the tree that only holds others; a tree's root is one, and keeps the event sinks. */
typedef struct Container {
    Object obj;
    GArray *event_sinks;                   /* of SinkEntry (event.c); NULL: none */
    void *owner;                           /* object_set_root_owner */
} Container;
