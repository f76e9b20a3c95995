"""What libvirt does with the disks of a running domain: snapshots, commits, pulls, copies, thresholds."""
import re
import shutil
import subprocess

from case import Skip, check, equal
from test_libvirt import DOMAIN, NAME, Libvirt

DISK_MIB = 8


class LibvirtStorage(Libvirt):
    """One domain with a qcow2 disk, whose images come and go."""
    domain = DOMAIN.replace("type='raw'", "type='qcow2'").replace("disk.raw", "disk.qcow2")

    def make_disks(self):
        if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
            raise Skip("qemu-img and qemu-io are not installed")
        self.run("qemu-img", "create", "-q", "-f", "qcow2", self.path("disk.qcow2"), "%dM" % DISK_MIB)
        self.run("qemu-io", "-c", "write -q -P 0x51 0 3M", "-c", "write -q -P 0x52 5M 1M", self.path("disk.qcow2"))
        shutil.copy(self.path("disk.qcow2"), self.path("reference.qcow2"))

    def path(self, name):
        return "%s/%s" % (self.folder, name)

    @staticmethod
    def run(*line):
        done = subprocess.run(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check(done.returncode == 0, "%s: %s" % (" ".join(line), done.stdout))

    def source(self):
        return re.search(r"^\s*vda\s+(\S+)", self.virsh("domblklist %s" % NAME), re.MULTILINE)[1]

    def nodes(self):
        """How many block nodes the machine has: what a command has opened is closed again."""
        return self.virsh("qemu-monitor-command %s --hmp 'info block -n'" % NAME).count("libvirt-")

    def snapshot(self, name):
        self.virsh("snapshot-create-as %s %s --disk-only --atomic --no-metadata --diskspec "
                   "vda,snapshot=external,file=%s" % (NAME, name, self.path(name)))
        equal(self.source(), self.path(name), "the disk's image after the snapshot")

    def same_data(self):
        self.run("qemu-img", "compare", "-U", self.path("reference.qcow2"), self.source())

    def test_start(self):
        self.virsh("create %s" % self.path("domain.xml"))
        self.until_up(1)
        self.first_nodes = self.nodes()
        equal(self.source(), self.path("disk.qcow2"), "the disk's image")

    def test_snapshots(self):
        self.snapshot("first")
        self.snapshot("second")
        self.snapshot("third")
        self.same_data()

    def test_commit_of_the_middle(self):
        self.virsh("blockcommit %s vda --top %s --base %s --wait" % (NAME, self.path("second"), self.path("first")))
        self.same_data()

    def test_commit_of_the_active(self):
        self.virsh("blockcommit %s vda --active --pivot --wait" % NAME)
        equal(self.source(), self.path("disk.qcow2"), "the disk's image")
        equal(self.nodes(), self.first_nodes, "nodes after the commit")
        self.same_data()

    def test_commit_that_is_given_up(self):
        self.snapshot("fourth")
        self.virsh("blockcommit %s vda --active --wait --keep-overlay" % NAME)
        equal(self.source(), self.path("fourth"), "the disk's image")
        self.same_data()

    def test_pull(self):
        self.virsh("blockpull %s vda --wait" % NAME)
        self.same_data()
        equal(self.nodes(), self.first_nodes, "nodes after the pull")

    def test_copy(self):
        self.virsh("blockcopy %s vda --dest %s --format qcow2 --wait --pivot" % (NAME, self.path("copy")))
        equal(self.source(), self.path("copy"), "the disk's image")
        equal(self.nodes(), self.first_nodes, "nodes after the copy")
        self.same_data()

    def test_copy_that_is_finished(self):
        self.virsh("blockcopy %s vda --dest %s --format raw --wait --finish" % (NAME, self.path("other")))
        equal(self.source(), self.path("copy"), "the disk's image")
        self.run("qemu-img", "compare", "-U", "-F", "raw", self.path("reference.qcow2"), self.path("other"))

    def test_threshold(self):
        self.virsh("domblkthreshold %s vda 1M" % NAME)
        check("block.0.threshold=%d" % (1 << 20) in self.virsh("domstats --block %s" % NAME), "no threshold")

    def test_end(self):
        self.virsh("destroy %s" % NAME)
        for name in ("disk.qcow2", "first", "fourth", "copy"):
            self.run("qemu-img", "check", "-q", self.path(name))
