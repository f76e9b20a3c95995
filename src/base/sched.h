/*
 * The seeded scheduler, for tests.  While it is on, the order in which a loop runs posted work,
 * bottom halves, ready descriptors, timers that are due, woken coroutines and finished workers is
 * drawn from a seed: the same seed gives the same order.  Off (the default) it costs one predicted
 * branch at each choice.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

void sched_seed(uint64_t seed);        /* on, in this process, for loops made from now on */
void sched_off(void);
bool sched_on(void);
unsigned sched_choose(unsigned n);     /* 0 … n-1; 0 when off */
