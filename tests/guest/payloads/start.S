/*
 * Entry of the test guests.  Two ways in: at start64 in long mode with memory mapped one to one
 * (the test harness; e_entry), or at pvh_start in flat 32-bit mode with EBX at a hvm_start_info (a
 * VMM's -kernel, by the PVH note).  Both call guest_entry(start_info or 0, argument).
 */
    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18                          /* name and value sizes; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_start

    .section .bss
    .align 4096
pml4:   .skip 4096
pdpt:   .skip 4096
pd:     .skip 4 * 4096
stacks: .skip 4 * 16384
stacks_end:

    .section .data
    .align 16
    .globl gdt, gdt_pointer
gdt:
    .quad 0, 0
    .quad 0x00af9b000000ffff                /* 0x10: 64-bit code */
    .quad 0x00cf93000000ffff                /* 0x18: data */
    .quad 0x00cf9b000000ffff                /* 0x20: 32-bit code */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

    .text
    .code32
    .globl pvh_start
pvh_start:
    cli
    movl $stacks + 16384, %esp
    movl %ebx, %ebp
    movl $pdpt + 3, pml4
    movl $pd + 3, pdpt
    movl $pd + 0x1003, pdpt + 8
    movl $pd + 0x2003, pdpt + 16
    movl $pd + 0x3003, pdpt + 24
    xorl %ecx, %ecx
    movl $0x83, %eax                        /* present, writable, 2 MiB */
1:  movl %eax, pd(, %ecx, 8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jb 1b
    lgdt gdt_pointer
    call enter_long_mode
    ljmpl $0x10, $2f

    .globl enter_long_mode
enter_long_mode:
    movl %cr4, %eax
    orl $0x20, %eax                         /* PAE */
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx                  /* EFER */
    rdmsr
    orl $0x100, %eax                        /* LME */
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax                   /* PG, PE */
    movl %eax, %cr0
    ret

    .code64
2:  movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %ebp, %edi
    xorl %esi, %esi
    call guest_entry
3:  hlt
    jmp 3b

    .globl start64
start64:
    leaq stacks + 16384(%rip), %rsp
    lgdt gdt_pointer(%rip)
    movq %cr3, %rax
    movl %eax, guest_cr3(%rip)
    xorl %edi, %edi
    call guest_entry
    jmp 3b

/* An application processor: real mode at 0x8000 (SIPI vector 8), where guest code has copied this.
 * */
    .code16
    .globl ap_start, ap_end
ap_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl 0x8000 + ap_gdt_pointer - ap_start
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x20, $ap_start32
ap_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
ap_end:

    .code32
ap_start32:
    movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $stacks + 2 * 16384, %esp
    movl guest_cr3, %eax
    testl %eax, %eax
    jz 4f
    movl %cr4, %ecx
    orl $0x20, %ecx
    movl %ecx, %cr4
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    jmp 5f
4:  call enter_long_mode
5:  ljmpl $0x10, $6f
    .code64
6:  call ap_main
7:  hlt
    jmp 7b

    .section .data
    .globl guest_cr3
guest_cr3: .long 0                          /* the harness's page tables; 0: our own */

/* Interrupt entries: each calls on_interrupt(vector) and ends with IRETQ. */
    .text
    .altmacro
    .macro entry vector
    .globl vector_\vector
vector_\vector:
    pushq %rax
    movl $\vector, %eax
    jmp interrupt_common
    .endm
    entry 2
    entry 64
    entry 65
    entry 66
    entry 67
interrupt_common:
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    movl %eax, %edi
    call on_interrupt
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    iretq
    .section .note.GNU-stack, "", @progbits
