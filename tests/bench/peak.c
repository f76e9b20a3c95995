/* peak PROGRAM ARGUMENT...: runs it and prints the seconds it took and the KiB it had at most.  The
 * peak of a process counts what it was before it became the program, so this one is small. */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec from, to;
    struct rusage usage;
    int status;
    pid_t pid;

    clock_gettime(CLOCK_MONOTONIC, &from);
    pid = argc < 2 ? -1 : fork();
    if (pid == 0) {
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, &usage) < 0 || status)
        return 1;
    clock_gettime(CLOCK_MONOTONIC, &to);
    fprintf(stderr, "%.6f %ld\n", (to.tv_sec - from.tv_sec) + (to.tv_nsec - from.tv_nsec) / 1e9,
            usage.ru_maxrss);
    return 0;
}
