"""The smallest guest that can be talked to: says "up" on the serial port, reads it, and reports a panic
to the pvpanic device when it reads a p.  A 64-bit ELF file with a 32-bit PVH entry."""
import struct

LOAD = 0x100000
TEXT = b"vireo guest: up\r\n\0"

CODE = (b"\xac"                    # next: lodsb
        b"\x84\xc0\x74\x07"        #       test al,al; jz read
        b"\x66\xba\xf8\x03\xee"    #       mov dx,0x3f8; out dx,al
        b"\xeb\xf4"                #       jmp next
        b"\x66\xba\xfd\x03\xec"    # read: mov dx,0x3fd; in al,dx
        b"\xa8\x01\x74\xf7"        #       test al,1; jz read
        b"\x66\xba\xf8\x03\xec"    #       mov dx,0x3f8; in al,dx
        b"\x3c\x70\x75\xee"        #       cmp al,'p'; jne read
        b"\x66\xba\x05\x05"        #       mov dx,0x505
        b"\xb0\x01\xee"            #       mov al,1; out dx,al
        b"\xf4\xeb\xfd")           # stop: hlt; jmp stop


def write(path):
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", LOAD)    # XEN_ELFNOTE_PHYS32_ENTRY
    start = b"\xbe" + struct.pack("<I", LOAD + 5 + len(CODE))  # mov esi,text
    code = start + CODE + TEXT
    at_note = 64 + 2 * 56
    at_code = at_note + len(note)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, LOAD, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, at_code, LOAD, LOAD, len(code), len(code), 1)
    notes = struct.pack("<IIQQQQQQ", 4, 4, at_note, 0, 0, len(note), len(note), 4)
    with open(path, "wb") as file:
        file.write(head + load + notes + note + code)
