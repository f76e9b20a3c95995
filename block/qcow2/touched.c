/*
 * What changes while a scrub looks at the image: a bit for each host cluster whose references or
 * count were changed.  What a scrub finds out about a cluster without a bit is true of one moment;
 * of one with a bit it says nothing.
 *
 * A reference comes with a raised count (refcount.c) and goes with a call of qcow2_free_later, in
 * the same request; so it is enough to note these two, if all requests that began before are over.
 */
#include "block/qcow2/qcow2.h"
#include <stdlib.h>

struct Qcow2Touched {
    uint64_t clusters;
    uint64_t *words;                       /* atomic */
};

bool qcow2_touched_begin(Qcow2 *s, uint64_t clusters)
{
    Qcow2Touched *touched = g_new0(Qcow2Touched, 1);

    touched->clusters = clusters;
    touched->words = calloc(clusters / 64 + 1, sizeof(uint64_t));
    if (!touched->words) {
        g_free(touched);
        return false;
    }
    s->touched = touched;
    qcow2_frees_touch(s);
    return true;
}

void qcow2_touched_end(Qcow2 *s)
{
    Qcow2Touched *touched = g_steal_pointer(&s->touched);

    if (touched)
        free(touched->words);
    g_free(touched);
}

void qcow2_touched_note(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    uint64_t end = MIN(qcow2_clusters(s, offset + bytes), s->touched->clusters);

    for (uint64_t i = offset >> s->cluster_bits; i < end; i++)
        __atomic_fetch_or(&s->touched->words[i / 64], 1ull << i % 64, __ATOMIC_RELEASE);
}

bool qcow2_is_touched(const Qcow2 *s, uint64_t cluster)
{
    return cluster >= s->touched->clusters ||
           __atomic_load_n(&s->touched->words[cluster / 64], __ATOMIC_ACQUIRE) >> cluster % 64 & 1;
}
