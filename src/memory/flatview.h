/* A flat view: the sorted ranges that a tree of regions comes down to.  Immutable once published. */
#pragma once
#include "src/memory/memory.h"

/* A range with what a reader needs, so that it never touches a Region outside the VM lock. */
typedef struct Section {
    FlatRange range;
    Gpa last;                              /* address of its last byte */
    uint8_t *host;                         /* of its first byte; NULL: I/O */
    RamBlock *block;                       /* counted */
    uint64_t block_offset;
} Section;

struct FlatView {
    uint64_t generation;                   /* unique in the process */
    unsigned count;
    Section *sections;                     /* by address */
    GArray *ioeventfds;                    /* of FlatIoeventfd, by address */
};

/* Renders @root.  @tops gets the top of each tree that took part: of the root and of aliases. */
FlatView *flatview_render(Region *root, GPtrArray *tops);
void flatview_free(void *view);
bool flatview_equal(const FlatView *a, const FlatView *b);
bool section_same_place(const Section *a, const Section *b);   /* alike but for dirty_log */
bool ioeventfd_equal(const FlatIoeventfd *a, const FlatIoeventfd *b);
/* The section that holds @addr, or NULL.  Any thread, in a read section (or under the VM lock). */
const Section *flatview_find(const FlatView *view, Gpa addr);

/* Bytes from @addr, where nothing is, to the next section or the end; at least 1. */
uint64_t flatview_gap(const FlatView *view, Gpa addr);

/* The published view of a space: in a read section, or under the VM lock. */
const FlatView *address_space_view(const AddressSpace *as);
VmLock *address_space_lock(const AddressSpace *as);

/* space.c, for memory.c: the tree that @r is in has changed (or @r, its former top). */
void region_changed(Region *r);
void region_forget_spaces(Region *r);
Region *region_top(Region *r);
/* Rebuilds what waits for a commit, even inside begin … commit: @r is about to go. */
void memory_settle(void);

/* One access of an I/O region, split and widened; VM lock.  dispatch.c */
MemResult region_read(Region *r, uint64_t offset, unsigned size, uint64_t *ret);
MemResult region_write(Region *r, uint64_t offset, unsigned size, uint64_t value);
