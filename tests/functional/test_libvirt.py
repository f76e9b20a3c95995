"""An unmodified libvirt with vireo as its emulator: the life of a domain, by virsh.

libvirt's QEMU driver runs inside of virsh (qemu:///embed), with all it keeps in a folder of ours: neither
a daemon nor the host's own domains are touched.
"""
import contextlib
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from xml.etree import ElementTree

import pvhguest
from case import Case, Skip, check, equal

NAME = "vireo-test"
UUID = "8b5e0d5c-9f0e-4b63-9c22-0b6a52d2b1a8"
DOMAIN = """
<domain type='kvm'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <iothreads>1</iothreads>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{folder}/kernel</kernel></os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough'/>
  <on_crash>preserve</on_crash>
  <devices>
    <emulator>{vmm}</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' iothread='1' discard='unmap'/>
      <source file='{folder}/disk.raw'/><target dev='vda' bus='virtio'/><serial>D1</serial>
    </disk>
    <controller type='usb' model='none'/>
    <controller type='pci' index='8' model='pcie-root-port'/>
    <serial type='pty'><log file='{folder}/serial.log' append='off'/></serial>
    <memballoon model='none'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <panic model='isa'/>
  </devices>
</domain>
"""
# Nothing of the host's: no log daemon, no cgroups, no other user.
SETTINGS = """
stdio_handler = "file"
cgroup_controllers = []
security_driver = "none"
namespaces = []
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
"""
TIMEOUT = 60
MARK = "end-of-command-%d"


def with_libvirts_user(folder, line):
    """The command line, where it sees the user that Debian's libvirt looks up before it reads that it is to be
    another one.  Only the daemon's package makes it, which nobody needs here."""
    wrapped = line
    for name, entry in (("passwd", "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin"),
                        ("group", "libvirt-qemu:x:64055:")):
        with open("/etc/" + name) as file:
            text = file.read()
        if re.search("^libvirt-qemu:", text, re.MULTILINE):
            continue
        path = "%s/%s" % (folder, name)
        with open(path, "w") as file:
            file.write(text + entry + "\n")
        wrapped = ["/bin/sh", "-c", "/bin/mount --bind %s /etc/%s && exec \"$@\"" % (path, name), "sh", *wrapped]
    return line if wrapped is line else ["/usr/bin/unshare", "--mount", *wrapped]


class Virsh:
    """A virsh that stays: one command after the other, and what each of them said."""

    def __init__(self, folder):
        # Without QEMU in the PATH only the emulator that a domain names is probed.
        environment = {"LC_ALL": "C", "PATH": "/usr/sbin:/sbin", "HOME": folder, "COLUMNS": "9999",
                       "LIBVIRT_LOG_OUTPUTS": "3:file:%s/libvirt.log" % folder}
        line = with_libvirts_user(folder, [shutil.which("virsh"), "--quiet", "--connect",
                                           "qemu:///embed?root=%s/libvirt" % folder])
        self.process = subprocess.Popen(line, env=environment,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        self.text = ""
        self.count = 0

    def __call__(self, command):
        """Its output; an AssertionError if it failed."""
        self.count += 1
        mark = MARK % self.count
        self.process.stdin.write(("%s\necho %s\n" % (command, mark)).encode())
        self.process.stdin.flush()
        output = self._read_to(mark)
        lines = [line for line in output.splitlines() if not line.startswith("virsh #")]
        output = "\n".join(line for line in lines if line.strip()).strip()
        check(not re.search("^error:", output, re.MULTILINE), "virsh %s: %s" % (command, output))
        return output

    def _read_to(self, mark):
        limit = time.monotonic() + TIMEOUT
        while not re.search("^%s" % mark, self.text, re.MULTILINE):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, limit - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            check(data, "virsh %s: %s" % ("ended" if ready else "does not answer", self.text))
            self.text += data.decode(errors="replace").replace("\r", "")
        output, self.text = re.split("^%s" % mark, self.text, maxsplit=1, flags=re.MULTILINE)
        return output

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Libvirt(Case):
    """Probe, define, start, pause, reset, resize, panic, destroy."""
    place = "any"
    domain = DOMAIN

    def make_disks(self):
        with open(self.folder + "/disk.raw", "wb") as disk:
            disk.truncate(16 << 20)

    def setup(self):
        self.folder = self.virsh = None
        if not shutil.which("virsh"):
            raise Skip("virsh is not installed")
        if os.geteuid() != 0:
            raise Skip("libvirt's embedded driver needs root")
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Skip("there is no /dev/kvm")
        self.folder = tempfile.mkdtemp(prefix="vireo-libvirt-")
        os.makedirs(self.folder + "/libvirt/etc")
        self.write("libvirt/etc/qemu.conf", SETTINGS)
        self.write("domain.xml", self.domain.format(name=NAME, uuid=UUID, folder=self.folder, vmm=self.vmm))
        pvhguest.write(self.folder + "/kernel")
        self.make_disks()
        self.virsh = Virsh(self.folder)

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w") as file:
            file.write(text)

    def teardown(self):
        if self.virsh:
            if self.virsh.process.poll() is None:
                self.virsh.process.stdin.write(b"destroy %s\n" % NAME.encode())
            self.virsh.close()
        if self.folder:
            shutil.rmtree(self.folder)

    def state(self):
        return self.virsh("domstate %s --reason" % NAME)

    def console(self):
        try:
            with open(self.folder + "/serial.log") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def until(self, function, what):
        limit = time.monotonic() + TIMEOUT
        while not function():
            check(time.monotonic() < limit, "%s: in vain; the console says %r" % (what, self.console()))
            time.sleep(0.05)

    def until_up(self, times):
        self.until(lambda: self.console().count("guest: up") >= times, "the guest comes up")

    def test_capabilities(self):
        text = self.virsh("domcapabilities --emulatorbin %s --virttype kvm --machine q35" % self.vmm)
        found = ElementTree.fromstring(text)
        equal(found.findtext("machine"), "pc-q35-1.0", "the machine type")
        modes = {mode.get("name"): mode.get("supported") for mode in found.findall("cpu/mode")}
        equal(modes["host-passthrough"], "yes", "host-passthrough")
        equal(found.find("iothreads").get("supported"), "yes", "iothreads")

    def test_define_and_start(self):
        self.virsh("define %s/domain.xml" % self.folder)
        self.virsh("start %s --paused" % NAME)
        equal(self.state(), "paused (user)", "state")
        equal(self.console(), "", "the console of a guest that has not run")

    def test_run_pause_and_reset(self):
        self.virsh("resume %s" % NAME)
        self.until_up(1)
        check(self.state().startswith("running"), self.state())
        self.virsh("suspend %s" % NAME)
        equal(self.state(), "paused (user)", "state")
        self.virsh("reset %s" % NAME)
        self.virsh("resume %s" % NAME)
        self.until_up(2)

    def test_cpus_and_iothreads(self):
        stats = dict(line.strip().split("=", 1) for line in self.virsh("domstats %s" % NAME).splitlines()
                     if "=" in line)
        equal(stats["vcpu.current"], "2", "vcpu.current")
        equal(stats["iothread.count"], "1", "iothread.count")
        equal(stats["block.0.name"], "vda", "the disk's name")
        check("0-" in self.virsh("iothreadinfo %s" % NAME), "iothreadinfo")
        self.virsh("vcpupin %s 0 0" % NAME)
        self.virsh("iothreadadd %s 2" % NAME)
        check("\n 2 " in self.virsh("iothreadinfo %s" % NAME), "no second iothread")
        self.virsh("iothreaddel %s 2" % NAME)

    def test_disk(self):
        info = self.virsh("domblkinfo %s vda" % NAME)
        equal(re.search(r"Capacity:\s+(\d+)", info)[1], str(16 << 20), "capacity")
        self.virsh("blockresize %s vda 32M" % NAME)
        equal(os.path.getsize(self.folder + "/disk.raw"), 32 << 20, "the file's size")
        check("rd_req" in self.virsh("domblkstat %s vda" % NAME), "domblkstat")

    def disks(self):
        return self.virsh("domblklist %s" % NAME).split()

    def test_disk_is_attached_and_detached(self):
        """To a guest that does not know hot-plug; HotPlug has one that does."""
        with open(self.folder + "/second.raw", "wb") as disk:
            disk.truncate(1 << 20)
        for _ in range(2):
            self.virsh("attach-disk %s %s/second.raw vdb --targetbus virtio --subdriver raw" % (NAME, self.folder))
            check("vdb" in self.disks(), "no disk vdb")
            equal(re.search(r"Capacity:\s+(\d+)", self.virsh("domblkinfo %s vdb" % NAME))[1], str(1 << 20), "capacity")
            self.virsh("detach-disk %s vdb" % NAME)
            self.until(lambda: "vdb" not in self.disks(), "the disk goes")
        check("vda" in self.disks(), "no disk vda")

    def test_monitor(self):
        reply = self.virsh("qemu-monitor-command %s --hmp 'info status'" % NAME)
        equal(reply, "VM status: running", "info status")

    def test_panic(self):
        with open(self.virsh("ttyconsole %s" % NAME), "wb", buffering=0) as terminal:
            terminal.write(b"p")
            self.until(lambda: self.state() == "crashed (panicked)", "the panic is seen")

    def test_destroy_and_start_again(self):
        self.virsh("destroy %s" % NAME)
        equal(self.state(), "shut off (destroyed)", "state")
        self.virsh("start %s" % NAME)
        self.until_up(1)
        self.virsh("destroy %s" % NAME)
        self.virsh("undefine %s" % NAME)
        equal(self.virsh("list --all --name"), "", "domains left")
