"""Stock Debian kernels: boot, disk, entropy, power, and what QMP says of it."""
import os
import tempfile

import dmesg
from case import Case, check, equal
from kvmlab import guestimage, kernels
from kvmlab.machine import Machine, stock_arguments
from kvmlab.qmp import QmpError


class Guest(Case):
    """One guest with a disk of its own."""
    flavour = "cloud-amd64"
    cpus = 1
    irqchip = "on"
    arguments = ()

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        self.disk = guestimage.copy_disk(self.folder.name + "/disk.raw")
        self.kernel = kernels.fetch(self.flavour)
        self.machine = None
        if hasattr(type(self), "test_dmesg"):
            dmesg.of_qemu(self.kernel, self.cpus, self.irqchip)  # now, while no other guest runs
        self.start()
        self.machine.wait_up(300)

    def start(self):
        line = [word for word in self.command_line() if word not in self.left_out()]
        self.machine = Machine(self.vmm, line)

    def command_line(self):
        return stock_arguments(self.kernel, self.disk, cpus=self.cpus, irqchip=self.irqchip) + list(self.arguments)

    def left_out(self):
        return ()

    def teardown(self):
        if getattr(self, "machine", None):
            self.machine.__exit__()
        self.folder.cleanup()

    def no_new_complaints(self):
        known = dmesg.of_qemu(self.kernel, self.cpus, self.irqchip)
        new = [text for text in dmesg.complaints(self.machine.shell(dmesg.COMMAND))
               if dmesg.shape(text) not in known]
        check(not new, "the kernel complains, and does not under QEMU's q35:\n" + "\n".join(new))


class CloudKernel(Guest):
    """linux-image-cloud-amd64 with two vCPUs, and all that does not end the guest."""
    cpus = 2

    def test_boots(self):
        equal(self.machine.shell("uname -r").strip(), self.kernel.version, "the guest's kernel")

    def test_two_cpus(self):
        equal(self.machine.shell("nproc").strip(), "2", "nproc")
        equal(len(self.machine.qmp("query-cpus-fast")), 2, "number of CPUs in QMP")

    def test_dmesg(self):
        self.no_new_complaints()

    def test_disk_is_written(self):
        check("/dev/vda / ext4 rw" in self.machine.shell("cat /proc/mounts"), "/ is not mounted read-write")
        self.machine.shell("seq 100000 >/root/numbers; sync; echo 3 >/proc/sys/vm/drop_caches")
        equal(self.machine.shell("md5sum </root/numbers").split()[0], "dea9193b768319cbb4ff1a137ac03113",
              "checksum of what was written")
        self.machine.shell("echo 'a note''-for-the-host' >/root/note; sync")
        with open(self.disk, "rb") as image:
            check(b"a note-for-the-host" in image.read(), "the image does not hold what was written and synced")

    def test_interrupts_are_msix(self):
        text = self.machine.shell("cat /proc/interrupts")
        check("PCI-MSI" in text and "virtio0" in text, "no MSI-X interrupts of virtio:\n" + text)

    def test_entropy(self):
        check("virtio_rng" in self.machine.shell("cat /sys/class/misc/hw_random/rng_current"), "virtio-rng not used")
        equal(self.machine.shell("dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c").strip(), "256", "bytes read")

    def test_clock_runs(self):
        source = self.machine.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
        check(source in ("kvm-clock", "tsc"), "the clock source is " + source)
        self.machine.shell("sleep 1")

    def test_status(self):
        status = self.machine.qmp("query-status")
        equal((status["status"], status["running"]), ("running", True), "status")

    def test_block(self):
        drives = self.machine.qmp("query-block")
        check(any(self.disk in str(drive) for drive in drives), "query-block does not show the image: %r" % drives)
        statistics = self.machine.qmp("query-blockstats")
        check(statistics and statistics[0]["stats"]["wr_bytes"] > 0, "no bytes written: %r" % statistics)

    def test_stop_and_cont(self):
        machine = self.machine
        machine.qmp("stop")
        machine.qmp.wait_event("STOP")
        equal(machine.qmp("query-status")["status"], "paused", "status")
        machine.type("echo still here\n")
        try:
            machine.expect("^still here", 2)
        except Exception:
            pass
        else:
            check(False, "a stopped guest answers")
        machine.qmp("cont")
        machine.qmp.wait_event("RESUME")
        machine.expect("^still here", 20)
        equal(machine.qmp("query-status")["status"], "running", "status")

    def test_unknown_command(self):
        try:
            self.machine.qmp("no-such-command")
        except QmpError as error:
            equal(error.error["class"], "CommandNotFound", "error class")
        else:
            check(False, "an unknown command has no error")

    def test_power_button(self):
        machine = self.machine
        machine.qmp("system_powerdown")
        machine.qmp.wait_event("POWERDOWN")
        event = machine.qmp.wait_event("SHUTDOWN", 60)
        equal(event["data"]["guest"], True, "guest in the event SHUTDOWN")
        equal(machine.wait(30), 0, "exit status")
        check("guest: filesystems are clean" in machine.console, "no clean end of the guest")


class GenericKernel(Guest):
    """linux-image-amd64, and resets."""
    flavour = "amd64"
    group = 1

    def left_out(self):
        return ("-no-reboot",)

    def test_boots(self):
        equal(self.machine.shell("uname -r").strip(), self.kernel.version, "the guest's kernel")

    def test_dmesg(self):
        self.no_new_complaints()

    def test_disk(self):
        self.machine.shell("echo kept >/root/kept; sync; echo 3 >/proc/sys/vm/drop_caches")
        equal(self.machine.shell("cat /root/kept"), "kept\n", "file")

    def test_system_reset(self):
        self.machine.qmp("system_reset")
        event = self.machine.qmp.wait_event("RESET")
        equal(event["data"]["guest"], False, "guest in the event RESET")
        self.machine.wait_up(300)
        equal(self.machine.shell("cat /root/kept"), "kept\n", "file after a reset")

    def test_quit(self):
        self.machine.qmp("quit")
        equal(self.machine.wait(10), 0, "exit status")


class ElfKernel(Guest):
    """The ELF of linux-image-amd64, started by its PVH note; two vCPUs; the guest reboots itself."""
    flavour = "amd64"
    cpus = 2
    group = 3

    def command_line(self):
        line = super().command_line()
        line[line.index("-kernel") + 1] = self.kernel.vmlinux
        return line

    def test_boots(self):
        equal(self.machine.shell("nproc").strip(), "2", "nproc")

    def test_reboot_ends_it(self):
        machine = self.machine
        machine.qmp("query-status")
        machine.type("reboot\n")
        event = machine.qmp.wait_event("SHUTDOWN", 60)
        equal(event["data"]["reason"], "guest-reset", "reason in the event SHUTDOWN")
        equal(machine.wait(30), 0, "exit status")


class OtherWays(Guest):
    """Split irqchip, packed ring, a transitional device, an iothread with O_DIRECT and io_uring."""
    scratch = "1G"
    group = 2
    cpus = 2
    irqchip = "split"

    def command_line(self):
        scratch = "/run/scratch" if os.path.isdir("/run/scratch") else self.folder.name
        disk = guestimage.copy_disk(scratch + "/disk.raw")
        line = stock_arguments(self.kernel, self.disk, cpus=self.cpus, irqchip=self.irqchip)
        line[line.index("-blockdev") + 1] = ("driver=file,node-name=disk0,cache.direct=on,aio=io_uring,filename="
                                             + disk)
        line[line.index("virtio-blk-pci,drive=disk0")] = "virtio-blk-pci,drive=disk0,iothread=t0,packed=on,num-queues=2"
        return ["-object", "iothread,id=t0"] + line + [
            "-blockdev", "driver=null-co,node-name=disk1,size=67108864,read-zeroes=on",
            "-device", "virtio-blk-pci,drive=disk1,disable-modern=off,disable-legacy=off,serial=second"]

    def test_boots(self):
        equal(self.machine.shell("uname -r").strip(), self.kernel.version, "the guest's kernel")

    def test_dmesg(self):
        self.no_new_complaints()

    def test_timers(self):
        devices = self.machine.shell("cat /sys/devices/system/clockevents/broadcast/current_device; "
                                     "cat /sys/devices/system/clocksource/clocksource0/available_clocksource; "
                                     "cat /proc/interrupts")
        check("hpet" in devices, "no HPET:\n" + devices)
        check("timer" in devices, "no interrupt of a timer on ISA line 0:\n" + devices)

    def test_disk(self):
        self.machine.shell("seq 100000 >/root/numbers; sync; echo 3 >/proc/sys/vm/drop_caches")
        equal(self.machine.shell("md5sum </root/numbers").split()[0], "dea9193b768319cbb4ff1a137ac03113",
              "checksum of what was written")

    def test_second_disk(self):
        equal(self.machine.shell("cat /sys/block/vdb/size").strip(), str((64 << 20) // 512), "sectors")
        equal(self.machine.shell("cat /sys/block/vdb/serial").strip(), "second", "serial")
        self.machine.shell("dd if=/dev/vdb of=/dev/null bs=1M count=8 2>/dev/null")

    def test_iothread(self):
        equal([thread["id"] for thread in self.machine.qmp("query-iothreads")], ["t0"], "iothreads")

    def test_poweroff(self):
        self.machine.type("poweroff\n")
        equal(self.machine.wait(60), 0, "exit status")


class HotPlug(Guest):
    """A disk and an entropy source behind PCI Express root ports come and go; the kernel's pciehp takes part."""
    group = 3
    arguments = ("-device", "pcie-root-port,id=port1,chassis=1", "-device", "pcie-root-port,id=port2,chassis=2")

    def setup(self):
        super().setup()
        self.image = self.folder.name + "/extra.raw"
        with open(self.image, "wb") as image:
            image.truncate(16 << 20)

    def add_disk(self, port):
        self.machine.qmp("blockdev-add", driver="file", node_name="extra", filename=self.image)
        self.machine.qmp("device_add", driver="virtio-blk-pci", id="extra-disk", bus=port, drive="extra",
                         serial="extra")
        self.in_guest("[ -b /dev/vdb ]")

    def in_guest(self, condition):
        """Until it is so in the guest."""
        self.machine.shell("for i in $(seq 300); do if %s; then break; fi; sleep 0.1; done; %s"
                           % (condition, condition))

    def remove_disk(self):
        self.machine.qmp("device_del", id="extra-disk")
        event = self.machine.qmp.wait_event("DEVICE_DELETED", 60)
        equal(event["data"]["device"], "extra-disk", "device in the event")
        self.in_guest("[ ! -e /dev/vdb ]")
        self.machine.qmp("blockdev-del", node_name="extra")

    def test_pciehp_has_the_ports(self):
        equal(self.machine.shell("ls /sys/bus/pci/slots").split(), ["1", "2"], "slots")

    def test_disk_comes(self):
        self.add_disk("port1")
        equal(self.machine.shell("cat /sys/block/vdb/serial; echo").strip(), "extra", "serial")
        self.machine.shell("seq 100000 | dd of=/dev/vdb conv=fsync 2>/dev/null")
        with open(self.image, "rb") as image:
            check(image.read(16) == b"1\n2\n3\n4\n5\n6\n7\n8\n", "the image does not hold what was written")

    def test_disk_goes(self):
        self.remove_disk()
        equal(self.machine.shell("cat /sys/bus/pci/slots/1/power").strip(), "0", "power of the slot")

    def test_disk_comes_back_and_goes_under_load(self):
        self.add_disk("port2")
        self.machine.shell("(while dd if=/dev/vdb of=/dev/null bs=64k; do :; done) >/dev/null 2>&1 & true")
        self.remove_disk()

    def test_entropy_comes_and_goes(self):
        self.machine.qmp("device_add", driver="virtio-rng-pci", id="extra-rng", bus="port1")
        self.in_guest("grep -q virtio_rng.1 /sys/class/misc/hw_random/rng_available")
        self.machine.qmp("device_del", id="extra-rng")
        self.machine.qmp.wait_event("DEVICE_DELETED", 60)

    def test_guest_switches_a_slot_off_and_on(self):
        self.add_disk("port1")
        self.machine.shell("echo 0 >/sys/bus/pci/slots/1/power")
        self.in_guest("[ ! -e /dev/vdb ]")
        self.machine.shell("echo 1 >/sys/bus/pci/slots/1/power")
        self.in_guest("[ -b /dev/vdb ]")
        self.remove_disk()

    def test_kernel_is_content(self):
        text = self.machine.shell("dmesg | grep -iE 'pciehp|pcieport|virtio' | grep -iE 'fail|error|timeout|cannot'; true")
        check(not [line for line in text.split("\n") if line and "I/O error" not in line], text)

    def test_still_fine(self):
        self.machine.type("poweroff\n")
        equal(self.machine.wait(60), 0, "exit status")
