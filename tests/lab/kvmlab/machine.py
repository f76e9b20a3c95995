"""A running virtual machine, as a test sees it: its serial console and its QMP socket."""
import base64
import os
import re
import select
import shutil
import subprocess
import tempfile
import time

from . import guestimage
from .qmp import Qmp

UP = "guest: up"
PROMPT = "guest# "
ASK_CURSOR = "\x1b[6n"  # busybox's shell asks the terminal where its cursor is


class Timeout(Exception):
    """What was waited for did not come."""


def stock_arguments(kernel, disk, commands=None, append="", cpus=1, memory=512, cpu="host", off=False,
                    irqchip="on"):
    """The usual command line: a stock kernel with a virtio disk and entropy source on a q35 machine."""
    line = "console=ttyS0 root=/dev/vda quiet mitigations=off panic=-1 " + append
    if commands:
        line += " vireo.run=" + base64.b64encode(commands.encode()).decode()
    if off:
        line += " vireo.off"
    return ["-machine", "q35,accel=kvm,kernel-irqchip=" + irqchip, "-cpu", cpu, "-m", str(memory), "-smp", str(cpus),
            "-kernel", kernel.bzimage, "-initrd", guestimage.initramfs(kernel), "-append", line,
            "-blockdev", "driver=file,node-name=disk0,filename=" + disk,
            "-device", "virtio-blk-pci,drive=disk0",
            "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0",
            "-no-reboot"]


class Machine:
    """Starts a VMM with its serial port on our pipe and a QMP socket.  Use it in a `with`."""

    def __init__(self, vmm, arguments, serial=True, qmp=True, echo=None):
        """echo: a file that the console is copied to as it comes."""
        self.folder = tempfile.mkdtemp(prefix="vireo-test-")
        self.socket_path = self.folder + "/qmp"
        self.errors_path = self.folder + "/stderr"
        self.console = ""
        self.seen = 0
        self.echo = echo
        self._qmp = None
        line = [vmm, "-nodefaults", "-display", "none"] + list(arguments)
        if serial:
            line += ["-serial", "stdio"]
        if qmp:
            line += ["-qmp", "unix:%s,server=on,wait=off" % self.socket_path]
        self.line = line
        with open(self.errors_path, "w") as errors:
            self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=errors)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._qmp:
            self._qmp.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        shutil.rmtree(self.folder)

    @property
    def qmp(self):
        if not self._qmp:
            self._qmp = Qmp(self.socket_path)
        return self._qmp

    def errors(self):
        with open(self.errors_path, errors="replace") as file:
            return file.read()

    def expect(self, pattern, timeout=60):
        """Read the console until this regular expression has come -> the match.

        Each call looks only at what came after the last match.
        """
        limit = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.console[self.seen:], re.MULTILINE)
            if found:
                self.seen += found.end()
                return found
            if not self._read(limit - time.monotonic()):
                raise Timeout("no %r on the console%s" % (pattern, self.describe()))

    def _read(self, seconds):
        """Read more of the console -> False at its end or when the time is over."""
        if seconds <= 0 or not select.select([self.process.stdout], [], [], seconds)[0]:
            return False
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        text = data.decode(errors="replace").replace("\r", "").replace(ASK_CURSOR, "")
        self.console += text
        if self.echo:
            self.echo.write(text)
            self.echo.flush()
        return bool(data)

    def describe(self):
        """For a failure's report: the VMM's state, its errors, and the console's end."""
        status = self.process.poll()
        state = "still runs" if status is None else "ended with %d" % status
        return "; the VMM %s\n--- stderr\n%s--- console\n%s" % (state, self.errors(), self.console[-3000:])

    def wait_up(self, timeout=300):
        """Wait until the guest's start script is done and its shell asks."""
        self.expect(UP, timeout)
        self.expect(re.escape(PROMPT), timeout)

    def type(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def shell(self, command, timeout=120, check=True):
        """Run a command in the guest's shell -> what it printed."""
        # what is typed comes back, wrapped at 80 columns; the quotes let only the answer match
        self.type("echo '[be''gin]'; %s; echo '[sta''tus='$?]\n" % command)
        found = self.expect(r"\[begin\]\n((?:.|\n)*?)\[status=(\d+)\]\n", timeout)
        self.expect(re.escape(PROMPT), timeout)
        if check and found.group(2) != "0":
            raise AssertionError("%r in the guest ended with %s:\n%s" % (command, found.group(2), found.group(1)))
        return found.group(1)

    def wait(self, timeout=90):
        """Wait for the VMM to end -> its exit status.  The console is read to its end."""
        limit = time.monotonic() + timeout
        while self._read(limit - time.monotonic()):
            pass
        try:
            return self.process.wait(max(limit - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            raise Timeout("the VMM did not end" + self.describe()) from None
