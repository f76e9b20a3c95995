#!/usr/bin/env python3
"""Our test guests on vireo's own board: board.py VIREO PAYLOAD-FOLDER.

Each case starts vireo with a payload as its -kernel and looks at the serial
port, the image, QMP and the exit status.  77: there is no /dev/kvm.
"""
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import unittest

VIREO, PAYLOADS = (os.path.abspath(a) for a in sys.argv[1:3])
LONG_S = 60


class Vireo:
    """A running vireo with a serial port in a file and a QMP socket."""

    def __init__(self, payload, *args):
        self.folder = tempfile.TemporaryDirectory()
        self.serial = os.path.join(self.folder.name, "serial")
        qmp = os.path.join(self.folder.name, "qmp")
        self.process = subprocess.Popen(
            [VIREO, "-nodefaults", "-display", "none", "-no-user-config", "-m", "64", "-cpu",
             "host,check=off", "-kernel", os.path.join(PAYLOADS, payload + ".elf"),
             "-serial", "file:" + self.serial, "-qmp", f"unix:{qmp},server=on,wait=off", *args],
            stderr=subprocess.PIPE, text=True)
        self.qmp_path, self.socket = qmp, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        if self.socket:
            self.socket.close()
        self.folder.cleanup()

    def wait(self):
        """Until it ends by itself: exit status, serial text, messages."""
        _, messages = self.process.communicate(timeout=LONG_S)
        with open(self.serial, encoding="ascii", errors="replace") as f:
            return self.process.returncode, f.read(), messages

    def connect(self):
        deadline = time.monotonic() + LONG_S
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(self.qmp_path)
                break
            except OSError:
                self.socket.close()
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                select.select([], [], [], 0.01)
        self.socket.settimeout(LONG_S)
        self.lines = self.socket.makefile("rw")
        json.loads(self.lines.readline())
        self.command("qmp_capabilities")

    def command(self, name, **arguments):
        """The reply; events that come before it are put aside."""
        self.lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.lines.flush()
        while True:
            message = json.loads(self.lines.readline())
            if "event" not in message:
                return message

    def wait_status(self, status):
        deadline = time.monotonic() + LONG_S
        while True:
            now = self.command("query-status")["return"]["status"]
            if now == status or time.monotonic() > deadline:
                return now
            select.select([], [], [], 0.01)


def pattern(sector, salt):
    return bytes((sector * 7 + i * 3 + salt) & 0xff for i in range(512))


class Board(unittest.TestCase):
    def run_good(self, payload, *args):
        with Vireo(payload, "-no-reboot", *args) as v:
            status, serial, messages = v.wait()
        self.assertIn("END 600d\n", serial, messages)
        self.assertEqual(status, 0, messages)

    def test_timer(self):
        self.run_good("timer")

    def test_timer_split_irqchip(self):
        self.run_good("timer", "-machine", "q35,kernel-irqchip=split")

    def test_pic_split_irqchip(self):
        self.run_good("pic", "-machine", "q35,kernel-irqchip=split")
        self.run_good("pic", "-machine", "q35,kernel-irqchip=split", "-smp", "2")

    def test_no_pit(self):
        for absent, arguments in (False, ""), (True, ",pit=off"):
            with Vireo("fault", "-append", "3", "-machine", "q35" + arguments) as v:
                v.connect()
                children = [c["name"] for c in v.command("qom-list", path="/machine")["return"]]
                self.assertEqual("i8254" not in children, absent)
                v.command("quit")
                self.assertEqual(v.wait()[0], 0)

    def test_no_pic_in_the_kernel(self):
        with Vireo("pic", "-machine", "q35,pic=off") as v:
            _, messages = v.process.communicate(timeout=LONG_S)
        self.assertEqual(v.process.returncode, 1)
        self.assertIn("kernel-irqchip=split", messages)

    def test_pit_by_the_ioapic(self):
        self.run_good("pit", "-machine", "q35,hpet=off")

    def test_pit_by_the_ioapic_split_irqchip(self):
        self.run_good("pit", "-machine", "q35,kernel-irqchip=split")
        self.run_good("pit", "-machine", "q35,kernel-irqchip=split,pic=off")

    def test_memory_out_of_the_cpus_reach(self):
        memory = ("-object", "memory-backend-ram,id=pc.ram,size=66G,reserve=off", "-m", "66G",
                  "-machine", "memory-backend=pc.ram")
        with Vireo("timer", *memory, "-cpu", "qemu64,check=off,phys-bits=36") as v:
            _, messages = v.process.communicate(timeout=LONG_S)
        self.assertEqual(v.process.returncode, 1)
        self.assertIn("36 bits of physical address", messages)
        self.assertIn("-m", messages)

    def test_two_cpus(self):
        self.run_good("smp", "-smp", "2")

    def disk(self, *args):
        with tempfile.NamedTemporaryFile() as image:
            for sector in range(64):
                image.write(pattern(sector, 1))
            image.truncate(1 << 20)
            image.flush()
            self.run_good("blk", "-drive", f"file={image.name},if=none,id=d,format=raw",
                          "-device", "virtio-blk-pci,drive=d", *args)
            image.seek(128 * 512)
            for sector in range(128, 136):
                self.assertEqual(image.read(512), pattern(sector, 2))
            self.assertEqual(image.read(), bytes((1 << 20) - 136 * 512))

    def test_virtio_blk(self):
        self.disk()

    def test_virtio_blk_split_irqchip(self):
        self.disk("-machine", "q35,kernel-irqchip=split")

    def test_virtio_blk_iothread(self):
        with tempfile.NamedTemporaryFile() as image:
            for sector in range(64):
                image.write(pattern(sector, 1))
            image.truncate(1 << 20)
            image.flush()
            self.run_good("blk", "-object", "iothread,id=io0",
                          "-drive", f"file={image.name},if=none,id=d,format=raw",
                          "-device", "virtio-blk-pci,drive=d,iothread=io0")

    def test_internal_error(self):
        with Vireo("fault", "-append", "1") as v:
            v.connect()
            self.assertEqual(v.wait_status("internal-error"), "internal-error")
            self.assertIn("error", v.command("cont"))
            self.assertIn("return", v.command("quit"))
            status, _, messages = v.wait()
        self.assertEqual(status, 0)
        self.assertIn("KVM internal error", messages)
        self.assertIn("RIP=00000000e0000000", messages)

    def test_triple_fault_with_no_reboot(self):
        with Vireo("fault", "-append", "2", "-no-reboot") as v:
            self.assertEqual(v.wait()[0], 0)

    def test_stop_and_cont(self):
        with Vireo("compute", "-append", "42") as v:
            v.connect()
            for _ in range(20):
                self.assertIn("return", v.command("stop"))
                self.assertEqual(v.command("query-status")["return"]["status"], "paused")
                self.assertIn("return", v.command("cont"))
            self.assertIn("return", v.command("quit"))
            self.assertEqual(v.wait()[0], 0)

    def test_monitor_looks_at_cpus_and_ports(self):
        with Vireo("fault", "-append", "3", "-S", "-smp", "2") as v:
            v.connect()

            def hmp(line, **more):
                return v.command("human-monitor-command", **{"command-line": line}, **more)["return"]
            start = hmp("p $rip")
            self.assertRegex(start, r"^0x[0-9a-f]+\r\n$")
            self.assertEqual(hmp("p/x $eip+$rip-$rip"), start)
            self.assertEqual(hmp("p/d $cr0&1"), "1\r\n")
            self.assertIn("unknown register '$rup'", hmp("p $rup"))
            self.assertTrue(hmp("info registers").startswith("CPU#0"))
            self.assertTrue(hmp("info registers 1").startswith("CPU#1"))
            self.assertIn("CPU#2 not available", hmp("info registers 2"))
            self.assertTrue(hmp("info registers", **{"cpu-index": 1}).startswith("CPU#1"))
            code = hmp("x/2xw $pc").split(":")[1]
            self.assertEqual(hmp("xp/2xw $pc").split(":")[1], code)
            hmp("o/b 0x70 0xf")             # the shutdown status byte of the RTC's memory
            hmp("o/b 0x71 0x5a")
            self.assertEqual(hmp("i/b 0x71"), "portb[0x0071] = 0x5a\r\n")
            self.assertEqual(hmp("i 0x3e0"), "portl[0x03e0] = 0xffffffff\r\n")
            self.assertIn("ports are 0 to 0xffff", hmp("i 0x10000"))
            self.assertEqual(hmp("sum 0x10 16"), "00000\r\n")
            self.assertRegex(hmp("sum $pc 64"), r"^[0-9]{5}\r\n$")
            self.assertIn("there is no memory", hmp("sum 0x70000000 16"))

    def test_a_serial_port_gets_another_back_end(self):
        with Vireo("fault", "-append", "3", "-S") as v:
            v.connect()
            other = os.path.join(v.folder.name, "other")
            new = {"type": "file", "data": {"out": other}}
            self.assertEqual(v.command("chardev-change", id="serial0", backend=new), {"return": {}})
            for letter in "0x41", "0x42":
                v.command("human-monitor-command", **{"command-line": "o/b 0x3f8 " + letter})
            deadline = time.monotonic() + LONG_S
            while os.path.getsize(other) < 2 and time.monotonic() < deadline:
                v.command("query-status")
            with open(other, encoding="ascii") as f:
                self.assertEqual(f.read(), "AB")
            self.assertEqual([c["frontend-open"] for c in v.command("query-chardev")["return"]
                              if c["label"] == "serial0"], [True])
            monitor = [c["label"] for c in v.command("query-chardev")["return"]
                       if c["label"] != "serial0"]
            self.assertIn("error", v.command("chardev-change", id=monitor[0], backend=new))

    def test_cpu_in_the_object_tree(self):
        with Vireo("fault", "-append", "3", "-smp", "2,cores=2") as v:
            v.connect()
            cpus = v.command("query-cpus-fast")["return"]
            self.assertEqual([c["cpu-index"] for c in cpus], [0, 1])
            path = cpus[1]["qom-path"]
            names = {p["name"]: p["type"] for p in v.command("qom-list", path=path)["return"]}
            self.assertGreater(sum(t == "bool" for t in names.values()), 250)
            for name, kind in names.items():
                if kind == "bool":
                    value = v.command("qom-get", path=path, property=name)["return"]
                    self.assertIsInstance(value, bool, name)
            self.assertEqual(v.command("qom-get", path=path, property="core-id")["return"], 1)
            self.assertIsInstance(
                v.command("qom-get", path=path, property="unavailable-features")["return"], list)
            v.command("quit")
            self.assertEqual(v.wait()[0], 0)


if __name__ == "__main__":
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("skipped: there is no /dev/kvm that may be used")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
