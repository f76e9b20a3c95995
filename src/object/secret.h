/* The "secret" object: bytes that other objects use as a key or a password. */
#pragma once
#include <glib.h>
#include "src/object/object.h"

/* @secret: a realized object that is_a "secret".  The bytes are the object's. */
GBytes *secret_data(Object *secret);
