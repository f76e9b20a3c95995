/*
 * iothread-vq-mapping=: which iothreads serve a device's queues.  A list of {iothread, vqs}; without vqs,
 * which all entries have or none, the queues are dealt out in turn.
 *
 * Threads: the main thread.
 */
#pragma once
#include "src/object/object.h"

typedef struct IothreadMap IothreadMap;

/* A property kind; the member is an IothreadMap *, NULL: not given.  Holds the iothreads. */
extern const PropertyKind prop_iothread_map;

/* The iothread of each queue, borrowed: @ret has room for @num_queues.  False if the map does not say
 * exactly one for each. */
bool iothread_map_assign(const IothreadMap *map, unsigned num_queues, Object **ret, GError **error);
