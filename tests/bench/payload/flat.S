/*
 * A firmware image that is nothing but the benchmark guest: 64 KiB that end at 4 GiB.
 *
 * For VMMs that start a guest through its firmware: the guest's first instruction is then the
 * reset vector's, as early as it can be.  The top 64 KiB are also seen at 0xf0000.
 */
#define COM1 0x3f8
#define MARK 0x8000

    .code16
    .section .text, "ax"
flat:
    .incbin PAYLOAD                     /* linked to be at 1 MiB */
flat_end:

    .org 0xff00
real_start:
    lgdtl %cs:(gdt_pointer - flat)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $(protected - flat + 0xf0000)

    .code32
protected:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    cld
    mov $0xf0000, %esi
    mov $0x100000, %edi
    mov $(flat_end - flat + 3) / 4, %ecx
    rep movsl
    mov $START_MARKED, %eax
    jmp *%eax

    .balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt - flat + 0xf0000

    .org 0xfff0
    .code16
    movb $'F', MARK                     /* the reset vector */
    mov $COM1, %dx
    mov $'F', %al
    out %al, %dx
    jmp real_start
    .org 0x10000
