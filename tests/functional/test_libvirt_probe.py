"""What a management daemon asks of a new emulator before it uses it, and when it starts a machine.

The order and the requirements are those of libvirt 9.0: a probe of `-machine none`, one command
at a time, in which some errors are an answer and others make it refuse the program.
"""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from case import Case, check, equal
from kvmlab.qmp import Qmp, QmpError
from qmpschema import Schema

# Types whose properties are asked for; one that is not offered must be answered DeviceNotFound.
DEVICES = """virtio-blk-pci virtio-net-pci virtio-scsi-pci virtio-net-ccw virtio-scsi-ccw vfio-pci scsi-hd
    ide-hd PIIX4_PM usb-redir usb-storage kvm-pit VGA vmware-svga qxl virtio-gpu-pci virtio-gpu-device
    ICH9-LPC virtio-balloon-pci virtio-balloon-ccw virtio-balloon-device intel-iommu mch nvdimm
    pcie-root-port usb-host vhost-user-fs-device virtio-mem-pci virtio-iommu-pci""".split()
# Of these an error of any kind is a refusal, or worse.
TYPES = "memory-backend-file memory-backend-memfd max-x86_64-cpu none-machine".split()
LINE_LIMIT = 10 << 20


class Daemon:
    """The program, started as libvirt starts it; ended by the pid in its file."""

    def __init__(self, vmm, *arguments):
        self.folder = tempfile.mkdtemp(prefix="vireo-probe-")
        self.socket = self.folder + "/qmp.monitor"
        self.pidfile = self.folder + "/qmp.pid"
        self.line = [vmm, *arguments, "-qmp", "unix:%s,server=on,wait=off" % self.socket,
                     "-pidfile", self.pidfile, "-daemonize"]
        # the pipes give EOF only when the daemon has let go of them
        self.run = subprocess.run(self.line, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                                  env={"LC_ALL": "C", "PATH": os.environ["PATH"], "HOME": self.folder},
                                  check=False)
        check(self.run.returncode == 0, "the start ended with %d: %s"
              % (self.run.returncode, self.run.stderr.decode()))
        with open(self.pidfile) as file:
            self.pid = int(file.read())
        self.qmp = Qmp(self.socket)

    def end(self):
        self.qmp.close()
        os.kill(self.pid, signal.SIGTERM)
        limit = time.monotonic() + 20
        while os.path.exists("/proc/%d" % self.pid) and time.monotonic() < limit:
            time.sleep(0.01)
        alive = os.path.exists("/proc/%d" % self.pid)
        if alive:
            os.kill(self.pid, signal.SIGKILL)
        shutil.rmtree(self.folder)
        check(not alive, "SIGTERM did not end it")


def names(listed):
    return [entry["name"] for entry in listed]


class LibvirtProbe(Case):
    """-machine none: what the program is able to do."""
    place = "any"
    machine = "none,accel=kvm:tcg"

    def setup(self):
        self.daemon = Daemon(self.vmm, "-S", "-no-user-config", "-nodefaults", "-nographic",
                             "-machine", self.machine)
        self.qmp = self.daemon.qmp

    def teardown(self):
        if hasattr(self, "daemon"):
            self.daemon.end()

    def error_class(self, command, **arguments):
        """The class of the error that a command gives; None: it succeeds."""
        try:
            self.qmp(command, **arguments)
        except QmpError as error:
            return error.error["class"]
        return None

    def test_version(self):
        version = self.qmp("query-version")
        numbers = tuple(version["qemu"][part] for part in ("major", "minor", "micro"))
        check(numbers >= (4, 2, 0), "the version is %r" % (numbers,))
        check(version["package"].startswith("vireo"), "the package is %r" % version["package"])
        equal(self.qmp("query-target"), {"arch": "x86_64"}, "query-target")

    def test_commands_and_schema_agree(self):
        schema = self.qmp("query-qmp-schema")
        listed = set(names(self.qmp("query-commands")))
        equal({entry["name"] for entry in schema if entry["meta-type"] == "command"}, listed, "commands")
        needed = {"query-cpu-definitions", "query-cpu-model-expansion", "query-hotpluggable-cpus",
                  "query-iothreads", "set-action", "query-migrate-capabilities", "device_add", "blockdev-add"}
        check(needed <= listed, "no %s" % ", ".join(sorted(needed - listed)))

    def test_a_reply_fits_the_reader(self):
        self.qmp.send({"execute": "query-qmp-schema"})
        check(len(json.dumps(self.qmp.read())) < LINE_LIMIT, "query-qmp-schema is too long")

    def test_features_that_change_what_is_sent(self):
        schema = self.qmp("query-qmp-schema")
        device_add = next(entry for entry in schema if entry["name"] == "device_add")
        check("json-cli-hotplug" in device_add["features"], "device_add lacks json-cli-hotplug")
        aio = [entry for entry in schema if "io_uring" in entry.get("values", ())]
        equal(len(aio), 1, "number of enums with io_uring")

    def test_kvm(self):
        kvm = self.qmp("query-kvm")
        equal(kvm["present"], True, "present")
        equal(kvm["enabled"], os.access("/dev/kvm", os.R_OK | os.W_OK), "enabled")

    def test_types(self):
        types = set(names(self.qmp("qom-list-types")))
        wanted = {"virtio-blk-pci", "virtio-rng-pci", "isa-serial", "iothread", "rng-random", "pvpanic",
                  "pcie-root-port", "memory-backend-memfd", "memory-backend-file", "max-x86_64-cpu",
                  "none-machine", "pc-q35-1.0-machine",
                  "virtio-blk-pci-non-transitional"}     # without it virtio goes behind a PCI bridge
        check(wanted <= types, "no %s" % ", ".join(sorted(wanted - types)))
        refused = {"tcg-accel", "sev-guest", "sgx-epc"}
        check(not refused & types, "%s would be probed further" % ", ".join(refused & types))

    def test_properties_of_devices(self):
        types = set(names(self.qmp("qom-list-types")))
        for name in DEVICES:
            wanted = None if name in types else "DeviceNotFound"
            equal(self.error_class("device-list-properties", typename=name), wanted, "error about " + name)
        blk = names(self.qmp("device-list-properties", typename="virtio-blk-pci"))
        check({"queue-size", "drive", "num-queues", "iothread"} <= set(blk), "virtio-blk-pci has %s" % blk)

    def test_properties_of_types(self):
        for name in TYPES:
            check(isinstance(self.qmp("qom-list-properties", typename=name), list), name)
        equal(self.qmp("qom-list-properties", typename="no-such-type"), [], "unknown type")
        check("hugetlb" in names(self.qmp("qom-list-properties", typename="memory-backend-memfd")), "hugetlb")
        check("unavailable-features" in names(self.qmp("qom-list-properties", typename="max-x86_64-cpu")),
              "max-x86_64-cpu has no unavailable-features")

    def test_machines(self):
        machines = self.qmp("query-machines")
        q35 = next(machine for machine in machines if machine.get("alias") == "q35")
        equal(q35["name"], "pc-q35-1.0", "versioned name of q35")
        equal(q35["default-ram-id"], "pc.ram", "default-ram-id")
        check(q35["is-default"] and q35["cpu-max"] >= 2 and q35["default-cpu-type"].endswith("-x86_64-cpu"), q35)
        check("none" in names(machines), "no machine none")

    def test_cpu_models(self):
        models = {model["name"]: model for model in self.qmp("query-cpu-definitions")}
        for name in ("host", "max", "qemu64"):
            check(name in models and models[name]["typename"] == name + "-x86_64-cpu", "model " + name)
        if not self.qmp("query-kvm")["enabled"]:
            return
        equal(models["max"]["unavailable-features"], [], "what max lacks")
        for model in ({"name": "host"}, {"name": "host", "props": {"migratable": False}}):
            found = self.qmp("query-cpu-model-expansion", type="static", model=model)["model"]
            check(found["name"] and found["props"].get("fpu") is True, "expansion of %r" % model)
        full = self.qmp("query-cpu-model-expansion", type="full",
                        model={"name": "host", "props": {"migratable": False, "hv-passthrough": True}})
        check(full["model"]["props"], "full expansion of host is empty")

    def test_the_rest_of_the_probe(self):
        equal(self.qmp("query-tpm-models"), [], "TPM models")
        equal(self.qmp("query-tpm-types"), [], "TPM types")
        options = {entry["option"] for entry in self.qmp("query-command-line-options")}
        check({"machine", "chardev", "smp-opts", "m"} & options, "options %s" % options)
        check("events" in [entry["capability"] for entry in self.qmp("query-migrate-capabilities")], "events")
        equal(self.error_class("query-sev-capabilities"), "CommandNotFound", "SEV")


class LibvirtStart(Case):
    """A machine as libvirt starts it: stopped, its CPUs read property by property, then `cont`."""
    place = "any"

    def setup(self):
        with open("/dev/kvm", "rb"):
            pass                           # this part is about a machine with CPUs
        self.disk = tempfile.NamedTemporaryFile(suffix=".raw")
        self.disk.truncate(1 << 20)
        self.key = tempfile.NamedTemporaryFile(suffix=".aes")
        self.key.write(bytes(range(32)))
        self.key.flush()
        self.daemon = Daemon(
            self.vmm, "-name", "guest=probe,debug-threads=on", "-S", "-no-user-config", "-nodefaults",
            "-object", "secret,id=masterKey0,format=raw,file=" + self.key.name, "-display", "none",
            "-machine", "pc-q35-1.0,usb=off,dump-guest-core=off,memory-backend=pc.ram", "-accel", "kvm",
            "-cpu", "host,migratable=on", "-overcommit", "mem-lock=off", "-rtc", "base=utc",
            "-boot", "strict=on", "-audiodev", json.dumps({"id": "audio1", "driver": "none"}),
            "-m", "64", "-object", json.dumps({"qom-type": "memory-backend-ram", "id": "pc.ram",
                                               "size": 64 << 20}),
            "-smp", "2,sockets=2,cores=1,threads=1", "-uuid", "8b5e0d5c-9f0e-4b63-9c22-0b6a52d2b1a7",
            "-object", json.dumps({"qom-type": "iothread", "id": "iothread1"}), "-no-shutdown",
            "-blockdev", json.dumps({"driver": "file", "filename": self.disk.name, "node-name":
                                     "libvirt-1-storage", "auto-read-only": True, "discard": "unmap"}),
            "-blockdev", json.dumps({"node-name": "libvirt-1-format", "read-only": False, "driver": "raw",
                                     "file": "libvirt-1-storage"}),
            "-device", json.dumps({"driver": "pcie-root-port", "port": 8, "chassis": 1, "id": "pci.1",
                                   "bus": "pcie.0", "addr": "0x1"}),
            "-device", json.dumps({"driver": "virtio-blk-pci", "bus": "pci.1", "addr": "0x0",
                                   "drive": "libvirt-1-format", "id": "virtio-disk0", "iothread": "iothread1",
                                   "write-cache": "on"}),
            "-chardev", "pty,id=charserial0",
            "-device", json.dumps({"driver": "isa-serial", "chardev": "charserial0", "id": "serial0"}),
            "-msg", "timestamp=on")
        self.qmp = self.daemon.qmp

    def teardown(self):
        if hasattr(self, "daemon"):
            self.daemon.end()
        if hasattr(self, "disk"):
            self.disk.close()
            self.key.close()

    def test_capabilities(self):
        offered = [entry["capability"] for entry in self.qmp("query-migrate-capabilities")]
        check("events" in offered, "no capability events")
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])

    def test_character_devices(self):
        found = {entry["label"]: entry for entry in self.qmp("query-chardev")}
        check(found["charserial0"]["filename"].startswith("pty:/dev/pts/"), found["charserial0"])
        equal(found["charserial0"]["frontend-open"], True, "frontend-open")

    def test_cpus(self):
        places = self.qmp("query-hotpluggable-cpus")
        equal(len(places), 2, "number of places for CPUs")
        check(all(place["vcpus-count"] == 1 and "socket-id" in place["props"] and place["qom-path"]
                  for place in places), places)
        cpus = self.qmp("query-cpus-fast")
        equal([cpu["cpu-index"] for cpu in cpus], [0, 1], "CPU numbers")
        check(all(os.path.exists("/proc/%d/task/%d" % (self.daemon.pid, cpu["thread-id"])) for cpu in cpus), cpus)

    def test_every_flag_of_the_boot_cpu(self):
        path = self.qmp("query-cpus-fast")[0]["qom-path"]
        flags = [entry["name"] for entry in self.qmp("qom-list", path=path) if entry["type"] == "bool"]
        check(len(flags) > 100, "only %d flags" % len(flags))
        values = {flag: self.qmp("qom-get", path=path, property=flag) for flag in flags}
        check(all(value in (True, False) for value in values.values()), values)
        check(values["fpu"] and values["msr"], "the CPU has no fpu")
        equal(self.qmp("qom-get", path=path, property="unavailable-features"), [], "unavailable-features")

    def test_iothreads(self):
        threads = self.qmp("query-iothreads")
        equal([thread["id"] for thread in threads], ["iothread1"], "iothreads")
        check(threads[0]["thread-id"] > 0 and "poll-max-ns" in threads[0], threads)
        self.qmp("qom-set", path="/objects/iothread1", property="poll-max-ns", value=5000)
        equal(self.qmp("query-iothreads")[0]["poll-max-ns"], 5000, "poll-max-ns")

    def test_disks(self):
        nodes = {node["node-name"]: node for node in self.qmp("query-named-block-nodes", flat=True)}
        equal(nodes["libvirt-1-format"]["image"]["virtual-size"], 1 << 20, "size of the disk")
        disk = self.qmp("query-block")[0]
        equal(disk["qdev"], "/machine/peripheral/virtio-disk0/virtio-backend", "qdev")
        check("inserted" in disk and not disk["removable"], disk)
        stats = self.qmp("query-blockstats")[0]
        equal(stats["qdev"], disk["qdev"], "qdev of the statistics")
        check({"rd_bytes", "wr_operations", "flush_total_time_ns"} <= set(stats["stats"]), stats)
        peripheral = {entry["name"]: entry["type"] for entry in self.qmp("qom-list", path="/machine/peripheral")}
        equal(peripheral["virtio-disk0"], "child<virtio-blk-pci>", "type of the disk")

    def test_hot_plug(self):
        self.qmp("blockdev-add", driver="null-co", node_name="n1", size=1 << 20)
        try:
            self.qmp("device_add", driver="virtio-blk-pci", bus="pci.1", addr="0x1", drive="n1", id="d1")
        except QmpError as error:
            check("desc" in error.error, error)       # a root port has one slot: said, not crashed
        self.qmp("blockdev-del", node_name="n1")
        self.qmp("object-add", qom_type="iothread", id="io5")
        self.qmp("object-del", id="io5")
        try:
            self.qmp("object-del", id="objlibvirt_migrate_tls0")
        except QmpError as error:
            equal(error.error["class"], "GenericError", "removing what is not there")

    def test_run_and_stop(self):
        equal(self.qmp("query-status")["status"], "prelaunch", "state")
        self.qmp("cont")
        self.qmp.wait_event("RESUME")
        self.qmp("stop")
        self.qmp.wait_event("STOP")
        equal(self.qmp("query-status")["status"], "paused", "state")
        self.qmp("system_reset")
        self.qmp.wait_event("RESET")

    def test_replies_and_events_are_as_the_schema_says(self):
        schema = Schema(self.qmp("query-qmp-schema"))
        queries = [name for name in schema.commands() if name.startswith("query-")]
        check(len(queries) > 20, queries)
        for name in queries:
            schema.check_reply(name, self.qmp(name))
        schema.check_reply("query-blockstats", self.qmp("query-blockstats", query_nodes=True))
        self.qmp("system_reset")
        self.qmp("cont")
        self.qmp.wait_event("RESUME")
        self.qmp("stop")
        self.qmp("query-status")
        check(self.qmp.events, "no events")
        for event in self.qmp.events:
            schema.check_event(event)

    def test_memory_to_files(self):
        """Paging is off: the CPU's addresses are the physical ones."""
        texts = []
        for command, more in (("memsave", {"cpu_index": 1}), ("pmemsave", {})):
            path = "%s/%s" % (self.daemon.folder, command)
            self.qmp(command, val=0x100064, size=3 << 20, filename=path, **more)
            with open(path, "rb") as file:
                texts.append(file.read())
        equal([len(text) for text in texts], [3 << 20] * 2, "bytes saved")
        check(texts[0] == texts[1], "memsave and pmemsave differ")
        try:
            self.qmp("memsave", val=0, size=1, filename=path, cpu_index=7)
        except QmpError as error:
            check("no CPU 7" in error.error["desc"], error)
        else:
            check(False, "CPU 7 was found")

    def test_another_connection(self):
        """The daemon was restarted: it connects again while the old connection may still be there."""
        again = Qmp(self.daemon.socket)
        equal(again("query-status")["running"], False, "running")
        equal(again.events, [], "stale events")
        again.close()

    def test_people(self):
        equal(self.qmp("human-monitor-command", command_line="info status"), "VM status: paused\r\n", "info status")
        text = self.qmp("human-monitor-command", command_line="info qtree")
        check("virtio-disk0" in text and "4294967295" not in text, text)
        check("RIP" in self.qmp("human-monitor-command", command_line="info registers").upper(), "registers")
        virtual, physical = (self.qmp("human-monitor-command", command_line=command + " /4xw 0xffe")
                             for command in ("x", "xp"))
        equal(virtual, physical, "memory of a CPU without paging")
        check(virtual.startswith("0000000000000ffe: 0x"), virtual)
        check("pci" in self.qmp("human-monitor-command", command_line="info pci").lower(), "info pci")
        check("ram" in self.qmp("human-monitor-command", command_line="info mtree -f"), "info mtree")
