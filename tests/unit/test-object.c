/* Objects: life cycle, tree, links, realize order, -object, events. */
#include "src/base/loop.h"
#include "src/base/options.h"
#include "src/object/describe.h"
#include "src/object/event.h"
#include "tests/test.h"

static GString *calls;                     /* what was called, in order */

typedef struct Animal {
    Object obj;
    uint32_t legs;
    char *sound;
    Object *friend;
} Animal;

#define NOTE(who, what)                                                                            \
    static void who##_##what(Object *obj)                                                          \
    {                                                                                              \
        g_string_append(calls, #who "-" #what " ");                                                \
    }
NOTE(animal, init)
NOTE(animal, finalize)
NOTE(animal, unrealize)
NOTE(animal, reset)
NOTE(dog, init)
NOTE(dog, finalize)
NOTE(dog, unrealize)
NOTE(dog, reset)

static bool animal_realize(Object *obj, GError **error)
{
    g_string_append(calls, "animal-realize ");
    return true;
}

static bool animal_done(Object *obj, GError **error)
{
    g_string_append(calls, "animal-done ");
    return true;
}

static bool dog_realize(Object *obj, GError **error)
{
    g_string_append(calls, "dog-realize ");
    if (((Animal *)obj)->legs == 3)
        return fail(error, ERR_GENERIC, "three legs");
    return true;
}

static bool dog_done(Object *obj, GError **error)
{
    g_string_append(calls, "dog-done ");
    return ((Animal *)obj)->legs != 5 || fail(error, ERR_GENERIC, "five legs");
}

static const Property animal_props[] = {
    PROP("legs", Animal, legs, .def.u = 2, .max = 100, .help = "how many legs"),
    PROP("sound", Animal, sound, .def.s = "none"),
    PROP_LINK("friend", Animal, friend, "animal"),
    {}
};
static const Type animal_type = {
    .name = "animal", .size = sizeof(Animal), .abstract = true, .props = animal_props,
    .init = animal_init, .finalize = animal_finalize, .realize = animal_realize,
    .realize_done = animal_done, .unrealize = animal_unrealize, .reset = animal_reset,
};
TYPE_REGISTER(animal_type)

static const Property dog_props[] = {
    PROP("legs", Animal, legs, .def.u = 4, .max = 100),
    {}
};
static const Type dog_type = {
    .name = "dog", .parent = "animal", .user_creatable = true, .props = dog_props,
    .init = dog_init, .finalize = dog_finalize, .realize = dog_realize, .realize_done = dog_done,
    .unrealize = dog_unrealize, .reset = dog_reset, .help = "a dog",
};
TYPE_REGISTER(dog_type)

static Object *new_root(void)
{
    return object_new(type_find("container"));
}

static void setup(void)
{
    calls = g_string_new(NULL);
}

static void teardown(void)
{
    g_string_free(calls, TRUE);
}

START_TEST(life_cycle_runs_in_order)
{
    Object *dog = object_new(&dog_type);

    ck_assert_str_eq(calls->str, "animal-init dog-init ");
    g_string_truncate(calls, 0);
    ck_assert(object_realize(dog, NULL));
    ck_assert_str_eq(calls->str, "animal-realize dog-realize dog-done animal-done ");
    g_string_truncate(calls, 0);
    object_reset(dog);
    ck_assert_str_eq(calls->str, "animal-reset dog-reset ");
    g_string_truncate(calls, 0);
    object_unrealize(dog);
    object_unref(dog);
    ck_assert_str_eq(calls->str, "dog-unrealize animal-unrealize dog-finalize animal-finalize ");
}
END_TEST

START_TEST(failed_realize_is_undone)
{
    Object *dog = object_new(&dog_type);
    GError *error = NULL;

    ck_assert(object_set_u64(dog, "legs", 3, NULL));
    g_string_truncate(calls, 0);
    ck_assert(!object_realize(dog, &error));
    ck_error(error, "three legs");
    ck_assert_str_eq(calls->str, "animal-realize dog-realize dog-unrealize animal-unrealize ");
    ck_assert(!dog->realized);

    ck_assert(object_set_u64(dog, "legs", 5, NULL));
    g_string_truncate(calls, 0);
    ck_assert(!object_realize(dog, &error));
    ck_error(error, "five legs");
    ck_assert_str_eq(calls->str,
                     "animal-realize dog-realize dog-done dog-unrealize animal-unrealize ");
    object_reset(dog);                     /* not realized: nothing happens */
    object_unref(dog);
}
END_TEST

START_TEST(abstract_and_unknown_types_have_no_objects)
{
    GError *error = NULL;

    ck_assert_ptr_null(object_new(&animal_type));
    ck_assert_ptr_null(object_new_by_name("animal", &error));
    ck_error(error, "type 'animal' is abstract");
    ck_assert_ptr_null(object_new_by_name("unicorn", &error));
    ck_error(error, "there is no type 'unicorn'");
    ck_assert(type_is_a(&dog_type, "animal") && type_is_a(&dog_type, "object"));
    ck_assert(!type_is_a(&animal_type, "dog"));
}
END_TEST

START_TEST(paths_and_partial_paths)
{
    g_autoptr(Object) root = new_root();
    Object *a = object_container(root, "a"), *b = object_container(a, "b");
    g_autoptr(Object) rex = object_new(&dog_type);
    g_autofree char *path = NULL, *root_path = object_path(root);
    GError *error = NULL;

    ck_assert(object_add_child(b, "rex", rex, NULL));
    path = object_path(rex);
    ck_assert_str_eq(path, "/a/b/rex");
    ck_assert_str_eq(root_path, "/");
    ck_assert_ptr_eq(object_resolve(rex, "/a/b/rex"), rex);
    ck_assert_ptr_eq(object_resolve(rex, "/"), root);
    ck_assert_ptr_eq(object_resolve(root, "rex"), rex);
    ck_assert_ptr_eq(object_resolve(root, "b/rex"), rex);
    ck_assert_ptr_null(object_resolve(root, "a/rex"));
    ck_assert_ptr_null(object_resolve(root, ""));
    ck_assert_ptr_eq(object_root(rex), root);

    ck_assert(!object_add_child(a, "rex", rex, &error));
    ck_error(error, "already in the object tree");
    g_autoptr(Object) other = object_new(&dog_type);
    ck_assert(!object_add_child(b, "rex", other, &error));
    ck_error(error, "already an object 'rex' under '/a/b'");
    ck_assert(object_add_child(a, "rex", other, NULL));
    ck_assert_ptr_null(object_resolve(root, "rex"));   /* ambiguous now */
    object_unparent(other);
    ck_assert_ptr_eq(object_resolve(root, "rex"), rex);
}
END_TEST

START_TEST(tree_holds_its_objects)
{
    Object *root = new_root(), *rex = object_new(&dog_type);

    ck_assert(object_add_child(root, "rex", rex, NULL));
    object_unref(rex);
    ck_assert_ptr_eq(object_child(root, "rex"), rex);
    g_string_truncate(calls, 0);
    object_unref(root);
    ck_assert_str_eq(calls->str, "dog-finalize animal-finalize ");
}
END_TEST

START_TEST(user_objects)
{
    g_autoptr(Object) root = new_root();
    g_autoptr(json_object) good = options_parse("qom-type=dog,id=rex,legs=6", NULL, NULL);
    g_autoptr(json_object) no_id = options_parse("qom-type=dog", NULL, NULL);
    g_autoptr(json_object) bad_id = options_parse("qom-type=dog,id=1x", NULL, NULL);
    g_autoptr(json_object) bad_type = options_parse("qom-type=dgo,id=x", NULL, NULL);
    g_autoptr(json_object) friend = options_parse("qom-type=dog,id=ben,friend=rex", NULL, NULL);
    g_autoptr(json_object) fails = options_parse("qom-type=dog,id=tri,legs=3", NULL, NULL);
    GError *error = NULL;
    Object *rex = object_create_user(root, good, &error);

    ck_no_error(error);
    ck_assert_uint_eq(((Animal *)rex)->legs, 6);
    ck_assert_ptr_eq(object_resolve(root, "/objects/rex"), rex);
    ck_assert_ptr_null(object_create_user(root, good, &error));
    ck_error(error, "already an object with id 'rex'");
    ck_assert_ptr_null(object_create_user(root, no_id, &error));
    ck_error(error, "parameter 'id' is missing");
    ck_assert_ptr_null(object_create_user(root, bad_id, &error));
    ck_error(error, "'1x' is not a valid id");
    ck_assert_ptr_null(object_create_user(root, bad_type, &error));
    ck_assert_str_eq(error_get_hint(error), "did you mean 'dog'?");
    ck_error(error, "invalid object type 'dgo'");
    ck_assert_ptr_null(object_create_user(root, fails, &error));
    ck_error(error, "object 'tri': three legs");
    ck_assert_ptr_null(object_resolve(root, "/objects/tri"));

    ck_assert_ptr_nonnull(object_create_user(root, friend, &error));
    ck_assert(!object_delete_user(root, "rex", &error));
    ck_error(error, "object 'rex' is in use");
    ck_assert(object_delete_user(root, "ben", &error));
    ck_assert(object_delete_user(root, "rex", &error));
    ck_assert(!object_delete_user(root, "rex", &error));
    ck_error(error, "there is no object 'rex'");
}
END_TEST

START_TEST(context_lends_a_root_until_there_is_a_parent)
{
    g_autoptr(Object) root = new_root();
    g_autoptr(Object) rex = object_new(&dog_type), ben = object_new(&dog_type);

    object_add_child(object_container(root, "objects"), "rex", rex, NULL);
    ck_assert(!object_set_str(ben, "friend", "rex", NULL));
    object_set_context(ben, root);
    ck_assert(object_set_str(ben, "friend", "rex", NULL));
    ck_assert_ptr_eq(((Animal *)ben)->friend, rex);
    object_add_child(root, "ben", ben, NULL);
    ck_assert_ptr_null(ben->context);
}
END_TEST

static void sink(const char *name, json_object *data, void *opaque)
{
    g_string_append_printf(opaque, "%s %s;", name, data ? json_object_get_string(data) : "-");
}

static void *emit_in_thread(void *rex)
{
    event_emit(rex, "FROM_THREAD", NULL);
    return NULL;
}

static bool has_thread_event(GString *got)
{
    return strstr(got->str, "FROM_THREAD") != NULL;
}

START_TEST(events_reach_the_sinks_of_the_root)
{
    g_autoptr(Object) root = new_root(), other = new_root(), rex = object_new(&dog_type);
    GString *got = g_string_new(NULL), *none = g_string_new(NULL);
    Loop *loop = loop_main();

    object_add_child(root, "rex", rex, NULL);
    event_sink_add(root, sink, got);
    event_sink_add(other, sink, none);
    event_emit(rex, "BARK", json_object_new_int(3));
    ck_assert_str_eq(got->str, "BARK 3;");
    g_thread_join(g_thread_new("emit", emit_in_thread, rex));
    while (!has_thread_event(got))
        loop_iterate(loop, true);
    ck_assert_str_eq(got->str, "BARK 3;FROM_THREAD -;");
    event_sink_remove(root, sink, got);
    event_emit(rex, "BARK", NULL);
    ck_assert_str_eq(got->str, "BARK 3;FROM_THREAD -;");
    ck_assert_str_eq(none->str, "");
    g_string_free(got, TRUE);
    g_string_free(none, TRUE);
}
END_TEST

START_TEST(descriptions_come_from_the_tables)
{
    g_autofree char *text = type_describe(&dog_type), *types = types_describe("animal");
    g_autoptr(json_object) list = type_list_properties(&dog_type);

    ck_assert_ptr_nonnull(strstr(text, "  legs=<uint32>"));
    ck_assert_ptr_nonnull(strstr(text, "(default: 4)"));       /* the child's, once */
    ck_assert_ptr_null(strstr(text, "(default: 2)"));
    ck_assert_ptr_nonnull(strstr(text, "friend=<link<animal>>"));
    ck_assert_ptr_null(strstr(text, "type="));                 /* read-only */
    ck_assert_str_eq(types, "name \"dog\", desc \"a dog\"\n");
    ck_assert_uint_eq(json_object_array_length(list), 4);
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, life_cycle_runs_in_order);
    tcase_add_test(tests, failed_realize_is_undone);
    tcase_add_test(tests, abstract_and_unknown_types_have_no_objects);
    tcase_add_test(tests, paths_and_partial_paths);
    tcase_add_test(tests, tree_holds_its_objects);
    tcase_add_test(tests, user_objects);
    tcase_add_test(tests, context_lends_a_root_until_there_is_a_parent);
    tcase_add_test(tests, events_reach_the_sinks_of_the_root);
    tcase_add_test(tests, descriptions_come_from_the_tables);
}

int main(void)
{
    return run_tests("object", add);
}
