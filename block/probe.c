/* Signatures of image formats. */
#include "block/probe.h"
#include <glib.h>
#include <string.h>

typedef struct Signature {
    const char *format;
    unsigned offset, length;
    const char *bytes;
} Signature;

static const Signature signatures[] = {
    { "qcow2", 0, 4, "QFI\xfb" },          /* version 1 of it: qcow */
    { "qed", 0, 4, "QED\0" },
    { "luks", 0, 6, "LUKS\xba\xbe" },
    { "vmdk", 0, 4, "KDMV" },
    { "vmdk", 0, 4, "COWD" },
    { "vmdk", 0, 21, "# Disk DescriptorFile" },
    { "vhdx", 0, 8, "vhdxfile" },
    { "vpc", 0, 8, "conectix" },
    { "vdi", 64, 4, "\x7f\x10\xda\xbe" },
    { "parallels", 0, 16, "WithoutFreeSpace" },
    { "parallels", 0, 16, "WithouFreSpacExt" },
    { "bochs", 0, 25, "Bochs Virtual HD Image\0\0\0" },
};

const char *block_probe_format(const uint8_t *data, size_t length)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(signatures); i++) {
        const Signature *s = &signatures[i];

        if (s->offset + s->length <= length && !memcmp(data + s->offset, s->bytes, s->length))
            return s->format;
    }
    return "raw";
}
