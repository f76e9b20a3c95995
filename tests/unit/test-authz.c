/* Authorization objects: which identities their rules let in, and what is refused as a rule. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include "src/base/options.h"
#include "src/sandbox/authz.h"
#include "tests/test.h"

static Object *make(Object *root, const char *options, GError **error)
{
    g_autoptr(json_object) parsed = options_parse(options, "qom-type", error);

    return parsed ? object_create_user(root, parsed, error) : NULL;
}

static Object *new_root(void)
{
    return object_new(type_find("container"));
}

typedef struct Question {
    Object *root;
    const char *id, *identity;
    GError **error;
    bool answer;
} Question;

static void co_fn ask(void *opaque)
{
    Question *q = opaque;

    q->answer = authz_allows(q->root, q->id, q->identity, q->error);
}

static bool allows(Object *root, const char *id, const char *identity, GError **error)
{
    Question q = { root, id, identity, error, false };

    co_run_sync(ask, &q);
    return q.answer;
}

/* @who: identities that get in, then NULL, then some that do not, then NULL. */
static void check_answers(Object *root, const char *const *who)
{
    bool want = true;

    for (;; who++) {
        g_autoptr(GError) error = NULL;

        if (!*who) {
            if (!want)
                return;
            want = false;
            continue;
        }
        ck_assert_msg(allows(root, "a", *who, &error) == want, "'%s': %d", *who, !want);
        if (want)
            ck_no_error(error);
        else
            ck_error(error, "'a' refuses '");
    }
}

static void check_object(const char *options, const char *const *who)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) root = new_root();

    ck_assert_msg(make(root, options, &error) != NULL, "%s: %s", options, error ? error->message : "");
    check_answers(root, who);
}

#define WHO(...) (const char *const[]){ __VA_ARGS__, NULL }

START_TEST(one_identity)
{
    check_object("authz-simple,id=a,identity=CN=fred,,O=x",
                 WHO("CN=fred,O=x", NULL, "CN=fred", "CN=fred,O=xy", "cn=fred,O=x", ""));
}
END_TEST

START_TEST(rules_in_order)
{
    check_object("authz-list,id=a,rules.0.match=fred,rules.0.policy=allow",
                 WHO("fred", NULL, "Fred", "fredy", ""));
    check_object("authz-list,id=a,policy=allow,rules.0.match=fred,rules.0.policy=deny",
                 WHO("bob", "", NULL, "fred"));
    check_object("authz-list,id=a,rules.0.match=b*b,rules.0.policy=deny,rules.0.format=glob,"
                 "rules.1.match=b*,rules.1.policy=allow,rules.1.format=glob",
                 WHO("bo", "b", NULL, "bob", "bb", "a"));
    check_object("authz-list,id=a,rules.0.match=b*,rules.0.policy=allow,rules.0.format=glob,"
                 "rules.1.match=b*b,rules.1.policy=deny,rules.1.format=glob",
                 WHO("bob", "b", NULL, "a"));
    check_object("authz-list,id=a,rules.0.match=b*,rules.0.policy=allow", WHO("b*", NULL, "bob"));
    check_object("{\"qom-type\": \"authz-list\", \"id\": \"a\", \"policy\": \"deny\", \"rules\": ["
                 "{\"match\": \"CN=v?,O=x,*\", \"policy\": \"allow\", \"format\": \"glob\"},"
                 "{\"match\": \"ä\", \"policy\": \"allow\", \"format\": \"exact\"}]}",
                 WHO("CN=v1,O=x,C=de", "CN=vä,O=x,C=", "ä", NULL, "CN=v12,O=x,C=de", "CN=v,O=x,"));
}
END_TEST

START_TEST(nobody_by_default)
{
    check_object("authz-list,id=a", (const char *const[]){ NULL, "fred", "", NULL });
    check_object("authz-list,id=a,policy=allow", WHO("fred", "", NULL, "\xff", "\xe4", "x\xc3"));
}
END_TEST

START_TEST(what_an_error_shows)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) root = new_root();

    make(root, "authz-list,id=a", &error);
    ck_assert(!allows(root, "a", "CN=x\nvireo: all is well\033[2J\x7f", &error));
    ck_assert_str_eq(error->message, "'a' refuses 'CN=x?vireo: all is well?[2J?'");
}
END_TEST

START_TEST(refusals)
{
    static const struct {
        const char *options, *why;
    } bad[] = {
        { "authz-simple,id=a", "object 'a': Parameter 'identity' is missing" },
        { "authz-list,id=a,rules=x", "property 'rules' of 'authz-list': 'rules' must be a list of objects" },
        { "authz-list,id=a,rules.0=x", "rules.0 must be an object" },
        { "authz-list,id=a,rules.0.match=x", "rules.0: 'policy' is missing" },
        { "authz-list,id=a,rules.0.policy=allow", "rules.0: 'match' is missing" },
        { "authz-list,id=a,rules.0.match=x,rules.0.policy=maybe", "rules.0: policy cannot be 'maybe'" },
        { "authz-list,id=a,rules.0.match=x,rules.0.policy=deny,rules.0.format=regex", "rules.0: format cannot be 'regex'" },
        { "authz-list,id=a,rules.0.match=x,rules.0.policy=deny,rules.0.forma=glob", "rule has no member 'forma'" },
        { "authz-list,id=a,rules.0.match=x,rules.0.policy=deny,rules.1.match=y", "rules.1: 'policy' is missing" },
        { "authz-list,id=a,rules.0.match=x\xe4,rules.0.policy=deny", "UTF-8" },
        { "{\"qom-type\":\"authz-list\",\"id\":\"a\",\"rules\":[{\"match\":1,\"policy\":\"deny\"}]}", "match" },
        { "{\"qom-type\":\"authz-list\",\"id\":\"a\",\"rules\":[null]}", "rules.0 must be an object" },
        { "{\"qom-type\":\"authz-list\",\"id\":\"a\",\"rules\":[{\"match\":\"a\\u0000b\",\"policy\":\"deny\"}]}",
          "a string with \\u0000" },
        { "authz-list,id=a,policy=perhaps", "property 'policy' of 'authz-list'" },
        { "authz-list-file,id=a", "object 'a': Parameter 'filename' is missing" },
        { "authz-list-file,id=a,filename=/none/x", "object 'a': cannot watch '/none': No such file" },
        { "authz-list-file,id=a,refresh=off,filename=/none/x", "object 'a': cannot read '/none/x': No such file" },
        { "authz-list-file,id=a,filename=/dev/null", "'/dev/null' is no regular file" },
        { "authz-pam,id=a", "object 'a': Parameter 'service' is missing" },
        { "authz,id=a", "authz" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(Object) root = new_root();

        ck_assert_msg(!make(root, bad[i].options, &error), "%s was taken", bad[i].options);
        ck_error(error, bad[i].why);
    }
}
END_TEST

/* The host's own service for whom no other is meant: any account of this host, and nobody else. */
START_TEST(accounts_of_the_host)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) root = new_root();

    if (!g_file_test("/etc/pam.d/other", G_FILE_TEST_EXISTS) || getuid())
        return;
    ck_assert_msg(make(root, "authz-pam,id=a,service=other", &error) != NULL, "%s", error ? error->message : "");
    for (int i = 0; i < 2; i++) {
        ck_assert(allows(root, "a", "root", &error));
        ck_no_error(error);
        ck_assert(!allows(root, "a", "no-such-account", &error));
        ck_error(error, "'a' refuses 'no-such-account': PAM's service 'other': ");
        ck_assert(!allows(root, "a", "", &error));
        ck_error(error, "'a' refuses ''");
    }
}
END_TEST

START_TEST(the_object_is_looked_up_each_time)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) root = new_root();

    ck_assert(!authz_exists(root, "a", &error));
    ck_error(error, "No authorization object with id 'a'");
    ck_assert(!allows(root, "a", "fred", &error));
    ck_error(error, "No authorization object with id 'a'");
    make(root, "authz-simple,id=a,identity=fred", &error);
    ck_assert(authz_exists(root, "a", &error) && allows(root, "a", "fred", &error));
    ck_assert(object_delete_user(root, "a", &error));
    ck_assert(!allows(root, "a", "fred", &error));
    ck_error(error, "No authorization object");
    make(root, "secret,id=a,data=fred", &error);
    ck_assert(!authz_exists(root, "a", &error));
    ck_error(error, "Object with id 'a' is not an authorization object");
    ck_assert(!allows(root, "a", "fred", &error));
    ck_error(error, "not an authorization object");
}
END_TEST

START_TEST(rules_change_at_run_time)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Object) root = new_root();
    Object *list = make(root, "authz-list,id=a,rules.0.match=x,rules.0.policy=allow", &error);
    g_autoptr(json_object) fresh = options_parse("{\"r\":[{\"match\":\"y\",\"policy\":\"allow\"}]}", NULL, NULL);
    g_autoptr(json_object) wrong = options_parse("{\"r\":[{\"match\":\"z\"}]}", NULL, NULL);
    g_autoptr(json_object) back = NULL;

    ck_assert(object_set(list, "rules", json_object_object_get(fresh, "r"), &error));
    check_answers(root, WHO("y", NULL, "x"));
    ck_assert(!object_set(list, "rules", json_object_object_get(wrong, "r"), &error));
    ck_error(error, "rules.0: 'policy' is missing");
    check_answers(root, WHO("y", NULL, "z"));
    back = object_get(list, "rules", &error);
    ck_assert_str_eq(json_object_to_json_string_ext(back, JSON_C_TO_STRING_PLAIN),
                     "[{\"match\":\"y\",\"policy\":\"allow\",\"format\":\"exact\"}]");
    ck_assert(object_set_str(list, "policy", "allow", &error));
    check_answers(root, (const char *const[]){ "x", NULL, NULL });
}
END_TEST

/* ---- files ---- */

typedef struct Folder {
    char *path, *file, *log;
    Object *root;
    int old_stderr;
} Folder;

/* @text replaces the file: by rename, or in place. */
static void put(Folder *f, const char *text, bool in_place)
{
    g_autofree char *aside = g_build_filename(f->path, "aside", NULL);

    ck_assert(g_file_set_contents_full(in_place ? f->file : aside, text, -1, G_FILE_SET_CONTENTS_NONE,
                                       0600, NULL));
    if (!in_place)
        ck_assert_int_eq(rename(aside, f->file), 0);
}

/* Allows @who only. */
static void put_rule(Folder *f, const char *who, bool in_place)
{
    g_autofree char *text = g_strdup_printf("{\"rules\": [{\"match\": \"%s\", \"policy\": \"allow\"}]}", who);

    put(f, text, in_place);
}

static void folder_init(Folder *f)
{
    f->path = g_dir_make_tmp("vireo-authz-XXXXXX", NULL);
    f->file = g_build_filename(f->path, "rules.json", NULL);
    f->log = g_strconcat(f->path, ".log", NULL);      /* outside: an open file keeps its folder alive */
    f->root = new_root();
    f->old_stderr = dup(2);
    dup2(g_open(f->log, O_RDWR | O_CREAT | O_APPEND, 0600), 2);
}

static void folder_clear(Folder *f)
{
    object_unref(f->root);
    dup2(f->old_stderr, 2);
    close(f->old_stderr);
    unlink(f->log);
    unlink(f->file);
    rmdir(f->path);
    g_free(f->path);
    g_free(f->file);
    g_free(f->log);
}

/* What has been written to the log since; empties it. */
static char *take_log(Folder *f)
{
    char *text = NULL;

    ck_assert(g_file_get_contents(f->log, &text, NULL, NULL));
    ck_assert_int_eq(truncate(f->log, 0), 0);
    return text;
}

static void make_from_file(Folder *f, const char *more)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *options = g_strdup_printf("authz-list-file,id=a,filename=%s%s", f->file, more);

    make(f->root, options, &error);
    ck_no_error(error);
}

/* Events are in the queue of inotify when the system call that causes them returns. */
static void notice(void)
{
    while (loop_iterate(loop_main(), false))
        continue;
}

START_TEST(a_file_that_changes)
{
    Folder f;

    folder_init(&f);
    put_rule(&f, "one", true);
    make_from_file(&f, "");
    check_answers(f.root, WHO("one", NULL, "two"));
    for (int in_place = 0; in_place < 2; in_place++) {
        put_rule(&f, "two", in_place);
        notice();
        check_answers(f.root, WHO("two", NULL, "one"));
        put_rule(&f, "one", in_place);
        notice();
        check_answers(f.root, WHO("one", NULL, "two"));
    }
    ck_assert_int_eq(unlink(f.file), 0);
    notice();
    check_answers(f.root, WHO("one", NULL, "two"));
    g_autofree char *gone = take_log(&f);
    ck_assert_ptr_nonnull(strstr(gone, "warning: authz-list-file 'a': cannot read '"));
    put_rule(&f, "two", true);
    notice();
    check_answers(f.root, WHO("two", NULL, "one"));
    g_autofree char *silent = take_log(&f);
    ck_assert_str_eq(silent, "");
    folder_clear(&f);
}
END_TEST

START_TEST(a_file_that_breaks)
{
    static const struct {
        const char *text, *why;
    } bad[] = {
        { "", "rules.json': " }, { "{\"rules\": [", "rules.json': " }, { "[]", "must contain a JSON object" },
        { "{\"rules\": 1}", "'rules' must be a list of objects" },
        { "{\"rules\": [{\"match\": \"two\"}]}", "rules.0: 'policy' is missing" },
        { "{\"rules\": [], \"policy\": \"open\"}", "policy cannot be 'open'" },
        { "{\"rule\": []}", "list has no member 'rule'" },
        { "{\"rules\": [], \"policy\": 1}", "policy" },
    };
    Folder f;

    folder_init(&f);
    put_rule(&f, "one", true);
    make_from_file(&f, "");
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        put(&f, bad[i].text, i % 2);
        notice();
        check_answers(f.root, WHO("one", NULL, "two"));
        g_autofree char *log = take_log(&f);
        ck_assert_msg(strstr(log, bad[i].why) && strstr(log, "stay in force"), "%s: %s", bad[i].text, log);
    }
    put(&f, "{\"policy\": \"allow\"}", false);
    notice();
    check_answers(f.root, (const char *const[]){ "two", NULL, NULL });
    folder_clear(&f);
}
END_TEST

START_TEST(a_file_that_is_being_written)
{
    Folder f;
    int fd;

    folder_init(&f);
    put_rule(&f, "one", true);
    make_from_file(&f, "");
    ck_assert_int_eq(unlink(f.file), 0);
    notice();
    g_free(take_log(&f));
    fd = g_open(f.file, O_WRONLY | O_CREAT, 0600);
    ck_assert_int_eq(write(fd, "{\"policy\":", 10), 10);
    notice();                              /* of half a file nothing is said */
    check_answers(f.root, WHO("one", NULL, "two"));
    ck_assert_int_eq(write(fd, "\"allow\"}", 8), 8);
    close(fd);
    notice();
    check_answers(f.root, (const char *const[]){ "two", NULL, NULL });
    g_autofree char *log = take_log(&f);
    ck_assert_str_eq(log, "");
    folder_clear(&f);
}
END_TEST

START_TEST(a_file_that_is_not_watched)
{
    Folder f;

    folder_init(&f);
    put_rule(&f, "one", true);
    make_from_file(&f, ",refresh=off");
    put_rule(&f, "two", false);
    notice();
    check_answers(f.root, WHO("one", NULL, "two"));
    folder_clear(&f);
}
END_TEST

START_TEST(a_relative_name)
{
    g_autoptr(GError) error = NULL;
    Folder f;

    folder_init(&f);
    put_rule(&f, "one", true);
    ck_assert_int_eq(chdir(f.path), 0);
    make(f.root, "authz-list-file,id=a,filename=rules.json", &error);
    ck_no_error(error);
    ck_assert_int_eq(chdir("/"), 0);       /* as -daemonize does */
    put_rule(&f, "two", false);
    notice();
    check_answers(f.root, WHO("two", NULL, "one"));
    folder_clear(&f);
}
END_TEST

START_TEST(a_file_that_is_no_file)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *options = NULL;
    Folder f;

    folder_init(&f);
    ck_assert_int_eq(mkfifo(f.file, 0600), 0);          /* nobody writes to it */
    options = g_strdup_printf("authz-list-file,id=a,filename=%s", f.file);
    ck_assert_ptr_null(make(f.root, options, &error));
    ck_error(error, "no regular file");
    folder_clear(&f);
}
END_TEST

START_TEST(a_folder_that_goes)
{
    Folder f;

    folder_init(&f);
    put_rule(&f, "one", true);
    make_from_file(&f, "");
    ck_assert(unlink(f.file) == 0 && rmdir(f.path) == 0);
    notice();
    check_answers(f.root, WHO("one", NULL, "two"));
    g_autofree char *log = take_log(&f);
    ck_assert_msg(strstr(log, "changes are not noticed any more"), "%s", log);
    folder_clear(&f);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, one_identity);
    tcase_add_test(tc, rules_in_order);
    tcase_add_test(tc, nobody_by_default);
    tcase_add_test(tc, what_an_error_shows);
    tcase_add_test(tc, refusals);
    tcase_add_test(tc, accounts_of_the_host);
    tcase_add_test(tc, the_object_is_looked_up_each_time);
    tcase_add_test(tc, rules_change_at_run_time);
    tcase_add_test(tc, a_file_that_changes);
    tcase_add_test(tc, a_file_that_breaks);
    tcase_add_test(tc, a_file_that_is_being_written);
    tcase_add_test(tc, a_file_that_is_not_watched);
    tcase_add_test(tc, a_relative_name);
    tcase_add_test(tc, a_file_that_is_no_file);
    tcase_add_test(tc, a_folder_that_goes);
}

int main(void)
{
    return run_tests("authz", add_tests);
}
