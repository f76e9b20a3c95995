/*
 * virtio over PCI (virtio 1.2, 4.1).  A user-visible type such as virtio-rng-pci is a table made by
 *
 *     VIRTIO_PCI_REGISTER(virtio_rng_pci, "virtio-rng-pci", "virtio entropy device", NULL,
 *                         .device = "virtio-rng-device", .pci.class_code = 0x00ff00, …);
 *
 * in the device's own file.  The types NAME-non-transitional and NAME-transitional, by which
 * management programs choose whether there is a legacy interface, come with it.
 */
#pragma once
#include "hw/pci/pci.h"
#include "hw/virtio/virtio.h"

typedef struct VirtioPciInfo {
    PciDeviceOps pci; /* first: type_ops() of a PCI device; ids are filled in */
    const char *device;                     /* the backend's type: "virtio-rng-device" */
    uint16_t legacy_device_id;              /* transitional PCI id (4.1.2.1): 0x1000 … */
    unsigned (*vectors)(VirtioDevice *vdev);/* default number of MSI-X vectors; NULL: queues + 1 */
} VirtioPciInfo;

void virtio_pci_config_reading(PciDevice *dev, unsigned offset, unsigned size);
void virtio_pci_config_written(PciDevice *dev, unsigned offset, unsigned size);

/* disable-legacy with another default. */
extern const Property virtio_pci_non_transitional_props[], virtio_pci_transitional_props[];
#define VIRTIO_PCI_VARIANT(var, name_, suffix, help_, props_)                                      \
    static const Type var = { .name = name_ suffix, .parent = name_, .help = help_,                \
                              .user_creatable = true, .props = props_ };                           \
    TYPE_REGISTER(var)

#define VIRTIO_PCI_REGISTER(var, name_, help_, category_, ...)                                     \
    static const VirtioPciInfo var##_info = {                                                      \
        .pci = { .express = true, .config_reading = virtio_pci_config_reading,                     \
                 .config_written = virtio_pci_config_written },                                    \
        __VA_ARGS__                                                                                \
    };                                                                                             \
    static const Type var = { .name = (name_), .parent = "virtio-pci", .help = (help_),            \
                              .category = (category_), .user_creatable = true,                     \
                              .ops = &var##_info };                                                \
    TYPE_REGISTER(var)                                                                             \
    VIRTIO_PCI_VARIANT(var##_non_transitional, name_, "-non-transitional",                         \
                       help_ ", virtio 1 only", virtio_pci_non_transitional_props)                 \
    VIRTIO_PCI_VARIANT(var##_transitional, name_, "-transitional",                                 \
                       help_ ", both interfaces", virtio_pci_transitional_props)
