"""Jobs on a disk that a stock guest writes to and verifies."""
import subprocess
import time

from case import check, equal
from test_stock import Guest

BLOCK_KIB, BLOCKS, PATTERNS = 16, 512, 13
# In the guest: patterns go to the blocks in a scattered order, past the page cache; after every write one is
# read that was written before.  Processes are dear in the lab: a turn takes three.
WRITER = r"""
is() { read k </tmp/at/$1; dd if=/dev/vdb bs=%(kib)dk skip=$1 count=1 iflag=direct 2>/dev/null | cmp -s - /tmp/p$k; }
write_all() {
    n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1)); at=$((n * 37 %% %(blocks)d)); old=$(((n + 1) / 2 * 37 %% %(blocks)d)); p=$((n %% %(patterns)d))
        dd if=/tmp/p$p of=/dev/vdb bs=%(kib)dk seek=$at conv=notrunc oflag=direct 2>/dev/null || echo $at >>/tmp/bad
        echo $p >/tmp/at/$at
        is $old || echo $old >>/tmp/bad
        echo $n >>/tmp/count
    done
    touch /tmp/stopped
}
wait_writes() { n=$(wc -l </tmp/count); while [ $(wc -l </tmp/count) -lt $((n + $1)) ]; do sleep 0.1; done; cat /tmp/bad; }
for k in $(seq 0 %(last)d); do yes "pattern $k" | head -c %(bytes)d >/tmp/p$k; done
mkdir /tmp/at; touch /tmp/count /tmp/bad
""" % {"kib": BLOCK_KIB, "bytes": BLOCK_KIB << 10, "blocks": BLOCKS, "patterns": PATTERNS, "last": PATTERNS - 1}


class DiskJobs(Guest):
    """One after the other, on one disk, while the guest goes on."""
    group = 1

    def path(self, name):
        return "%s/%s" % (self.folder.name, name)

    def image(self, name, node=None):
        """A new image of the disk's size, and its node without a backing node."""
        self.run("qemu-img", "create", "-q", "-f", "qcow2", self.path(name), "%dk" % (BLOCK_KIB * BLOCKS))
        if node:
            self.machine.qmp("blockdev-add", driver="qcow2", node_name=node, backing=None,
                             file={"driver": "file", "filename": self.path(name)})

    @staticmethod
    def run(*line):
        done = subprocess.run(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check(done.returncode == 0, "%s: %s" % (" ".join(line), done.stdout))

    def command_line(self):
        self.image("disk.qcow2")
        return super().command_line() + [
            "-object", "iothread,id=io0",
            "-object", '{"qom-type": "throttle-group", "id": "limits", "limits": {}}',
            "-blockdev", "driver=qcow2,node-name=disk,file.driver=file,file.filename=" + self.path("disk.qcow2"),
            "-blockdev", "driver=throttle,node-name=top,throttle-group=limits,file=disk",
            "-device", "virtio-blk-pci,id=vdb,drive=top,iothread=io0"]

    def setup(self):
        super().setup()
        for line in WRITER.strip().split("\n"):
            self.machine.type(line + "\n")
        self.machine.shell("[ -b /dev/vdb ]; write_all & true")

    def guest_goes_on(self, writes=4):
        equal(self.machine.shell("wait_writes %d" % writes), "", "blocks that were wrong")

    def until(self, job, status):
        """Until the job's state was this."""
        limit = time.monotonic() + 120
        while True:
            data = self.machine.qmp.wait_event("JOB_STATUS_CHANGE", max(0.1, limit - time.monotonic()))["data"]
            check(data["status"] != "aborting", "job %s failed: %r" % (job, self.machine.qmp.events))
            if (data["id"], data["status"]) == (job, status):
                return

    def frozen(self, name, command, **arguments):
        """Give a command while the machine stands still, and keep what the disk held then."""
        machine = self.machine
        machine.qmp("stop")
        machine.qmp("block-dirty-bitmap-add", node="disk", name=name)
        machine.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": machine.folder + "/nbd"}})
        machine.qmp("block-export-add", type="nbd", id="x", node_name="disk", name="x")
        self.run("qemu-img", "convert", "-O", "raw", "nbd+unix:///x?socket=" + machine.folder + "/nbd",
                 self.path(name))
        machine.qmp("nbd-server-stop")
        machine.qmp(command, **arguments)
        machine.qmp("cont")

    def same(self, image, reference):
        self.run("qemu-img", "compare", "-U", "-f", "qcow2", "-F", "raw", self.path(image), self.path(reference))

    def test_guest_writes(self):
        self.guest_goes_on()

    def test_snapshot_and_active_commit(self):
        qmp = self.machine.qmp
        qmp("blockdev-snapshot-sync", node_name="disk", snapshot_file=self.path("overlay"),
            snapshot_node_name="overlay")
        self.guest_goes_on(2)
        qmp("block-commit", job_id="commit", device="overlay")
        self.until("commit", "ready")
        self.guest_goes_on()
        qmp("job-complete", id="commit")
        self.until("commit", "null")
        self.guest_goes_on()

    def test_backups(self):
        qmp = self.machine.qmp
        self.image("backup", "backup")
        self.frozen("monday", "blockdev-backup", job_id="full", device="disk", target="backup", sync="full")
        self.until("full", "null")
        self.same("backup", "monday")
        self.frozen("tuesday", "blockdev-backup", job_id="increment", device="disk", target="backup",
                    sync="incremental", bitmap="monday")
        self.until("increment", "null")
        qmp("blockdev-del", node_name="backup")
        self.same("backup", "tuesday")

    def test_throttling(self):
        self.machine.qmp("qom-set", path="/objects/limits", property="limits", value={"iops-total": 50})
        self.guest_goes_on(2)
        self.machine.qmp("qom-set", path="/objects/limits", property="limits", value={"iops-total": 0})
        self.guest_goes_on(2)

    def test_internal_snapshot(self):
        qmp = self.machine.qmp
        qmp("blockdev-snapshot-internal-sync", device="disk", name="s")
        self.guest_goes_on(2)
        equal(qmp("blockdev-snapshot-delete-internal-sync", device="disk", name="s")["name"], "s", "name")

    def test_snapshot_and_stream(self):
        qmp = self.machine.qmp
        self.image("second", "second")
        qmp("blockdev-snapshot", node="disk", overlay="second")
        self.guest_goes_on(2)
        qmp("block-stream", job_id="stream", device="second")
        self.until("stream", "null")
        qmp("blockdev-del", node_name="disk")
        self.guest_goes_on()

    def test_mirror_and_pivot(self):
        qmp = self.machine.qmp
        self.image("moved", "moved")
        qmp("blockdev-mirror", job_id="mirror", device="second", target="moved", sync="full")
        self.until("mirror", "ready")
        self.guest_goes_on()
        qmp("job-complete", id="mirror")
        self.until("mirror", "null")
        qmp("blockdev-del", node_name="second")
        self.guest_goes_on()

    def test_all_is_there(self):
        machine = self.machine
        machine.shell("touch /tmp/stop; while [ ! -e /tmp/stopped ]; do sleep 0.1; done")
        equal(machine.shell("cat /tmp/bad"), "", "blocks that were wrong")
        written = dict(line.split(":") for line in machine.shell("cd /tmp/at; grep . *; cd /").split())
        check(len(written) > 20, "the guest has hardly written")
        machine.type("poweroff\n")
        equal(machine.wait(60), 0, "exit status")
        self.run("qemu-img", "convert", "-O", "raw", self.path("moved"), self.path("raw"))
        with open(self.path("raw"), "rb") as image:
            data = image.read()
        for block in range(BLOCKS):
            pattern = written.get(str(block))
            line = b"pattern %s\n" % pattern.encode() if pattern else b"\0"
            size = BLOCK_KIB << 10
            check(data[block * size:(block + 1) * size] == (line * size)[:size], "block %d is not %r" % (block, line))
        for name in ("moved", "second", "backup", "disk.qcow2"):
            self.run("qemu-img", "check", "-q", self.path(name))
