/*
 * qmpload SOCKET RATE SECONDS BATCH: send query-status RATE times a second, BATCH at a time; print the rate, and the
 * mean and worst time until a batch was answered.
 * qmpload --serve SOCKET: answer each line with a fixed one, as the cheapest thing a monitor could do.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const char answer[] = "{\"return\": {\"status\": \"running\", \"singlestep\": false, \"running\": true}}\r\n";

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

enum { BATCH_MAX = 100 };

/* Reads until @wanted lines have come: how many; 0: the connection was closed. */
static int lines(int fd, int wanted)
{
    char data[65536];
    int got = 0;
    while (got < wanted) {
        ssize_t n = read(fd, data, sizeof(data));
        if (n <= 0)
            return 0;
        for (ssize_t i = 0; i < n; i++)
            got += data[i] == '\n';
    }
    return got;
}

/* The same line some times, in one write. */
static void tell(int fd, const char *text, int times)
{
    static char data[65536];
    size_t length = strlen(text);
    for (int i = 0; i < times; i++)
        memcpy(data + i * length, text, length);
    if (write(fd, data, times * length) < 0)
        fail("write");
}

int main(int argc, char **argv)
{
    int serve = argc == 3 && strcmp(argv[1], "--serve") == 0;
    if (!serve && (argc != 5 || atoi(argv[4]) < 1 || atoi(argv[4]) > BATCH_MAX)) {
        fprintf(stderr, "usage: qmpload SOCKET RATE SECONDS BATCH | qmpload --serve SOCKET\n");
        return 1;
    }
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", argv[serve ? 2 : 1]);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (serve) {
        if (bind(fd, (void *)&address, sizeof(address)) || listen(fd, 1))
            fail(argv[2]);
        for (;;) {
            int client = accept(fd, NULL, NULL);
            tell(client, "{\"QMP\": {}}\r\n", 1);
            for (int asked; (asked = lines(client, 1));)
                tell(client, answer, asked < BATCH_MAX ? asked : BATCH_MAX);
            close(client);
        }
    }
    if (connect(fd, (void *)&address, sizeof(address)))
        fail(argv[1]);
    int rate = atoi(argv[2]), batch = atoi(argv[4]);
    double seconds = atof(argv[3]), worst = 0, sum = 0;
    lines(fd, 1); /* the greeting */
    tell(fd, "{\"execute\": \"qmp_capabilities\"}\n", 1);
    lines(fd, 1);
    double began = now();
    long sent = 0;
    for (; now() < began + seconds; sent += batch) {
        double at = now();
        tell(fd, "{\"execute\": \"query-status\"}\n", batch);
        if (!lines(fd, batch)) {
            fprintf(stderr, "qmpload: the connection was closed\n");
            return 1;
        }
        double took = now() - at, left = began + (sent + batch) / (double)rate - now();
        sum += took;
        worst = took > worst ? took : worst;
        if (left > 0) {
            struct timespec pause = { (time_t)left, (long)((left - (time_t)left) * 1e9) };
            nanosleep(&pause, NULL);
        }
    }
    printf("%.0f %.1f %.1f\n", sent / (now() - began), sum / sent * batch * 1e6, worst * 1e6);
    return 0;
}
