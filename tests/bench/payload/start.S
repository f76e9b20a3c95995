/*
 * The benchmark guest's start: a byte to memory is its first instruction; one to the serial port, 64-bit mode.
 *
 * Entered in 32-bit protected mode without paging: by a VMM's PVH loader, or by flat.S.
 */
#define COM1 0x3f8
#define MARK 0x8000

    .section .note.pvh, "a", @note      /* XEN_ELFNOTE_PHYS32_ENTRY */
    .long 4, 4, 18
    .asciz "Xen"
    .long start

    .section .text.start, "ax"
    .code32
    .globl start
start:
    movb $'F', MARK                     /* seen by who shares the guest's memory */
    mov $COM1, %edx
    mov $'F', %al
    out %al, %dx
    .globl start_marked
start_marked:                           /* flat.S has said 'F' already */
    cli
    cld
    /* 4 GiB one to one, in pages of 2 MiB */
    mov $pages, %edi
    lea 0x1007(%edi), %eax
    mov %eax, (%edi)                    /* level 4 -> level 3 */
    mov $4, %ecx
    lea 0x1000(%edi), %ebx
1:  add $0x1000, %eax
    mov %eax, (%ebx)                    /* level 3 -> level 2 */
    add $8, %ebx
    loop 1b
    lea 0x2000(%edi), %ebx
    mov $0x83, %eax
    mov $2048, %ecx
2:  mov %eax, (%ebx)
    add $8, %ebx
    add $0x200000, %eax
    loop 2b

    mov %edi, %cr3
    mov $0x20, %eax                     /* CR4.PAE */
    mov %eax, %cr4
    mov $0xc0000080, %ecx               /* EFER.LME */
    rdmsr
    or $0x100, %eax
    wrmsr
    mov $0x80000011, %eax               /* CR0.PG, ET, PE */
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $start64

    .code64
start64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $stack_top, %rsp
    call payload_main
3:  hlt
    jmp 3b

    .section .rodata
    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word . - gdt - 1
    .long gdt

    .bss
    .balign 4096
pages:
    .skip 6 * 4096
    .skip 4096
stack_top:
