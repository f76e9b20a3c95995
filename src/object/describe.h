/* Texts and lists made from the types' tables: -device help, -device X,help, QMP listings. */
#pragma once
#include "src/object/object.h"

/*
 * [{"name", "type", "description", "default-value"}], sorted by name: every property that an object
 * of the type takes, those it forwards included.  "description" and "default-value" only where
 * there are any.  An abstract type has its own and its parents' without defaults.
 */
json_object *type_list_properties(const Type *type);

/* "  name=<kind>  - help (default: …)" for each settable property, sorted; g_free. */
char *type_describe(const Type *type);

/* The user-creatable types below @ancestor (NULL: those that are no devices), grouped by category,
 * one 'name "X", bus Y, desc "Z"' on each line; g_free. */
char *types_describe(const char *ancestor);

/* What an -object that asks for help is told: "help" about the types, "TYPE,help" about one; g_free.  NULL: it
 * does not ask, or of a type that nobody knows. */
char *user_object_help(const char *option);

/* -device help: types_describe("device"). */
char *type_list_devices(void);
