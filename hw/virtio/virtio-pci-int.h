/* The PCI transport's inside: virtio-pci.c, its modern and its legacy registers. */
#pragma once
#include "hw/virtio/virtio-pci.h"
#include "hw/virtio/virtq-int.h"

typedef struct VirtioPci {
    PciDevice pci;
    VirtioTransport transport;
    VirtioDevice *vdev;

    Region msix_bar, modern_bar;
    Region common, isr, config, notify;     /* in modern_bar */
    Region legacy;                          /* ports; size 0: there are none */
    uint8_t cfg_cap;                        /* PCI configuration access capability (4.1.4.9) */

    /* Registers that belong to the transport. */
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select, config_vector;

    /* One for each MSI-X vector, made when first needed; data plane threads write to it. */
    int *vector_fds;
    bool *vector_attached;                  /* the irqfd is there */
    bool guest_notifiers;
    LoopBh interrupt_bh;                    /* main loop: what the data plane could not do itself */
    uint8_t *vector_due;                    /* atomic; vectors that the bottom half is to send */

    /* Properties. */
    int disable_legacy;                     /* OnOffAuto */
    bool disable_modern, ioeventfd, page_per_vq;
    uint32_t vectors;                       /* UINT32_MAX: one a queue, and one */
} VirtioPci;
#define VIRTIO_PCI(ptr) ((VirtioPci *)(ptr))

/* The registers by structure, as both a BAR and the configuration access capability reach them. */
extern const IoOps virtio_pci_common_ops, virtio_pci_isr_ops, virtio_pci_config_ops,
    virtio_pci_notify_ops;
unsigned virtio_pci_notify_multiplier(const VirtioPci *p);
/* Reads ISR status and takes back the interrupt (4.1.4.5). */
uint8_t virtio_pci_take_isr(VirtioPci *p);
/* A vector was chosen for a queue (or, index -1, for configuration changes). */
void virtio_pci_set_vector(VirtioPci *p, int queue, uint16_t vector);
/* virtio-pci-legacy.c: p->legacy, for a BAR. */
void virtio_pci_init_legacy(VirtioPci *p, size_t config_size);
