/* Tables, lists of keys and values, JSON. */
#include "src/tools/ctl-output.h"
#include <glib.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

/* What comes from a guest may hold anything; a terminal gets only what prints. */
static char *printable(const char *text, bool keep_lines)
{
    GString *out = g_string_new(NULL);
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        if (keep_lines && (c == '\n' || c == '\t'))
            g_string_append_c(out, (char)c);
        else if (keep_lines && c == '\r')
            continue;
        else if (g_unichar_iscntrl(c))
            g_string_append_printf(out, "\\x%02x", c);
        else
            g_string_append_unichar(out, c);
    }
    return g_string_free(out, FALSE);
}

static bool is_scalar(json_object *value)
{
    return !json_object_is_type(value, json_type_object) &&
           !json_object_is_type(value, json_type_array);
}

static char *scalar_text(json_object *value)
{
    if (!value)
        return g_strdup("null");
    if (json_object_is_type(value, json_type_string))
        return printable(json_object_get_string(value), false);
    return g_strdup(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN));
}

static bool all_scalars(json_object *array)
{
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        if (!is_scalar(json_object_array_get_idx(array, i)))
            return false;
    }
    return true;
}

static char *joined(json_object *array)
{
    GString *out = g_string_new(NULL);
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        g_autofree char *text = scalar_text(json_object_array_get_idx(array, i));
        g_string_append_printf(out, "%s%s", i ? ", " : "", text);
    }
    return g_string_free(out, FALSE);
}

/* --- Keys and values --- */

/* Dotted names, as they are typed in arguments. */
typedef struct Pairs {
    GPtrArray *keys, *values;      /* of char * */
} Pairs;

static Pairs pairs_new(void)
{
    return (Pairs){ g_ptr_array_new_with_free_func(g_free), g_ptr_array_new_with_free_func(g_free) };
}

static void pairs_clear(Pairs *pairs)
{
    g_ptr_array_unref(pairs->keys);
    g_ptr_array_unref(pairs->values);
}

static void flatten(Pairs *pairs, const char *prefix, json_object *value)
{
    if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, key, member)
        {
            g_autofree char *name = *prefix ? g_strdup_printf("%s.%s", prefix, key) : g_strdup(key);
            flatten(pairs, name, member);
        }
        return;
    }
    bool array = json_object_is_type(value, json_type_array);
    if (array && !all_scalars(value)) {
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            g_autofree char *name = g_strdup_printf("%s.%zu", prefix, i);
            flatten(pairs, name, json_object_array_get_idx(value, i));
        }
        return;
    }
    g_ptr_array_add(pairs->keys, printable(prefix, false));
    g_ptr_array_add(pairs->values, array ? joined(value) : scalar_text(value));
}

static unsigned width_of(const char *text)
{
    return (unsigned)g_utf8_strlen(text, -1);
}

static void pad(FILE *out, const char *text, unsigned width)
{
    unsigned have = width_of(text);
    fprintf(out, "%s%*s", text, (int)(have < width ? width - have : 0), "");
}

static void print_pairs(FILE *out, json_object *object)
{
    Pairs pairs = pairs_new();
    unsigned width = 0;
    flatten(&pairs, "", object);
    for (unsigned i = 0; i < pairs.keys->len; i++)
        width = MAX(width, width_of(pairs.keys->pdata[i]));
    for (unsigned i = 0; i < pairs.keys->len; i++) {
        pad(out, pairs.keys->pdata[i], width + 2);
        fprintf(out, "%s\n", (char *)pairs.values->pdata[i]);
    }
    pairs_clear(&pairs);
}

/* --- Tables --- */

typedef struct Table {
    bool uneven;                   /* rows hold lists of objects: no table shows them well */
    GPtrArray *columns;            /* of char *: names, in order of appearance */
    GPtrArray *rows;               /* of GHashTable: column to text */
    GArray *widths;                /* of unsigned */
} Table;

static int column_of(Table *table, const char *name)
{
    for (unsigned i = 0; i < table->columns->len; i++) {
        if (!strcmp(table->columns->pdata[i], name))
            return (int)i;
    }
    unsigned width = width_of(name);
    g_ptr_array_add(table->columns, g_strdup(name));
    g_array_append_val(table->widths, width);
    return (int)table->columns->len - 1;
}

static bool holds_objects(json_object *value)
{
    if (json_object_is_type(value, json_type_array))
        return !all_scalars(value);
    if (!json_object_is_type(value, json_type_object))
        return false;
    json_object_object_foreach(value, key, member)
    {
        (void)key;
        if (holds_objects(member))
            return true;
    }
    return false;
}

static void add_row(Table *table, json_object *object)
{
    GHashTable *row = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    Pairs pairs = pairs_new();
    table->uneven |= holds_objects(object);
    flatten(&pairs, "", object);
    for (unsigned i = 0; i < pairs.keys->len; i++) {
        const char *value = pairs.values->pdata[i];
        int column = column_of(table, pairs.keys->pdata[i]);
        unsigned *width = &g_array_index(table->widths, unsigned, column);
        *width = MAX(*width, width_of(value));
        g_hash_table_insert(row, g_strdup(pairs.keys->pdata[i]), g_strdup(value));
    }
    pairs_clear(&pairs);
    g_ptr_array_add(table->rows, row);
}

static void print_rows(FILE *out, const Table *table)
{
    unsigned last = table->columns->len - 1;
    for (unsigned i = 0; i <= last; i++)
        pad(out, table->columns->pdata[i],
            i < last ? g_array_index(table->widths, unsigned, i) + 2 : 0);
    fputc('\n', out);
    for (unsigned r = 0; r < table->rows->len; r++) {
        for (unsigned i = 0; i <= last; i++) {
            const char *text = g_hash_table_lookup(table->rows->pdata[r], table->columns->pdata[i]);
            pad(out, text ? text : "-", i < last ? g_array_index(table->widths, unsigned, i) + 2 : 0);
        }
        fputc('\n', out);
    }
}

static unsigned total_width(const Table *table)
{
    unsigned width = 0;
    for (unsigned i = 0; i < table->widths->len; i++)
        width += g_array_index(table->widths, unsigned, i) + 2;
    return width;
}

static void print_table(FILE *out, json_object *array, unsigned columns)
{
    Table table = { false, g_ptr_array_new_with_free_func(g_free),
                    g_ptr_array_new_with_free_func((GDestroyNotify)g_hash_table_unref),
                    g_array_new(FALSE, FALSE, sizeof(unsigned)) };
    size_t count = json_object_array_length(array);
    for (size_t i = 0; i < count; i++)
        add_row(&table, json_object_array_get_idx(array, i));
    if (table.columns->len && !table.uneven && (!columns || total_width(&table) <= columns + 2)) {
        print_rows(out, &table);
    } else {
        for (size_t i = 0; i < count; i++) {
            fputs(i ? "\n" : "", out);
            print_pairs(out, json_object_array_get_idx(array, i));
        }
    }
    g_ptr_array_unref(table.columns);
    g_ptr_array_unref(table.rows);
    g_array_unref(table.widths);
}

static bool all_objects(json_object *array)
{
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        if (!json_object_is_type(json_object_array_get_idx(array, i), json_type_object))
            return false;
    }
    return true;
}

static void print_for_people(FILE *out, json_object *result, unsigned columns)
{
    if (json_object_is_type(result, json_type_object)) {
        print_pairs(out, result);
    } else if (json_object_is_type(result, json_type_array) && all_objects(result)) {
        print_table(out, result, columns);
    } else if (json_object_is_type(result, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(result); i++) {
            json_object *item = json_object_array_get_idx(result, i);
            g_autofree char *text = scalar_text(item);
            fprintf(out, "%s\n", text);
        }
    } else {
        bool string = json_object_is_type(result, json_type_string);
        g_autofree char *text = string ? printable(json_object_get_string(result), true)
                                       : scalar_text(result);
        fprintf(out, "%s%s", text, g_str_has_suffix(text, "\n") ? "" : "\n");
    }
}

static void print_json(FILE *out, json_object *value, bool pretty)
{
    int flags = JSON_C_TO_STRING_NOSLASHESCAPE;
    flags |= pretty ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED : JSON_C_TO_STRING_PLAIN;
    fprintf(out, "%s\n", json_object_to_json_string_ext(value, flags));
}

void ctl_print_result(FILE *out, json_object *result, CtlFormat format, unsigned columns)
{
    if (format == CTL_TABLE)
        print_for_people(out, result, columns);
    else
        print_json(out, result, format == CTL_PRETTY);
    fflush(out);
}

static void print_time(FILE *out, json_object *event)
{
    json_object *stamp, *seconds, *us;
    if (!json_object_object_get_ex(event, "timestamp", &stamp) ||
        !json_object_object_get_ex(stamp, "seconds", &seconds) ||
        !json_object_object_get_ex(stamp, "microseconds", &us))
        return;
    time_t t = (time_t)json_object_get_int64(seconds);
    struct tm tm;
    char text[32];
    if (localtime_r(&t, &tm) && strftime(text, sizeof(text), "%H:%M:%S", &tm))
        fprintf(out, "%s.%03d  ", text, (int)(json_object_get_int64(us) / 1000));
}

void ctl_print_event(FILE *out, json_object *event, CtlFormat format)
{
    json_object *name = NULL, *data = NULL;
    if (format != CTL_TABLE) {
        print_json(out, event, format == CTL_PRETTY);
        fflush(out);
        return;
    }
    json_object_object_get_ex(event, "event", &name);
    json_object_object_get_ex(event, "data", &data);
    g_autofree char *word = scalar_text(name);
    print_time(out, event);
    fprintf(out, "%s", word);
    Pairs pairs = pairs_new();
    if (data)
        flatten(&pairs, "", data);
    for (unsigned i = 0; i < pairs.keys->len; i++)
        fprintf(out, "  %s=%s", (char *)pairs.keys->pdata[i], (char *)pairs.values->pdata[i]);
    pairs_clear(&pairs);
    fputc('\n', out);
    fflush(out);
}
