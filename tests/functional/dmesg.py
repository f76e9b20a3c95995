"""What a guest kernel complains of, and what the same kernel says under QEMU's q35."""
import os
import re

from kvmlab.kernels import cache_dir
from kvmlab.machine import Machine, stock_arguments

COMPLAINT = re.compile("error|fail|warn|bug|can't|cannot|unable|invalid|conflict|no space|not found|"
                       "timed out|unexpected", re.IGNORECASE)
# Run in the guest: the whole log takes half a minute on an emulated host's serial port.
COMMAND = 'dmesg -r | grep -iE "^<[0-4]>|%s"; true' % COMPLAINT.pattern
SUBJECT = re.compile(r"acpi|pci|virtio|ioapic|apic|irq|hpet|rtc|i8042|tsc|kvm|mce|mtrr|e820", re.IGNORECASE)
WARNING = 4

# Not about the machine: these come and go with the speed of the emulated host.
TIMING = re.compile(r"clocksource|hrtimer: interrupt took|rcu:|sched: RT throttling|perf: interrupt took|"
                    r"TSC.*calibrat|workqueue:|hpet: Lost \d+ RTC", re.IGNORECASE)


def complaints(raw):
    """`dmesg -r` text -> the messages of level warning and worse, and complaints of any level."""
    found, in_trace = [], False
    for line in raw.split("\n"):
        part = re.match(r"<(\d+)>\[ *[\d.]+\] (.*)", line)
        if not part or TIMING.search(part.group(2)):
            continue
        in_trace = in_trace and "end trace" not in line or "cut here" in line
        if in_trace and "WARNING:" not in line:
            continue  # registers and stack of a kernel's warning
        level, text = int(part.group(1)) & 7, part.group(2).strip()
        if level <= WARNING or (COMPLAINT.search(text) and SUBJECT.search(text)):
            found.append(text)
    return found


def shape(text):
    """The message without the numbers and places that differ between two machines."""
    text = re.sub(r"\b[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b", "BDF", text)
    text = re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b", "HEX", text)
    return re.sub(r"\d+", "N", text)


def of_qemu(kernel, cpus, irqchip):
    """The shapes of the complaints under QEMU's q35 with the same devices, kept for each kernel."""
    name = "qemu-dmesg-%s-%d-%s-%s" % (kernel.version, cpus, irqchip, "lab" if "KVM_LAB" in os.environ else "host")
    kept = os.path.join(cache_dir("reference"), name)
    if not os.path.exists(kept):
        from kvmlab.guestimage import copy_disk
        disk = copy_disk(os.path.join(cache_dir(), "qemu-dmesg.raw"))
        arguments = stock_arguments(kernel, disk, cpus=cpus, irqchip=irqchip)
        with Machine("qemu-system-x86_64", arguments, qmp=False) as machine:
            machine.wait_up()
            text = machine.shell(COMMAND)
        os.unlink(disk)
        with open(kept, "w") as file:
            file.write(text)
        if os.path.isdir("/run/lab"):  # the cache here is thrown away with the lab's host
            with open("/run/lab/" + name, "w") as file:
                file.write(text)
    with open(kept) as file:
        return {shape(text) for text in complaints(file.read())}
