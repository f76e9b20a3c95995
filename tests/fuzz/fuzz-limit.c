/* An input that uses more CPU time than any reasonable one is a finding. */
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>
#include "tests/fuzz/fuzz.h"

enum { CPU_SECONDS = 25 };

static void used_up(int signal)
{
    static const char text[] = "fuzz: this input takes more than 25 s of CPU time\n";

    if (write(STDERR_FILENO, text, sizeof(text) - 1) > 0)
        abort();
    abort();
}

void fuzz_limit_cpu(void)
{
    struct itimerval limit = { .it_value = { .tv_sec = CPU_SECONDS } };

    signal(SIGPROF, used_up);
    setitimer(ITIMER_PROF, &limit, NULL);
}
