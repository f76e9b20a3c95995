/*
 * The loader of saved state.  An input is a list of changes to the state of a machine as it was saved
 * (first byte even: three bytes place, one byte value), or a state of its own (odd).
 */
#include "tests/device/harness-int.h"
#include "tests/fuzz/fuzz.h"

#define OPTIONS                                                                                    \
    "-machine q35 -blockdev null-co,node-name=d0,size=1M -device virtio-blk-pci,drive=d0 "         \
    "-device virtio-rng-pci -device pvpanic"

static GByteArray *good;

static GByteArray *change(Input *in)
{
    GByteArray *state = g_byte_array_new();

    g_byte_array_append(state, good->data, good->len);
    while (in->p < in->end) {
        uint64_t at = take(in, 3) % state->len;

        state->data[at] = take(in, 1);
    }
    return state;
}

static GByteArray *whole(Input *in)
{
    GByteArray *state = g_byte_array_new();

    g_byte_array_append(state, in->p, in->end - in->p);
    return state;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    TestMachine *m = test_machine_new(OPTIONS);
    Input in = { data, data + size };
    g_autoptr(GByteArray) state = NULL;
    g_autoptr(GError) error = NULL, dump_error = NULL;

    fuzz_limit_cpu();
    if (!good)
        good = save_state(m);
    state = take(&in, 1) & 1 ? whole(&in) : change(&in);
    json_object_put(state_dump(state->data, state->len, &dump_error));
    if (load_state(m, state, &error)) {    /* what was let in must not hurt later */
        run(m);
        settle(m);
        stop(m);
        reset_machine(m);
    }
    test_machine_free(m);
    return 0;
}
