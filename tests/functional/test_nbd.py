"""vireo-nbd and the kernel's NBD client: an image becomes a block device of the host."""
import os
import socket
import subprocess
import tempfile
import time

from case import Case, Skip, check, equal

MiB = 1 << 20
TIMEOUT = 60


class KernelNbd(Case):
    """/dev/nbd0 and /dev/nbd1 of the lab's host."""

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        self.nbd = os.path.join(os.path.dirname(self.vmm), "vireo-nbd")
        self.image = self.folder.name + "/disk.raw"
        self.data = os.urandom(2 * MiB)
        with open(self.image, "wb") as f:
            f.write(self.data)
            f.truncate(16 * MiB)
        if not os.environ.get("KVM_LAB"):
            self.broken = Skip("only the lab's kernel is ours to try it on")
            raise self.broken                      # and none of the tests
        subprocess.run(["modprobe", "nbd"], check=True)

    def teardown(self):
        for device in ("/dev/nbd0", "/dev/nbd1"):
            if os.path.exists(device):
                self.run("-d", device)
        self.folder.cleanup()

    def run(self, *arguments):
        # Its standard error would stay open in the server that it leaves behind, were it not daemonized.
        return subprocess.run([self.nbd, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False)

    def connect(self, device, *arguments):
        done = self.run("-c", device, "-f", "raw", "--pid-file", self.folder.name + "/pid", *arguments, self.image)
        equal((done.returncode, done.stderr), (0, ""), "what --connect says")

    def sectors(self, name):
        with open("/sys/block/%s/size" % name) as f:
            return int(f.read())

    def until(self, condition, what):
        limit = time.monotonic() + TIMEOUT
        while not condition():
            check(time.monotonic() < limit, "never: " + what)
            time.sleep(0.05)

    def gone(self):
        return not os.path.exists(self.folder.name + "/pid")

    def test_write_and_read(self):
        self.connect("/dev/nbd0")
        equal(self.sectors("nbd0"), 16 * MiB // 512, "sectors")     # at once: it was waited for
        with open("/dev/nbd0", "r+b") as f:
            check(f.read(2 * MiB) == self.data, "the device does not hold what the image does")
            f.seek(8 * MiB)
            f.write(self.data)                                      # not flushed by us

    def test_a_device_in_use(self):
        done = self.run("-c", "/dev/nbd0", "-f", "raw", self.image)
        equal(done.returncode, 1, "status")
        check("busy" in done.stderr, done.stderr)

    def test_disconnect(self):
        done = self.run("-d", "/dev/nbd0")
        equal((done.returncode, done.stdout), (0, "/dev/nbd0 disconnected\n"), "what --disconnect says")
        self.until(self.gone, "the server ends")
        equal(self.sectors("nbd0"), 0, "sectors")
        with open(self.image, "rb") as f:
            f.seek(8 * MiB)
            check(f.read(2 * MiB) == self.data, "what was written last is lost")

    def test_read_only(self):
        self.connect("/dev/nbd1", "-r")
        with open("/sys/block/nbd1/ro") as f:
            equal(f.read().strip(), "1", "read-only")
        self.run("-d", "/dev/nbd1")
        self.until(self.gone, "the server ends")

    def test_beside_clients_of_tls(self):
        """They must use it; the kernel, whose connection never leaves this host, cannot."""
        with open(self.folder.name + "/keys.psk", "w") as f:
            f.write("qemu:0011223344556677\n")
        path = self.folder.name + "/sock"
        self.connect("/dev/nbd1", "-r", "-k", path, "--tls-creds", "t", "--object",
                     "tls-creds-psk,id=t,endpoint=server,dir=" + self.folder.name)
        with open("/dev/nbd1", "rb") as f:
            check(f.read(2 * MiB) == self.data, "the device does not hold what the image does")
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            equal(len(s.recv(18, socket.MSG_WAITALL)), 18, "bytes of the greeting")
            s.sendall(b"\0\0\0\3IHAVEOPT\0\0\0\1\0\0\0\0")
            equal(s.recv(10), b"", "what a client without TLS gets")
        self.run("-d", "/dev/nbd1")
        self.until(self.gone, "the server ends")

    def test_ended_by_a_signal(self):
        """Several connections; what the kernel holds back arrives before the server goes."""
        self.connect("/dev/nbd1", "--threads=3")
        with open("/dev/nbd1", "r+b") as f:
            f.seek(4 * MiB)
            f.write(self.data)
        with open(self.folder.name + "/pid") as f:
            os.kill(int(f.read()), 15)
        self.until(self.gone, "the server ends")
        self.until(lambda: not self.sectors("nbd1"), "the device goes")
        with open(self.image, "rb") as f:
            f.seek(4 * MiB)
            check(f.read(2 * MiB) == self.data, "what was written last is lost")
