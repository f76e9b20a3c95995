/* The state engine: what is saved comes back, and nothing else does. */
#include "src/base/options.h"
#include "src/object/object.h"
#include "tests/test.h"

typedef struct Channel {
    uint8_t mode;
    uint16_t count;
} Channel;

typedef struct Base {
    Object obj;
    uint32_t base_reg;
    unsigned post_loads;
} Base;

typedef struct Chip {
    Base base;
    bool on;
    uint8_t last;
    uint16_t regs[4];
    uint32_t u32;
    uint64_t u64;
    int32_t i32;
    int64_t i64;
    uint8_t cmos[16];
    uint8_t *fifo;
    uint32_t fifo_len;
    Channel channels[2], one;
    uint32_t newer, rare;
    uint64_t ring;
    uint8_t ring_bytes[8];
    bool refuse;
} Chip;

static const StateField channel_fields[] = {
    FIELD(Channel, mode, .max = 3),
    FIELD(Channel, count),
    {}
};
static const StateTable channel_state = { .fields = channel_fields };

static bool base_post_load(void *obj, uint32_t version, GError **error)
{
    ((Base *)obj)->post_loads++;
    return true;
}

static const StateField base_fields[] = { FIELD(Base, base_reg), {} };
static const StateTable base_state = { .fields = base_fields, .post_load = base_post_load };
static const Type base_type = {
    .name = "state-base", .size = sizeof(Base), .abstract = true, .state = &base_state,
};
TYPE_REGISTER(base_type)

static void ring_save(void *obj, StateWriter *w)
{
    state_put_u64(w, "index", ((Chip *)obj)->ring);
    state_put_bytes(w, "bytes", ((Chip *)obj)->ring_bytes, 8);
}

static bool ring_load(void *obj, StateReader *r, GError **error)
{
    Chip *c = obj;
    size_t length;

    return state_get_u64(r, "index", 1000, &c->ring, error) &&
           state_get_bytes(r, "bytes", c->ring_bytes, 8, &length, error);
}

static bool rare_needed(void *obj)
{
    return ((Chip *)obj)->rare != 0;
}

static bool chip_post_load(void *obj, uint32_t version, GError **error)
{
    return !((Chip *)obj)->refuse || fail(error, ERR_CORRUPT, "the chip does not like it");
}

static const StateField chip_fields[] = {
    FIELD(Chip, on),
    FIELD(Chip, last, .max = 3),
    FIELD_ARRAY(Chip, regs, .min = 1, .max = 1000),
    FIELD(Chip, u32),
    FIELD(Chip, u64),
    FIELD(Chip, i32, .min = (uint64_t)-10, .max = 10),
    FIELD(Chip, i64),
    FIELD_BYTES(Chip, cmos),
    FIELD_BUFFER(Chip, fifo, fifo_len, .max = 32),
    FIELD_STRUCTS(Chip, channels, channel_state),
    FIELD_STRUCT(Chip, one, channel_state),
    FIELD(Chip, newer, .since = 2),
    FIELD(Chip, rare, .needed = rare_needed),
    FIELD_FN(Chip, "ring", ring_save, ring_load),
    {}
};
static const StateTable chip_state = {
    .version = 2, .fields = chip_fields, .post_load = chip_post_load,
};

static void chip_init(Object *obj)
{
    Chip *c = (Chip *)obj;

    c->fifo = g_malloc0(32);
    for (unsigned i = 0; i < 4; i++)
        c->regs[i] = 1;
}

static void chip_finalize(Object *obj)
{
    g_free(((Chip *)obj)->fifo);
}

static const Type chip_type = {
    .name = "state-chip", .parent = "state-base", .size = sizeof(Chip), .state = &chip_state,
    .init = chip_init, .finalize = chip_finalize,
};
TYPE_REGISTER(chip_type)

/* The same chip as an older and as a newer release had it. */
static const StateField old_fields[] = { FIELD(Chip, on), {} };
static const StateTable old_state = { .version = 1, .fields = old_fields };
static const StateTable future_state = { .version = 9, .fields = old_fields };

static Chip *new_chip(void)
{
    return (Chip *)object_new(&chip_type);
}

static void fill(Chip *c)
{
    c->base.base_reg = 0xdeadbeef;
    c->on = true;
    c->last = 3;
    for (unsigned i = 0; i < 4; i++)
        c->regs[i] = 10 * i + 1;
    c->u32 = UINT32_MAX;
    c->u64 = UINT64_MAX;
    c->i32 = -10;
    c->i64 = INT64_MIN;
    for (unsigned i = 0; i < 16; i++)
        c->cmos[i] = i;
    c->fifo_len = 5;
    memcpy(c->fifo, "hello", 5);
    c->channels[0] = (Channel){ 1, 100 };
    c->channels[1] = (Channel){ 2, 200 };
    c->one = (Channel){ 3, 300 };
    c->newer = 77;
    c->rare = 88;
    c->ring = 999;
    memcpy(c->ring_bytes, "ringring", 8);
}

static GByteArray *save(Chip *c)
{
    GByteArray *out = g_byte_array_new();

    object_save_state(OBJECT(c), "/chip", out);
    return out;
}

static bool load(Chip *c, const GByteArray *blob, GError **error)
{
    size_t used = 0;

    return object_load_state(OBJECT(c), "/chip", blob->data, blob->len, &used, error) &&
           (used == blob->len || fail(error, ERR_GENERIC, "not all was used"));
}

static void expect_same(Chip *a, Chip *b)
{
    g_autoptr(GByteArray) x = save(a), y = save(b);

    ck_assert_uint_eq(x->len, y->len);
    ck_assert_mem_eq(x->data, y->data, x->len);
}

START_TEST(round_trip)
{
    Chip *a = new_chip(), *b = new_chip();
    g_autoptr(GByteArray) blob = NULL;
    GError *error = NULL;

    fill(a);
    blob = save(a);
    ck_assert(load(b, blob, &error));
    ck_no_error(error);
    expect_same(a, b);
    ck_assert_uint_eq(b->regs[3], 31);
    ck_assert_int_eq(b->i32, -10);
    ck_assert_uint_eq(b->fifo_len, 5);
    ck_assert_mem_eq(b->fifo, "hello", 5);
    ck_assert_uint_eq(b->channels[1].count, 200);
    ck_assert_uint_eq(b->rare, 88);
    ck_assert_uint_eq(b->ring, 999);
    ck_assert_uint_eq(b->base.post_loads, 1);
    object_unref(a);
    object_unref(b);
}
END_TEST

static void spoil_last(Chip *c) { c->last = 4; }
static void spoil_array(Chip *c) { c->regs[2] = 0; }
static void spoil_signed(Chip *c) { c->i32 = 11; }
static void spoil_struct(Chip *c) { c->channels[1].mode = 4; }
static void spoil_buffer(Chip *c) { c->fifo_len = 33; c->fifo = g_realloc(c->fifo, 64); }
static void spoil_fn(Chip *c) { c->ring = 1001; }
static void spoil_bool(Chip *c) { memset(&c->on, 2, 1); }

static const struct {
    void (*spoil)(Chip *c);
    const char *text;
} spoiled[] = {
    { spoil_last, "state of '/chip', field 'last': 4 is not between 0 and 3" },
    { spoil_array, "state of '/chip', field 'regs[2]': 0 is not between 1 and 1000" },
    { spoil_signed, "field 'i32': 11 is not between -10 and 10" },
    { spoil_struct, "state of '/chip', field 'channels[1].mode': 4 is not between 0 and 3" },
    { spoil_buffer, "field 'fifo': its length 33 is not between 0 and 32" },
    { spoil_fn, "field 'ring': value 'index': 1001 is larger than 1000" },
    { spoil_bool, "field 'on': 2 is neither true nor false" },
};

START_TEST(bad_values_are_named_and_change_nothing)
{
    Chip *a = new_chip(), *b = new_chip(), *fresh = new_chip();
    g_autoptr(GByteArray) blob = NULL;
    GError *error = NULL;

    fill(a);
    spoiled[_i].spoil(a);
    blob = save(a);
    ck_assert(!load(b, blob, &error));
    ck_assert_str_eq(error_get_object(error), "/chip");
    ck_error(error, spoiled[_i].text);
    b->ring = 0;                           /* a load function stores what it takes itself */
    memset(b->ring_bytes, 0, 8);
    expect_same(b, fresh);
    object_unref(a);
    object_unref(b);
    object_unref(fresh);
}
END_TEST

START_TEST(post_load_that_refuses_is_rolled_back)
{
    Chip *a = new_chip(), *b = new_chip();
    g_autoptr(GByteArray) blob = NULL;
    GError *error = NULL;

    fill(a);
    blob = save(a);
    b->refuse = true;
    ck_assert(!load(b, blob, &error));
    ck_error(error, "state of '/chip': the chip does not like it");
    ck_assert(!b->on);
    ck_assert_uint_eq(b->u64, 0);
    ck_assert_uint_eq(b->fifo_len, 0);
    ck_assert_uint_eq(b->base.base_reg, 0);
    object_unref(a);
    object_unref(b);
}
END_TEST

/* Saves with another table of the same type. */
static GByteArray *save_as(Chip *c, const StateTable *table)
{
    Type twin = chip_type;

    twin.state = table;
    c->base.obj.type = &twin;
    GByteArray *blob = save(c);
    c->base.obj.type = &chip_type;
    return blob;
}

START_TEST(versions)
{
    Chip *a = new_chip();
    g_autoptr(GByteArray) old = save_as(a, &old_state), future = save_as(a, &future_state);
    GError *error = NULL;

    ck_assert(!load(a, old, &error));
    ck_error(error, "field 'last': it is missing in the state");
    ck_assert(!load(a, future, &error));
    ck_assert_str_eq(error_get_hint(error), "it was saved by a newer release");
    ck_error(error, "part 'state-chip': version 9 is not between 1 and 2");
    object_unref(a);
}
END_TEST

START_TEST(absent_optional_fields_keep_their_value)
{
    Chip *a = new_chip(), *b = new_chip();
    g_autoptr(GByteArray) blob = NULL;

    fill(a);
    a->rare = 0;                           /* not needed, not sent */
    blob = save(a);
    b->rare = 5;
    ck_assert(load(b, blob, NULL));
    ck_assert_uint_eq(b->rare, 5);
    object_unref(a);
    object_unref(b);
}
END_TEST

START_TEST(wrong_id_and_type)
{
    Chip *a = new_chip();
    g_autoptr(GByteArray) blob = save(a);
    g_autoptr(Object) other = object_new(type_find("container"));
    GError *error = NULL;

    ck_assert(!object_load_state(OBJECT(a), "/chap", blob->data, blob->len, NULL, &error));
    ck_error(error, "state of '/chap' is expected, not of '/chip'");
    ck_assert(!object_load_state(other, "/chip", blob->data, blob->len, NULL, &error));
    ck_error(error, "state of '/chip' is of a 'state-chip', not of a 'container'");
    object_unref(a);
}
END_TEST

/* ---- trees ---- */

static Object *new_tree(unsigned n)
{
    Object *root = object_new(type_find("container"));

    for (unsigned i = 0; i < n; i++) {
        g_autofree char *name = g_strdup_printf("chip%u", i);
        Object *chip = OBJECT(new_chip());

        object_add_child(object_container(root, "machine"), name, chip, NULL);
        object_realize(chip, NULL);
        object_unref(chip);
    }
    return root;
}

static Chip *chip_of(Object *root, unsigned i)
{
    return (Chip *)object_child(object_child(root, "machine"), i ? "chip1" : "chip0");
}

START_TEST(trees)
{
    g_autoptr(Object) a = new_tree(2), b = new_tree(2), small = new_tree(1), large = new_tree(3);
    g_autoptr(GByteArray) blob = g_byte_array_new(), again = g_byte_array_new();
    g_autoptr(json_object) dump = NULL;
    json_object *fields = NULL, *value = NULL;
    GError *error = NULL;

    fill(chip_of(a, 1));
    tree_save_state(a, blob);
    ck_assert(tree_load_state(b, blob->data, blob->len, &error));
    ck_no_error(error);
    tree_save_state(b, again);
    ck_assert_uint_eq(blob->len, again->len);
    ck_assert_mem_eq(blob->data, again->data, blob->len);

    ck_assert(!tree_load_state(small, blob->data, blob->len, &error));
    ck_error(error, "an object '/machine/chip1', which this machine has not");
    ck_assert(!tree_load_state(large, blob->data, blob->len, &error));
    ck_error(error, "the state has no '/machine/chip2'");
    ck_assert(!chip_of(large, 1)->on);     /* nothing was taken */

    dump = state_dump(blob->data, blob->len, &error);
    ck_no_error(error);
    ck_assert(json_object_object_get_ex(dump, "/machine/chip1", &fields));
    ck_assert(json_object_object_get_ex(fields, "regs", &value));
    ck_assert_str_eq(json_object_to_json_string_ext(value, 0), "[1,11,21,31]");
    ck_assert(json_object_object_get_ex(fields, "cmos", &value));
    ck_assert_str_eq(json_object_get_string(value), "000102030405060708090a0b0c0d0e0f");
    ck_assert(json_object_object_get_ex(fields, "base_reg", &value));
    ck_assert_int_eq(json_object_get_int64(value), 0xdeadbeef);
    ck_assert(json_object_object_get_ex(fields, "channels", &value));
    ck_assert_str_eq(json_object_to_json_string_ext(value, 0),
                     "[{\"mode\":1,\"count\":100},{\"mode\":2,\"count\":200}]");
}
END_TEST

START_TEST(one_bad_object_of_a_tree_changes_none)
{
    g_autoptr(Object) a = new_tree(2), b = new_tree(2);
    g_autoptr(GByteArray) blob = g_byte_array_new();
    GError *error = NULL;

    fill(chip_of(a, 0));
    fill(chip_of(a, 1));
    tree_save_state(a, blob);
    chip_of(b, 1)->refuse = true;
    ck_assert(!tree_load_state(b, blob->data, blob->len, &error));
    ck_error(error, "state of '/machine/chip1': the chip does not like it");
    ck_assert(!chip_of(b, 0)->on && !chip_of(b, 1)->on);
}
END_TEST

/* Whatever bytes come, loading says yes or no; and a no leaves the tables' fields alone. */
static void try_bytes(Object *tree, const uint8_t *data, size_t length)
{
    GError *error = NULL;
    json_object *dump;

    if (tree_load_state(tree, data, length, &error))
        ck_assert_ptr_null(error);
    else
        ck_assert_ptr_nonnull(error);
    g_clear_error(&error);
    dump = state_dump(data, length, &error);
    ck_assert((dump == NULL) == (error != NULL));
    json_object_put(dump);
    g_clear_error(&error);
}

START_TEST(damaged_streams)
{
    g_autoptr(Object) a = new_tree(2), b = new_tree(2);
    g_autoptr(GByteArray) blob = g_byte_array_new();
    g_autoptr(GRand) rand = g_rand_new_with_seed(4711);

    fill(chip_of(a, 0));
    fill(chip_of(a, 1));
    tree_save_state(a, blob);
    for (unsigned length = 0; length < blob->len; length++) {
        /* A copy of its own, so that a read behind the end is seen. */
        g_autofree uint8_t *cut = g_memdup2(blob->data, MAX(length, 1));

        ck_assert(!tree_load_state(b, cut, length, NULL));
        try_bytes(b, cut, length);
    }
    for (unsigned i = 0; i < blob->len; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            blob->data[i] ^= 1 << bit;
            try_bytes(b, blob->data, blob->len);
            blob->data[i] ^= 1 << bit;
        }
    }
    for (unsigned n = 0; n < 5000; n++) {
        g_autofree uint8_t *bytes = g_memdup2(blob->data, blob->len);

        for (unsigned k = 0; k < 4; k++)
            bytes[g_rand_int_range(rand, 0, blob->len)] = g_rand_int(rand);
        try_bytes(b, bytes, blob->len);
    }
}
END_TEST

static void add(TCase *tests)
{
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, round_trip);
    tcase_add_loop_test(tests, bad_values_are_named_and_change_nothing, 0,
                        G_N_ELEMENTS(spoiled));
    tcase_add_test(tests, post_load_that_refuses_is_rolled_back);
    tcase_add_test(tests, versions);
    tcase_add_test(tests, absent_optional_fields_keep_their_value);
    tcase_add_test(tests, wrong_id_and_type);
    tcase_add_test(tests, trees);
    tcase_add_test(tests, one_bad_object_of_a_tree_changes_none);
    tcase_add_test(tests, damaged_streams);
}

int main(void)
{
    return run_tests("state", add);
}
