/* A libselinux for hosts without SELinux: writes down what it is asked, and whether the socket was there then. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int is_selinux_enabled(void);
int setsockcreatecon_raw(const char *label);

int is_selinux_enabled(void)
{
    return 1;
}

int setsockcreatecon_raw(const char *label)
{
    FILE *log = fopen(getenv("FAKE_SELINUX_LOG"), "a");

    if (!log || (label && !strcmp(label, "bad"))) {
        errno = EINVAL;
        return -1;
    }
    fprintf(log, "%s %s\n", label ? label : "-", access(getenv("FAKE_SELINUX_SOCKET"), F_OK) ? "before" : "after");
    return fclose(log);
}
