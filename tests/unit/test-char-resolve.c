/*
 * Servers of names that do not answer: a TCP socket chardev waits for them without holding up the
 * main loop.  getaddrinfo is replaced by one that waits as long as the test likes.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "src/chardev/chardev.h"
#include "src/base/error.h"
#include "src/base/options.h"
#include "tests/test.h"

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool hung;                      /* gate */
static unsigned asked;                 /* gate */
static bool asked_in_main;             /* atomic */

/* Every name is this machine's. */
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **ret)
{
    struct sockaddr_in *to = g_new0(struct sockaddr_in, 1);
    struct addrinfo *info = g_new0(struct addrinfo, 1);

    *to = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(atoi(port)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    *info = (struct addrinfo){ .ai_family = AF_INET, .ai_socktype = SOCK_STREAM,
                               .ai_addrlen = sizeof(*to), .ai_addr = (struct sockaddr *)to };
    if (gettid() == getpid())
        __atomic_store_n(&asked_in_main, true, __ATOMIC_RELAXED);
    pthread_mutex_lock(&gate);
    asked++;
    pthread_cond_broadcast(&changed);
    while (hung)
        pthread_cond_wait(&changed, &gate);
    pthread_mutex_unlock(&gate);
    *ret = info;
    return 0;
}

void freeaddrinfo(struct addrinfo *info)
{
    g_free(info->ai_addr);
    g_free(info);
}

static void set_hung(bool on)
{
    pthread_mutex_lock(&gate);
    hung = on;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&gate);
}

static void wait_until_asked(void)
{
    pthread_mutex_lock(&gate);
    while (!asked)
        pthread_cond_wait(&changed, &gate);
    pthread_mutex_unlock(&gate);
}

static int listener(unsigned *ret_port)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert(!bind(fd, (struct sockaddr *)&at, length) && !listen(fd, 5));
    ck_assert(!getsockname(fd, (struct sockaddr *)&at, &length));
    *ret_port = ntohs(at.sin_port);
    return fd;
}

static Chardev *client(Object *root, unsigned port, const char *more)
{
    g_autofree char *text = g_strdup_printf("socket,id=c,host=far.example,port=%u%s", port, more);
    g_autoptr(json_object) options = options_parse(text, "backend", NULL);
    g_autoptr(GError) error = NULL;
    Chardev *cd = chardev_create(root, options, &error);

    ck_no_error(error);
    return cd;
}

static void set_flag(void *flag)
{
    *(bool *)flag = true;
}

START_TEST(a_client_that_comes_back)
{
    Object *root = object_new(type_find("container"));
    unsigned port;
    int server = listener(&port);
    bool turned = false;

    set_hung(true);
    Chardev *cd = client(root, port, ",reconnect-ms=10");
    CharFront front = { 0 };
    ck_assert(char_front_attach(&front, cd, NULL));
    wait_until_asked();
    loop_post(loop_main(), set_flag, &turned);
    loop_wait(&turned);                    /* the loop is free */
    ck_assert(!char_front_connected(&front));
    set_hung(false);
    while (!char_front_connected(&front))
        loop_iterate(loop_main(), true);
    ck_assert(!asked_in_main);
    char_front_detach(&front);
    object_unref(root);
    close(server);
}
END_TEST

START_TEST(a_client_that_is_removed_meanwhile)
{
    Object *root = object_new(type_find("container"));
    unsigned port;
    int server = listener(&port), peer;
    char byte;
    g_autoptr(GError) error = NULL;

    set_hung(true);
    client(root, port, ",reconnect-ms=10");
    wait_until_asked();
    chardev_delete(root, "c", &error);
    ck_no_error(error);
    set_hung(false);
    /* The attempt ends when what it has connected is closed again. */
    peer = accept(server, NULL, NULL);
    ck_assert_int_ge(peer, 0);
    while (recv(peer, &byte, 1, MSG_DONTWAIT) < 0)
        loop_iterate(loop_main(), true);
    close(peer);
    object_unref(root);
    close(server);
}
END_TEST

static void *answer_later(void *opaque)
{
    wait_until_asked();
    loop_post(loop_main(), set_flag, opaque);
    set_hung(false);
    return NULL;
}

/* chardev-add waits for the first connection; the loop turns meanwhile. */
START_TEST(the_first_connection)
{
    Object *root = object_new(type_find("container"));
    unsigned port;
    int server = listener(&port);
    bool turned = false;

    set_hung(true);
    GThread *thread = g_thread_new("later", answer_later, &turned);
    CharFront front = { 0 };
    ck_assert(char_front_attach(&front, client(root, port, ""), NULL));
    ck_assert(turned && char_front_connected(&front) && !asked_in_main);
    g_thread_join(thread);
    char_front_detach(&front);
    object_unref(root);
    close(server);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, a_client_that_comes_back);
    tcase_add_test(tc, a_client_that_is_removed_meanwhile);
    tcase_add_test(tc, the_first_connection);
}

int main(void)
{
    return run_tests("char-resolve", add_tests);
}
