/*
 * Memory regions and address spaces.
 *
 * A Region is a piece of an address space: RAM, ROM, I/O with callbacks, an alias of another region,
 * or a container of regions.  Regions form a tree with priorities; an AddressSpace flattens its tree
 * to sorted ranges without overlap.  Listeners (KVM's slots and ioeventfds, dirty logging) are told
 * the difference after each change.  Readers look up in the current FlatView without a lock: a view
 * is replaced, and freed when the last reader inside memory_read_enter/exit has left.
 *
 * Thread: changing regions needs the VM lock.  address_space_read/write and dma_* may be called from
 * any thread; RAM is reached directly, I/O callbacks run under the VM lock, which is taken if the
 * caller does not hold it (never from an iothread: there an I/O target is an error).
 */
#pragma once
#include <sys/uio.h>
#include "src/base/vmlock.h"
#include "src/memory/ram.h"

typedef struct Region Region;
typedef struct AddressSpace AddressSpace;
typedef struct FlatView FlatView;
typedef uint64_t Gpa;                       /* guest-physical address, bytes */

typedef enum MemResult { MEM_OK, MEM_ERROR, MEM_UNMAPPED } MemResult;

/*
 * Callbacks of an I/O region.  They get an offset in the region and a size of 1, 2, 4 or 8, and run
 * under the VM lock.  @guest: the sizes a guest may use; others read as ones, are dropped on write
 * and logged.  @device: the sizes the callbacks are called with: the core splits and widens between.
 * A write narrower than device.min becomes a read of the whole unit and a write of it with the
 * guest's bytes replaced, so such registers must bear being read.
 * Zero means min 1, max 4 (guest max 8).  Values are little-endian numbers.
 */
typedef struct IoOps {
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
    struct {
        uint8_t min, max;
        bool unaligned;                     /* guest: allowed; device: callbacks take them */
    } guest, device;
} IoOps;

struct Region {
    const char *name;                       /* a literal or owned by the device */
    Object *owner;                          /* for tree listings; not counted */
    uint64_t size;                          /* bytes; UINT64_MAX stands for 2^64 */
    enum { REGION_CONTAINER, REGION_IO, REGION_RAM, REGION_ROM, REGION_ALIAS } kind;
    const IoOps *ops;
    void *opaque;
    RamBlock *ram;
    uint64_t ram_offset;
    Region *alias;
    uint64_t alias_offset;
    Region *container;                      /* where it is mapped */
    uint64_t offset;                        /* there */
    int priority;
    bool enabled;
    GPtrArray *children;                    /* containers; sorted by priority, highest first */
    GArray *ioeventfds;
    unsigned dirty_log;                     /* mask of DirtyClient */
    bool coalesced;                         /* writes may be batched by the accelerator */
    GPtrArray *spaces;                      /* of AddressSpace: those whose view this tree's top gave */
};

/* Regions live inside their devices. */
void region_init_container(Region *r, Object *owner, const char *name, uint64_t size);
void region_init_io(Region *r, Object *owner, const IoOps *ops, void *opaque, const char *name,
                    uint64_t size);
void region_init_ram(Region *r, Object *owner, const char *name, RamBlock *block, uint64_t offset,
                     uint64_t size);        /* takes a reference of the block */
void region_init_rom(Region *r, Object *owner, const char *name, RamBlock *block, uint64_t offset,
                     uint64_t size);        /* guest writes are dropped */
void region_init_alias(Region *r, Object *owner, const char *name, Region *target,
                       uint64_t offset, uint64_t size);
/* Unmaps it first; zeroed memory is fine.  Aliases of it must be gone. */
void region_destroy(Region *r);

/* Mapping.  A higher priority hides a lower one; equal: the one added last. */
void region_add(Region *container, uint64_t offset, Region *r);
void region_add_priority(Region *container, uint64_t offset, Region *r, int priority);
void region_del(Region *r);                 /* no-op when unmapped */
void region_set_enabled(Region *r, bool enabled);
void region_set_offset(Region *r, uint64_t offset);
void region_set_size(Region *r, uint64_t size);
void region_set_dirty_log(Region *r, DirtyClient client, bool on);
bool region_is_mapped(const Region *r);

/* Several changes as one: the views they touch are rebuilt at the outermost commit.  VM lock. */
void memory_begin(void);
void memory_commit(void);

/* A guest write of @size bytes (0: any) at @offset signals @fd, without a callback.  With @match, only
 * if the value equals @value.  Taken by KVM, or by the core when there is no KVM. */
void region_add_ioeventfd(Region *r, uint64_t offset, unsigned size, bool match, uint64_t value,
                          int fd);
void region_del_ioeventfd(Region *r, uint64_t offset, unsigned size, bool match, uint64_t value,
                          int fd);

/* An address space.  @lock: the machine's VM lock. */
AddressSpace *address_space_new(const char *name, Region *root, VmLock *lock);
void address_space_free(AddressSpace *as);
const char *address_space_name(const AddressSpace *as);
Region *address_space_root(const AddressSpace *as);

/* Access as the guest's CPU or a bus master would do it. */
MemResult address_space_read(AddressSpace *as, Gpa addr, void *buffer, uint64_t length);
MemResult address_space_write(AddressSpace *as, Gpa addr, const void *buffer, uint64_t length);
/* One access of 1, 2, 4 or 8 bytes, dispatched whole. */
MemResult address_space_load(AddressSpace *as, Gpa addr, unsigned size, uint64_t *ret);
MemResult address_space_store(AddressSpace *as, Gpa addr, unsigned size, uint64_t value);

/* DMA: host pointers to guest RAM, looked up inside a read section (memory_read_enter … _exit).  RAM
 * blocks outlive the machine's I/O (a block that is unplugged is freed after the devices have
 * drained), so that a pointer to RAM may be used until the request it belongs to is complete. */
void memory_read_enter(void);               /* any thread; nests; cheap; must not block inside */
void memory_read_exit(void);

/* At most *length bytes from addr on that are contiguous in the host; NULL if not RAM (or ROM and
 * @write).  *length is shortened to what is there.  Valid until memory_read_exit. */
void *dma_ptr(AddressSpace *as, Gpa addr, uint64_t *length, bool write);
/* The whole range or nothing, as iovecs; returns how many, or -1 (not RAM, or over max).  The pages
 * of written ranges must be marked with dma_dirty when the data is there. */
int dma_map_iov(AddressSpace *as, Gpa addr, uint64_t length, bool write, struct iovec *iov, int max);
void dma_dirty(AddressSpace *as, Gpa addr, uint64_t length);

/* A range of guest memory that is used again and again (a virtqueue's rings): the pointer stays
 * valid until the view changes, which dma_window_ptr notices and follows.  Any one thread. */
typedef struct DmaWindow {
    AddressSpace *as;
    Gpa addr;
    uint64_t length;
    bool write;
    void *host;                             /* NULL: not mapped, or not contiguous RAM */
    RamBlock *block;
    uint64_t block_offset;
    uint64_t generation;
} DmaWindow;
void dma_window_init(DmaWindow *w, AddressSpace *as, Gpa addr, uint64_t length, bool write);
void *dma_window_ptr(DmaWindow *w);         /* inside a read section; NULL: the guest chose badly */
void dma_window_dirty(DmaWindow *w, uint64_t offset, uint64_t length);
void dma_window_destroy(DmaWindow *w);

/* The flat view, for listeners, listings and image loaders. */
typedef struct FlatRange {
    Gpa addr;
    uint64_t size;
    Region *region;
    uint64_t offset;                        /* in the region */
    bool readonly;
    unsigned dirty_log;
} FlatRange;
typedef struct FlatIoeventfd {
    Gpa addr;
    unsigned size;
    bool match;
    uint64_t value;
    int fd;
} FlatIoeventfd;
void address_space_foreach(AddressSpace *as, void (*fn)(const FlatRange *range, void *opaque),
                           void *opaque);

/* A listener is told of differences at commit: removals first, then additions.  On registration it
 * hears all that is there.  VM lock. */
typedef struct MemoryListener MemoryListener;
struct MemoryListener {
    void (*range_add)(MemoryListener *l, const FlatRange *range);
    void (*range_del)(MemoryListener *l, const FlatRange *range);
    void (*log_change)(MemoryListener *l, const FlatRange *range);  /* dirty_log became another */
    void (*ioeventfd_add)(MemoryListener *l, const FlatIoeventfd *e);
    void (*ioeventfd_del)(MemoryListener *l, const FlatIoeventfd *e);
    void (*log_sync)(MemoryListener *l, const FlatRange *range);    /* fetch dirty bits into the block */
    void (*commit)(MemoryListener *l);
    AddressSpace *as;
};
void memory_listener_add(AddressSpace *as, MemoryListener *l);
void memory_listener_remove(MemoryListener *l);
/* Asks listeners for the accelerator's dirty bits of every logged range. */
void address_space_sync_dirty(AddressSpace *as);
/* True if a listener takes ioeventfds (else the core signals them on dispatch). */
bool address_space_has_ioeventfd_listener(const AddressSpace *as);
/* `info mtree`: tree or flat view as text; g_free. */
char *address_space_describe(AddressSpace *as, bool flat);
