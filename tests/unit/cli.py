#!/usr/bin/env python3
"""The command line as an admin meets it: help, lists, and the errors for what is mistyped.

usage: cli.py VIREO
"""
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import unittest

VIREO = None
TIMEOUT = 60


def run(*args):
    return subprocess.run([VIREO, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=TIMEOUT)


class Errors(unittest.TestCase):
    """One line naming the option, why, the nearest right word; status 1; nothing started."""

    CASES = [
        # arguments, what the line must hold, what the hint must hold
        (["-devcie", "x"], "-devcie", "-device"),
        (["--machin", "q35"], "-machin", "-machine"),
        (["-device"], "-device: its value is missing", "driver="),
        (["disk.img"], "disk.img", "-drive file=disk.img"),
        (["-machine", "q36"], "q36", "q35"),
        (["-machine", "q35,hpt=off"], "hpt", "hpet"),
        (["-machine", "q35,accel=tcg"], "only accelerator is kvm", ""),
        (["-smp", "cpus=2,sokets=1"], "sokets", "sockets"),
        (["-smp", "cpus=2,cors=2"], "cors", "cores"),
        (["-smp", "0"], "cpus must be 1 to 1024", ""),
        (["-smp", "two"], "two", ""),
        (["-smp", "4,sockets=3,cores=1,threads=1"], "sockets", ""),
        (["-m", "12Q"], "12Q", ""),
        (["-m", "0"], "needs memory", ""),
        (["-m", "512,slots=2,maxmem=1G"], "slots", ""),
        (["-m", "1k"], "at least 2 MiB", ""),
        (["-m", "1G,maxmem=512M"], "maxmem is less", ""),
        (["-machine", "q35,smp=2"], "smp.NAME=VALUE", ""),
        (["-machine", "q35,smp.cpsu=2"], "cpsu", "cpus"),
        (["-rtc", "base=9999-01-01"], "years from 1970 to 2150", ""),
        (["-rtc", "base=1900-01-01"], "years from 1970 to 2150", ""),
        (["-boot", "order=z"], "'z' is no list of boot devices", "d for a CD"),
        (["-boot", "cc"], "'c' is given twice", ""),
        (["-boot", "menu=maybe"], "'menu' expects 'on' or 'off'", ""),
        (["-boot", "reboot-timeout=70000"], "-1 to 65535", ""),
        (["-cpu", "hosst"], "hosst", "host"),
        (["-device", ""], "'driver' is missing", ""),
        (["-device", "virtio-blk-pic"], "virtio-blk-pic", "virtio-blk-pci"),
        (["-device", "virtio-blk-pci,drvie=x"], "drvie", "drive"),
        (["-device", "virtio-blk-pci,drive=nosuch"], "nosuch", ""),
        (["-device", "virtio-rng-pci,id=a", "-device", "virtio-rng-pci,id=b,period=0"],
         "-device virtio-rng-pci,id=b,period=0: ", ""),
        (["-device", "virtio-blk-pci"], "drive", ""),
        (["-device", '{"driver":"virtio-rng-pci"'], "JSON", ""),
        (["-device", "virtio-rng-pci,bus=pcie.9"], "pcie.9", ""),
        (["-device", "virtio-rng-pci,addr=99"], "99", ""),
        (["-object", "memory-backend-rma,id=a,size=1M"], "memory-backend-rma", "memory-backend-ram"),
        (["-object", "iothread"], "id", ""),
        (["-object", "authz-list,id=a,rules.0.match=x,rules.0.policy=alow"], "rules.0: policy cannot be 'alow'", "allow"),
        (["-object", '{"qom-type":"authz-list","id":"a","rules":[{"match":"x","polciy":"deny"}]}'],
         "rules.0: 'policy' is missing", ""),
        (["-object", "iothrea,help"], "iothrea", "iothread"),
        (["-blockdev", "driver=file,filename=/x"], "node-name", ""),
        (["-blockdev", "driver=fiel,node-name=a,filename=/x"], "fiel", "file"),
        (["-blockdev", "driver=file,node-name=a,filename=/no/such"], "/no/such", ""),
        (["-blockdev", "driver=null-co,node-name=a,sizze=1"], "sizze", "size"),
        (["-blockdev", "driver=raw,node-name=a,file.driver=file,file.filenam=/x"], "requires a file name",
         "'filename' for 'filenam'"),
        (["-drive", "file=/no/such,format=raw"], "/no/such", ""),
        (["-drive", "file=/dev/null,fromat=raw"], "fromat", "format"),
        (["-drive", "/disk.img"], "needs file= or driver=", "file=PATH"),
        (["-drive", "file=/dev/null,format=raw,if=ide"], "if=ide", "if=virtio"),
        (["-chardev", "sokcet,id=a,path=/x"], "sokcet", "socket"),
        (["-chardev", "null"], "id", ""),
        (["-chardev", ""], "missing backend", ""),
        (["-chardev", "socket,id=a,path=/x,host=y,port=1"], "only one of", ""),
        (["-chardev", "socket,id=a,host=localhost,port=99999,server=on"], "'99999' is not a port", ""),
        (["-serial", "chardev:nosuch"], "nosuch", ""),
        (["-serial", "vc"], "'vc' is not supported", "mon:stdio"),
        (["-mon", "chardev=nosuch,mode=control"], "nosuch", ""),
        (["-mon", "chardev=x,mode=controll"], "controll", "control"),
        (["-kernel", "/no/such"], "-kernel /no/such: No such file", ""),
        (["-kernel", "/tmp"], "-kernel /tmp: it is not a regular file", ""),
        (["-kernel", "/etc/passwd"], "-kernel /etc/passwd: not a kernel that can be booted", ""),
        (["-append", "x"], "-append needs -kernel", ""),
        (["-uuid", "1-2-3"], "1-2-3", ""),
        (["-rtc", "base=yesterday"], "yesterday", "localtime"),
        (["-trace", "nosuch_event"], "nosuch_event", "-trace help"),
        (["-trace", "events=/no/such"], "/no/such", ""),
        (["-d", "gest_errors"], "gest_errors", "guest_errors"),
        (["-action", "reboot=explode"], "explode", ""),
        (["-watchdog-action", "explode"], "explode", "inject-nmi"),
        (["-add-fd", "fd=999,set=1"], "999", ""),
        (["-add-fd", "fd=2,set=1"], "fd=2 is standard input or output", ""),
        (["-global", "nonsense"], "nonsense", "DRIVER"),
        (["-global", "virtio-rng-pci.max-byte=5"], "virtio-rng-pci.max-byte", "max-bytes"),
        (["-L", "/usr/share"], "-L: an option of QEMU", ""),
        (["-vnc", ":0"], "-vnc: an option of QEMU", ""),
        (["-incoming", "defer"], "-incoming: an option of QEMU", ""),
        (["-display", "gtk"], "none", ""),
        (["-net", "user"], "none", ""),
        (["-readconfig", "/no/such"], "/no/such", ""),
        (["-readconfig", "/proc/self/environ"], "not a text file", ""),
        (["-set", "device.d"], "not GROUP.ID.ARG=VALUE", "-set device.disk0"),
        (["-set", "machine.m.x=y"], "no group of options 'machine'", "device, drive"),
        (["-set", "device.d.serial=x", "-device", "virtio-rng-pci,id=d"], 'no device "d" defined',
         "after the -device"),
        (["-chardev", "null,id=c", "-set", "chardev.c.backend=fiel"], "fiel", "file"),
        (["-drive", "if=none,id=d,file=/dev/null,format=raw", "-set", "drive.d.file=/no/such"],
         "/no/such", ""),
        (["-drive", "if=virtio,id=d,driver=null-co,size=1M", "-device", "virtio-blk-pci,drive=d"],
         "-drive if=virtio,id=d,driver=null-co,size=1M: drive 'd' has a device already", "if=none"),
        (["-drive", "id=d,driver=null-co", "-device", '{"driver":"virtio-blk-pci","drive":"d"}'],
         "that if=virtio made", "if=none"),
        (["-pidfile", "/no/such/dir/pid", "-machine", "none"], "/no/such/dir/pid", ""),
    ]

    def test_each(self):
        for args, line, hint in self.CASES:
            with self.subTest(args=args):
                extra = [] if any(a in ("-machine", "--machin") for a in args) else ["-machine", "q35"]
                got = run(*extra, "-nodefaults", *args)
                self.assertEqual(got.returncode, 1, got.stderr)
                self.assertEqual(got.stdout, "")
                lines = got.stderr.splitlines()
                self.assertTrue(lines and lines[0].startswith("vireo: "), got.stderr)
                self.assertIn(line, lines[0])
                self.assertLessEqual(len(lines), 2, got.stderr)
                self.assertIn(hint, got.stderr)

    def test_unknown_machine_without_kvm_is_named_first(self):
        got = run("-machine", "nosuch")
        self.assertIn("nosuch", got.stderr)


class Help(unittest.TestCase):
    def ok(self, *args):
        got = run(*args)
        self.assertEqual((got.returncode, got.stderr), (0, ""), args)
        return got.stdout

    def test_every_option_is_listed(self):
        text = self.ok("-help")
        for name in ("machine", "cpu", "smp", "m", "blockdev", "drive", "device", "object", "chardev",
                     "serial", "qmp", "mon", "monitor", "kernel", "initrd", "append", "S", "daemonize",
                     "pidfile", "name", "uuid", "rtc", "boot", "no-reboot", "no-shutdown", "nodefaults",
                     "no-user-config", "readconfig", "msg", "d", "D", "trace", "version"):
            self.assertRegex(text, r"(?m)^  -%s( |$)" % re.escape(name))
        self.assertEqual(text, self.ok("--help"))
        self.assertEqual(text, self.ok("-h"))

    def test_version(self):
        self.assertRegex(self.ok("-version"), r"^vireo version \d+\.\d+\.\d+\n$")

    def test_lists(self):
        self.assertIn("q35", self.ok("-machine", "help"))
        self.assertIn("virtio-blk-pci", self.ok("-device", "help"))
        self.assertIn("num-queues", self.ok("-device", "virtio-blk-pci,help"))
        self.assertIn("qemu64", self.ok("-cpu", "help"))
        self.assertIn("memory-backend-memfd", self.ok("-object", "help"))
        self.assertIn("iothread", self.ok("-object", "help"))
        self.assertIn("poll-max-ns", self.ok("-object", "iothread,help"))
        self.assertIn("socket", self.ok("-chardev", "help"))
        self.assertIn("null-co", self.ok("-blockdev", "help"))
        self.assertIn("vm_state", self.ok("-trace", "help"))
        self.assertIn("guest_errors", self.ok("-d", "help"))
        self.assertIn("hpet", self.ok("-machine", "q35,help"))
        self.assertIn("sockets", self.ok("-smp", "help"))
        self.assertIn("qcow2", self.ok("-drive", "format=help"))
        self.assertEqual(self.ok("-device", "virtio-rng,help"), self.ok("-device", "virtio-rng-pci,help"))

    def test_docs_name_every_block_driver(self):
        docs = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "block.md")
        with open(docs) as f:
            told = f.read()
        drivers = self.ok("-blockdev", "help").splitlines()[1:]
        self.assertGreater(len(drivers), 10)
        for name in (line.split()[0] for line in drivers):
            self.assertRegex(told, r"(?m)^\|[^|]*`%s`[^|]*\|" % re.escape(name))

    def test_man_page_and_completion(self):
        self.assertIn(".SH NAME", self.ok("-man-page"))
        script = self.ok("-completion")
        for words, wanted in (("-devi", "-device"), ("--devi", "--device"), ("-device virtio-rng-pci-n",
                              "virtio-rng-pci-non-transitional"), ("--cpu Skylake-Server-I", "Skylake-Server-IBRS"),
                              ("-M pc-q", "pc-q35-1.0"), ("-chardev ringb", "ringbuf"),
                              ("-blockdev qco", "qcow2"), ("-trace vm_st", "vm_state")):
            got = subprocess.run(["bash", "-c", script + "\nCOMP_WORDS=(vireo %s) COMP_CWORD=%d\n_vireo\n"
                                  'echo "${COMPREPLY[@]}"' % (words, len(words.split()))],
                                 capture_output=True, text=True)
            self.assertEqual(got.stdout.split(), [wanted], words)


class Machine(unittest.TestCase):
    """A machine of type none needs no KVM: the rest of the options can be tried on it."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.qmp = os.path.join(self.dir.name, "qmp")

    def connect(self):
        limit = time.monotonic() + TIMEOUT
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(TIMEOUT)
            while s.connect_ex(self.qmp):       # not there yet, or not listened at
                self.assertLess(time.monotonic(), limit)
                time.sleep(0.01)
            f = s.makefile("rw")
        self.addCleanup(f.close)
        self.assertIn("QMP", json.loads(f.readline()))
        self.ask(f, "qmp_capabilities")
        return f

    def ask(self, f, command, **arguments):
        f.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        f.flush()
        while True:
            answer = json.loads(f.readline())
            if "event" not in answer:
                return answer

    def test_daemonize_as_libvirt_probes(self):
        pidfile = os.path.join(self.dir.name, "pid")
        got = run("-S", "-no-user-config", "-nodefaults", "-nographic", "-machine",
                  "none,accel=kvm:tcg", "-qmp", "unix:%s,server=on,wait=off" % self.qmp,
                  "-pidfile", pidfile, "-daemonize")
        self.assertEqual((got.returncode, got.stderr), (0, ""), got)
        pid = int(open(pidfile).read())
        f = self.connect()
        self.assertEqual(self.ask(f, "query-status")["return"]["status"], "prelaunch")
        os.kill(pid, 15)
        self.assertIn("SHUTDOWN", f.readline())
        self.assertEqual(f.readline(), "")

    def test_readconfig_and_names(self):
        config = os.path.join(self.dir.name, "config")
        with open(config, "w") as f:
            f.write('# a machine\n[machine]\n  type = "none"\n[chardev "c0"]\n  backend = "null"\n'
                    '[name]\n guest = "a, b"\n')
        vm = subprocess.Popen([VIREO, "-readconfig", config, "-nodefaults", "-S", "-uuid",
                               "11111111-2222-3333-4444-555555555555",
                               "-chardev", "socket,id=m,path=%s,server=on,wait=off" % self.qmp,
                               "-mon", "chardev=m,mode=control"])
        self.addCleanup(vm.kill)
        f = self.connect()
        self.assertEqual(self.ask(f, "query-name")["return"], {"name": "a, b"})
        self.assertEqual(self.ask(f, "query-uuid")["return"]["UUID"],
                         "11111111-2222-3333-4444-555555555555")
        self.assertIn("c0", [c["label"] for c in self.ask(f, "query-chardev")["return"]])
        self.assertEqual(self.ask(f, "quit")["return"], {})
        self.assertEqual(vm.wait(TIMEOUT), 0)

    def test_set(self):
        log = os.path.join(self.dir.name, "a,b=c")
        vm = subprocess.Popen([VIREO, "-nodefaults", "-S", "-machine", "none", "-chardev", "null,id=c.d",
                               "-chardev", "file,id=c,path=/no/such", "-object", "iothread,id=io",
                               "-set", "chardev.c.path=" + log, "-set", "object.io.poll-max-ns=7",
                               "-qmp", "unix:%s,server=on,wait=off" % self.qmp])
        self.addCleanup(vm.kill)
        f = self.connect()
        self.assertTrue(os.path.exists(log))
        self.assertEqual(self.ask(f, "query-iothreads")["return"][0]["poll-max-ns"], 7)
        self.ask(f, "quit")
        self.assertEqual(vm.wait(TIMEOUT), 0)

    def test_readconfig_in_qemus_words(self):
        config = os.path.join(self.dir.name, "config")
        disk = os.path.join(self.dir.name, "a,b.img")
        with open(disk, "wb") as f:
            f.truncate(1 << 20)
        with open(config, "w") as f:
            f.write('# qemu config file\n[machine]\n  type = "none"\n[memory]\n  size = "64"\n'
                    '[smp-opts]\n  cpus = "1"\n[boot-opts]\n  strict = "on"\n[drive "d0"]\n  if = "none"\n'
                    '  format = "raw"\n  file = "%s"\n  file.locking = "off"\n  cache.direct = "off"\n'
                    '[chardev "c0"]\n  backend = "null"\n' % disk)
        vm = subprocess.Popen([VIREO, "-readconfig", config, "-nodefaults", "-S",
                               "-qmp", "unix:%s,server=on,wait=off" % self.qmp])
        self.addCleanup(vm.kill)
        f = self.connect()
        block = self.ask(f, "query-block")["return"]
        self.assertEqual([(b["device"], b["inserted"]["file"]) for b in block], [("d0", disk)])
        options = {o["option"] for o in self.ask(f, "query-command-line-options")["return"]}
        self.assertLessEqual({"machine", "memory", "smp-opts", "boot-opts", "device"}, options)
        self.ask(f, "quit")
        self.assertEqual(vm.wait(TIMEOUT), 0)

    def test_trace_list_log_name_snapshot_and_short_names(self):
        events, log = os.path.join(self.dir.name, "events"), os.path.join(self.dir.name, "log-%d")
        disk = os.path.join(self.dir.name, "disk.img")
        with open(disk, "wb") as f:
            f.truncate(1 << 20)
        with open(events, "w") as f:
            f.write("# what changes the machine\nvm_*\n\n")
        vm = subprocess.Popen([VIREO, "-machine", "none", "-nodefaults", "-trace", "events=" + events,
                               "-D", log, "-snapshot", "-drive", "if=none,id=d0,format=raw,file=" + disk,
                               "-drive", "if=none,id=d1,driver=null-co,size=1M",
                               "-qmp", "unix:%s,server=on,wait=off" % self.qmp])
        self.addCleanup(vm.kill)
        f = self.connect()
        block = {b["device"]: b["inserted"] for b in self.ask(f, "query-block")["return"]}
        self.assertEqual((block["d0"]["drv"], block["d0"]["backing_file_depth"]), ("qcow2", 1))
        self.assertEqual(block["d1"]["backing_file_depth"], 1)
        self.ask(f, "quit")
        self.assertEqual(vm.wait(TIMEOUT), 0)
        with open(log.replace("%d", str(vm.pid))) as written:
            self.assertIn("running", written.read())

    def test_a_reset_obeys_the_reboot_action(self):
        vm = subprocess.Popen([VIREO, "-machine", "none", "-nodefaults", "-S",
                               "-qmp", "unix:%s,server=on,wait=off" % self.qmp])
        self.addCleanup(vm.kill)
        f = self.connect()
        for command in ("cont", "stop", "system_reset"):
            self.ask(f, command)
        self.assertEqual(self.ask(f, "query-status")["return"]["status"], "prelaunch")
        self.ask(f, "set-action", reboot="shutdown")
        f.write('{"execute": "system_reset"}\n')
        f.flush()
        events = [line for line in map(json.loads, f) if "event" in line]
        self.assertEqual([(e["event"], e["data"]["reason"]) for e in events],
                         [("SHUTDOWN", "host-qmp-system-reset")])
        self.assertEqual(vm.wait(TIMEOUT), 0)

    def test_a_socket_in_use_is_left_alone(self):
        other = socket.socket(socket.AF_UNIX)
        self.addCleanup(other.close)
        other.bind(self.qmp)
        other.listen()
        args = ["-machine", "none", "-nodefaults", "-S", "-qmp", "unix:%s,server=on,wait=off" % self.qmp]
        got = run(*args)
        self.assertEqual(got.returncode, 1)
        self.assertIn("another process is using it", got.stderr)
        other.setblocking(False)
        self.assertRaises(BlockingIOError, other.accept)        # nobody has been bothered
        other.close()                                           # what is left is a stale file
        vm = subprocess.Popen([VIREO, *args])
        self.addCleanup(vm.kill)
        self.ask(self.connect(), "quit")
        self.assertEqual(vm.wait(TIMEOUT), 0)

    def test_readconfig_errors_name_the_line(self):
        config = os.path.join(self.dir.name, "config")
        for text, line, word in (("[machine\n", 1, "]"), ("a = \"b\"\n", 1, "section"),
                                 ("[machine]\n\ntype = q35\n", 3, "quotes"),
                                 ("[nosuch]\n", 1, "nosuch"), ("[rtc]\n bse = \"utc\"\n[name]\n", 3, "base")):
            with open(config, "w") as f:
                f.write(text)
            got = run("-readconfig", config)
            self.assertEqual(got.returncode, 1)
            self.assertIn("config:%d: " % line, got.stderr)
            self.assertIn(word, got.stderr)


if __name__ == "__main__":
    VIREO = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=1)
