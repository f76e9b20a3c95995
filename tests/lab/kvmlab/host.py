"""The emulated KVM host: a stock Debian kernel under QEMU's software emulation.

Its CPU is an AMD one with SVM and nested paging, so its /dev/kvm is a complete
kvm-amd.  docs/lab.md says why each flag is here and what was measured.
"""
import contextlib
import os
import secrets
import select
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import termios
import time
import tty

from .archive import Archive
from .kernels import LabError, cache_dir, fetch

HERE = os.path.dirname(os.path.abspath(__file__))

# In the initramfs: what reaches the shared root.  The rest comes by modprobe from there.
INITRAMFS_MODULES = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"]
HOST_MODULES = ["kvm-amd", "tun", "vhost_net", "vhost_vsock", "virtio_net", "virtio_blk", "ext4", "bridge",
                "veth", "virtio-rng"]

# The `-` features are what QEMU's emulation lacks of an EPYC; with them it would only warn.
CPU = ("EPYC,+svm,+npt,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,-nrip-save,"
       "-xsavec")
APPEND = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on tsc=reliable"

# The emulation of nested SVM loses an interrupt now and then.  A host that has gone idle waits for it for
# ever, as without it no timer is set; any other interrupt wakes it, and finds the lost one: so it gets one
# every second.
PULSE = 1
# What hangs all the same has given no sign of life, which comes every 5 s.
SILENCE = 90

TIMED_OUT = 124
LAB_FAILED = 125


OUT_OF_TIME = "out of time"


class Host:
    """One emulated host that runs one command."""

    def __init__(self, command, out, cpus=2, memory="3G", scratch=None, append="", qemu=(), interactive=False,
                 ports=None):
        """out: a folder that the command sees as /run/lab; scratch: size of a disk on /run/scratch.

        interactive: pass standard input on; a terminal is put in raw mode meanwhile.
        ports: virtio-serial ports by name, each a listening socket with the given path here.
        """
        self.command, self.out, self.cpus, self.memory, self.scratch = command, out, cpus, memory, scratch
        self.append, self.more = append, list(qemu)
        self.interactive, self.ports = interactive, ports or {}
        self.mark = ("--end-%s--" % secrets.token_hex(12)).encode()
        self.status = None
        self.ready_after = None

    def run(self, timeout):
        """Boot, run the command, pass on its output -> its exit status, TIMED_OUT or LAB_FAILED."""
        if not shutil.which("qemu-system-x86_64"):
            raise LabError("qemu-system-x86_64 is needed (package qemu-system-x86)")
        kernel = fetch("amd64")
        remove_old(cache_dir())
        self.began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="kvm-lab-", dir=cache_dir()) as work:
            self.console = work + "/console"
            with open(work + "/initramfs", "wb") as file:
                file.write(self._initramfs(kernel))
            machine = self._start(kernel, work)
            try:
                with contextlib.ExitStack() as terminal:
                    why = self._converse(machine, self.began + timeout, terminal)
                if why is None:
                    self.control.send(b"bye\n")
                    machine.wait(15)
                    return self.status
            except subprocess.TimeoutExpired:
                return self.status
            finally:
                if machine.poll() is None:
                    machine.kill()
                    machine.wait()
            print("kvm-lab: %s; the end of the host's console:" % why, file=sys.stderr)
            with open(self.console, errors="replace") as file:
                print(file.read()[-3000:], file=sys.stderr)
            return TIMED_OUT if why == OUT_OF_TIME else LAB_FAILED

    def _initramfs(self, kernel):
        modules = kernel.module_files(INITRAMFS_MODULES)
        archive = Archive()
        for name in ("bin", "modules", "proc", "sys", "dev", "root"):
            archive.directory(name)
        busybox = shutil.which("busybox")
        if not busybox:
            raise LabError("busybox is needed (package busybox-static)")
        archive.copy("bin/busybox", busybox, 0o755)
        for applet in ("sh", "mount", "mkdir", "insmod", "chmod", "cp", "switch_root"):
            archive.link("bin/" + applet, "busybox")
        for path in modules:
            archive.copy("modules/" + os.path.basename(path), path)
        archive.copy("init", HERE + "/host-init", 0o755)
        archive.copy("host-main", HERE + "/host-main")
        archive.text("lab.conf", "".join("%s=%s\n" % (name, shlex.quote(value)) for name, value in (
            ("KERNEL", kernel.version), ("END_MARK", self.mark.decode()),
            ("INTERACTIVE", "1" if self.interactive else ""),
            ("INITRAMFS_MODULES", " ".join(map(os.path.basename, modules))),
            ("HOST_MODULES", " ".join(HOST_MODULES)))))
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "XDG_CACHE_HOME") if name in os.environ}
        # not this machine's PATH: wrappers in it are slow on an emulated CPU
        kept.update(KVM_LAB="1", PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        archive.text("command", "".join("export %s=%s\n" % (name, shlex.quote(value))
                                        for name, value in kept.items())
                     + "cd %s || cd /\nexec %s\n" % (shlex.quote(os.getcwd()), shlex.join(self.command)))
        return archive.bytes()

    def _start(self, kernel, work):
        """Start QEMU; the three virtio-serial streams are the other ends of self.{control,streams}."""
        line = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-accel", "tcg,thread=multi,tb-size=512", "-cpu", CPU, "-machine", "pc",
                "-m", self.memory, "-smp", str(self.cpus),
                "-kernel", kernel.vmlinux, "-initrd", work + "/initramfs",
                "-append", APPEND + " " + self.append,
                "-serial", "file:" + self.console, "-device", "virtio-serial-pci",
                "-object", "rng-random,filename=/dev/urandom,id=rng", "-device", "virtio-rng-pci,rng=rng"]
        for tag, path, option in (("root", "/", ",readonly=on"), ("modules", kernel.modules, ",readonly=on"),
                                  ("out", self.out, "")):
            line += ["-fsdev", "local,id=%s,path=%s,security_model=none,multidevs=remap%s"
                     % (tag, path, option), "-device", "virtio-9p-pci,fsdev=%s,mount_tag=%s" % (tag, tag)]
        if self.scratch:
            disk = work + "/scratch"
            subprocess.run(["truncate", "-s", self.scratch, disk], check=True)
            subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,nodiscard", disk],
                           check=True)
            line += ["-drive", "if=none,id=scratch,format=raw,cache=unsafe,discard=unmap,file=" + disk,
                     "-device", "virtio-blk-pci,drive=scratch"]
        names = ("control", "out", "err", "pulse", "in")[:5 if self.interactive else 4]
        ours, theirs = zip(*(socket.socketpair() for _ in names))
        for name, end in zip(names, theirs):
            line += ["-chardev", "socket,id=%s,fd=%d" % (name, end.fileno()),
                     "-device", "virtserialport,chardev=%s,name=%s" % (name, name)]
        for name, path in self.ports.items():
            line += ["-chardev", "socket,id=%s,path=%s,server=on,wait=off" % (name, path),
                     "-device", "virtserialport,chardev=%s,name=%s" % (name, name)]
        self.control = ours[0]
        self.pulse = ours[3]
        self.typed = ours[4] if self.interactive else None
        self.streams = [Stream(ours[1], 1, self.mark), Stream(ours[2], 2, self.mark)]
        machine = subprocess.Popen(line + self.more, stdin=subprocess.DEVNULL,
                                   pass_fds=[end.fileno() for end in theirs])
        for end in theirs:
            end.close()
        return machine

    def _converse(self, machine, limit, terminal):
        """Pass on output until the command has ended -> None, or why it did not come to that.

        terminal: undone at the end; until the host is there, Ctrl-C ends it all.
        """
        words = b""
        heard = pulsed = time.monotonic()
        while self.status is None or not all(stream.ended for stream in self.streams):
            gone = machine.poll() is not None
            wanted = [stream for stream in self.streams if not stream.ended]
            if self.status is None:
                wanted.append(self.control)
                if self.typed and self.ready_after:
                    wanted.append(sys.stdin)
            readable = select.select(wanted, [], [], 0 if gone else 0.5)[0]
            for source in readable:
                if source is sys.stdin:
                    self._type()
                    continue
                if source is not self.control:
                    source.take()
                    continue
                data = self.control.recv(4096)
                if not data:
                    machine.wait()
                    return "the host ended by itself, its QEMU with status %s" % machine.returncode
                words += data
                heard = time.monotonic()
                while b"\n" in words:
                    word, words = words.split(b"\n", 1)
                    if word == b"ready":
                        self.ready_after = time.monotonic() - self.began
                        terminal.enter_context(raw_terminal(self.interactive))
                    elif word.startswith(b"exit "):
                        self.status = int(word[5:])
            if gone and not readable:
                return "the host ended by itself, its QEMU with status %s" % machine.returncode
            if time.monotonic() > pulsed + PULSE:
                pulsed = time.monotonic()
                with contextlib.suppress(OSError):  # nobody reads it yet, or any more
                    self.pulse.send(b".", socket.MSG_DONTWAIT)
            if time.monotonic() > heard + SILENCE:
                return "the host hangs: no word for %d s" % SILENCE
            if time.monotonic() > limit:
                return OUT_OF_TIME
        return None

    def _type(self):
        data = os.read(sys.stdin.fileno(), 4096)
        if data:
            self.typed.sendall(data)
        else:
            self.typed = None


def remove_old(folder):
    """Remove what runs that were killed have left, a day later."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith("kvm-lab-") and os.path.getmtime(path) < time.time() - 86400:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def raw_terminal(wanted):
    """While in here, what is typed is passed on key by key."""
    if not wanted or not os.isatty(0):
        yield
        return
    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


class Stream:
    """Copies what comes from a socket to a file descriptor, up to the end mark."""

    def __init__(self, source, target, mark):
        self.source, self.target, self.mark = source, target, mark
        self.held = b""
        self.ended = False

    def fileno(self):
        return self.source.fileno()

    def take(self):
        try:
            data = self.source.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self.held += data
        end = self.held.find(self.mark)
        if end >= 0 or not data:
            self._pass_on(end if end >= 0 else len(self.held))
            self.ended = True
            return
        # hold back what may be the mark's beginning
        keep = next(n for n in range(len(self.mark) - 1, -1, -1) if self.held.endswith(self.mark[:n]))
        self._pass_on(len(self.held) - keep)

    def _pass_on(self, count):
        data, self.held = memoryview(self.held)[:count], self.held[count:]
        while data:
            data = data[os.write(self.target, data):]
