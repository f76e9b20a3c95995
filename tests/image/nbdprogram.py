#!/usr/bin/env python3
"""vireo-nbd as a program: its options beside qemu-nbd's, and the images that it serves.

usage: nbdprogram.py VIREO_NBD VIREO_IMG VIREO [unittest arguments]
"""
import json
import os
import re
import signal
import socket
import subprocess

import nbd

from nbdcase import VIREO_IMG, VIREO_NBD, TIMEOUT, Case, MiB, free_port, main, run, until


class Program(Case):
    """vireo-nbd's options, life and death."""

    def test_it_ends_with_its_last_client(self):
        path = self.path("s")
        server = self.daemon(VIREO_NBD, "-k", path, "-f", "raw", self.image(), ready=path)
        run("nbdinfo", "--size", "nbd+unix:///?socket=" + path)
        self.assertEqual(server.wait(TIMEOUT), 0)
        self.assertFalse(os.path.exists(path))

    def test_fork_and_pid_file(self):
        path, pid = self.path("s"), self.path("pid")
        run(VIREO_NBD, "-k", path, "-t", "--fork", "--pid-file", pid, "-f", "raw", self.image())
        with open(pid) as f:
            number = int(f.read())
        try:
            run("nbdinfo", "--size", "nbd+unix:///?socket=" + path)
        finally:
            os.kill(number, signal.SIGTERM)
        until(lambda: not os.path.exists(path) and not os.path.exists(pid), "removed its files")

    def test_socket_activation(self):
        run("nbdcopy", "--", "[", VIREO_NBD, "-f", "raw", self.image(), "]", self.path("out"))
        self.assertEqual(self.read(self.path("out")), self.read(self.image()))

    def test_a_window(self):
        image = self.image()
        _, _, uri = self.serve(image, "-f", "raw", "-o", "1M", "--poll-max-ns=0")
        with self.client(uri) as h:
            self.assertEqual(h.get_size(), 3 * MiB)
            self.assertEqual(bytes(h.pread(512, 0)), self.read(image)[MiB:MiB + 512])

    def test_tcp(self):
        port = free_port()
        self.daemon(VIREO_NBD, "-b", "127.0.0.1", "-p", port, "-t", "-f", "raw", self.image())
        until(lambda: run("nbdinfo", "--size", "nbd://127.0.0.1:%d" % port, check=False).returncode == 0,
              "listen on TCP")
        listed = run(VIREO_NBD, "-L", "-b", "127.0.0.1", "-p", port).stdout.decode()
        self.assertIn("size:  4194304", listed)
        self.assertIn("base:allocation", listed)

    def test_wrong_lines(self):
        image = self.image()
        for line, words in ((["-f", "raw"], "number of arguments"), (["--nonsense", image], "unknown option"),
                            (["-k", "/s", "-p", "1", image], "--port"),
                            (["-c", "/dev/sda", image], "no NBD device"),
                            (["-d", "/dev/null"], "no NBD device"), (["-c", "/dev/nbd0", "-d", image], "--connect"),
                            (["-L", "-c", "/dev/nbd0"], "--connect"), (["-s", "-l", "x", image], "--load-snapshot"),
                            (["--tls-authz", "x", image], "tls-authz"), (["-T", "no-such-*", image], "no-such-*"),
                            (["-L", "--selinux-label", "x"], "no socket"),
                            (["-c", "/dev/nbd0", "--selinux-label", "x", image], "no socket"),
                            (["--discard=ignore", "--detect-zeroes=unmap", "-f", "raw", image], "discard"),
                            (["-l", "none", "-f", "raw", image], "snapshot"),
                            (["--cache", "x", image], "cache mode"), (["-f", "raw", "/none"], "/none"),
                            (["-e", "x", image], "--shared"), (["--poll-max-ns=x", image], "--poll-max-ns"),
                            (["--tls-creds", "x", image], "x"),
                            (["-o", "5M", "-f", "raw", image], "smaller"),
                            (["-B", "none", "-f", "raw", image], "none")):
            done = run(VIREO_NBD, *line, check=False)
            self.assertEqual(done.returncode, 1, line)
            self.assertIn(words, done.stderr.decode())
            self.assertTrue(done.stderr.startswith(b"vireo-nbd: "), done.stderr)

    def test_a_signal_while_it_waits_for_another_server(self):
        """One that accepts connections and says nothing."""
        pid = self.path("pid")
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            port = silent.getsockname()[1]
            for line in (["-L", "-b", "127.0.0.1", "-p", port],
                         ["-k", self.path("s"), "--pid-file", pid, "nbd://127.0.0.1:%d/" % port]):
                process = self.daemon(VIREO_NBD, *line)
                connection = silent.accept()[0]
                process.terminate()
                self.assertEqual(process.wait(TIMEOUT), -signal.SIGTERM)
                connection.close()
        self.assertFalse(os.path.exists(pid))

    def test_more_clients_than_allowed_wait(self):
        _, path, uri = self.serve(self.image(), "-f", "raw", "-e", "1")
        with self.client(uri) as h:
            waiting = subprocess.Popen(["nbdinfo", "--size", uri], stdout=subprocess.PIPE)
            for _ in range(20):                             # the first is not disturbed meanwhile
                h.pread(4096, 0)
            self.assertIsNone(waiting.poll())
        self.assertEqual(waiting.communicate(timeout=TIMEOUT)[0].strip(), b"4194304")

    def test_every_option_of_qemu_nbd(self):
        """Each is there, by its letter and its name, or refused by name."""
        ours = run(VIREO_NBD, "--help").stdout.decode()
        lines = [line.split() for line in run("qemu-nbd", "--help").stdout.decode().splitlines()]
        words = [re.split("[=,\\[]", word)[0] for line in lines for word in line[:2] if word.startswith("-")]
        self.assertGreater(len(words), 50)
        for word in words:
            self.assertRegex(ours, r"(?m)^ +.*%s\b" % word)

    def test_help_and_manual_page(self):
        self.assertIn("--load-snapshot=SNAPSHOT", run(VIREO_NBD, "-h").stdout.decode())
        self.assertIn("vireo-nbd ", run(VIREO_NBD, "-V").stdout.decode())
        self.assertIn("nbd_connected", run(VIREO_NBD, "-T", "help").stdout.decode())
        for program in ([VIREO_NBD], [VIREO_IMG, "info"]):
            self.assertIn("authz-list-file", run(*program, "--object", "help").stdout.decode())
            self.assertIn("refresh=<bool>", run(*program, "--object", "authz-list-file,help").stdout.decode())
            self.assertEqual(run(*program, "--object", "nonsense,help", self.image(), check=False).returncode, 1)
        page = run(VIREO_NBD, "--man-page").stdout.decode()
        for text in (".TH VIREO\\-NBD 1", ".SH EXAMPLES", "\\-\\-allocation\\-depth"):
            self.assertIn(text, page)

    def test_an_selinux_label(self):
        """Only the socket that is listened at is made under it."""
        if os.environ.get("VIREO_HAS_SELINUX") != "1":
            done = run(VIREO_NBD, "--selinux-label", "x", "-f", "raw", self.image(), check=False)
            self.assertIn("this build has no SELinux", done.stderr.decode())
            return
        path, log = self.path("s"), self.path("log")
        os.mkdir(self.path("lib"))
        os.symlink(os.environ["VIREO_FAKE_SELINUX"], self.path("lib/libselinux.so.1"))
        env = dict(os.environ, LD_LIBRARY_PATH=self.path("lib"), FAKE_SELINUX_LOG=log, FAKE_SELINUX_SOCKET=path)
        label = "system_u:object_r:svirt_socket_t:s0:c1,c2"
        self.daemon(VIREO_NBD, "-t", "-k", path, "--selinux-label", label, "-f", "raw", self.image(), ready=path,
                    env=env)
        run("nbdinfo", "--size", "nbd+unix:///?socket=" + path)
        self.assertEqual(self.read(log).decode(), label + " before\n- after\n")
        for line, words in ((["--selinux-label", "bad", "-k", self.path("t")], "cannot label sockets 'bad'"),
                            (["--selinux-label", "x", "-k", "/none/s"], "/none/s")):
            done = run(VIREO_NBD, *line, "-f", "raw", self.image(), check=False, env=env)
            self.assertEqual(done.returncode, 1)
            self.assertIn(words, done.stderr.decode())
            self.assertFalse(os.path.exists(self.path("t")))
        run("nbdcopy", "--", "[", VIREO_NBD, "-f", "raw", self.image(), "]", self.path("out"), env=env)
        done = run("nbdcopy", "--", "[", VIREO_NBD, "--selinux-label", "x", "-f", "raw", self.image(), "]",
                   self.path("out"), env=env, check=False)
        self.assertIn("handed over", done.stderr.decode())

    def test_a_kernel_without_selinux(self):
        if os.environ.get("VIREO_HAS_SELINUX") != "1" or os.path.exists("/sys/fs/selinux/enforce"):
            self.skipTest("this kernel has it, or this build has not")
        done = run(VIREO_NBD, "-k", self.path("s"), "--selinux-label", "x", "-f", "raw", "/none", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("SELinux is not enabled in this host's kernel", done.stderr.decode())

    def test_a_kernel_without_the_client(self):
        if os.path.exists("/sys/module/nbd"):
            self.skipTest("it is there: functional/test_nbd has the rest")
        for line in (["-c", "/dev/nbd0", "-f", "raw", self.image()], ["-d", "/dev/nbd0"]):
            done = run(VIREO_NBD, *line, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("modprobe nbd", done.stderr.decode())

    def test_a_pid_file_belongs_to_one(self):
        pid = self.path("pid")
        _, _, uri = self.serve(self.image(), "-f", "raw", "--pid-file", pid)
        done = run(VIREO_NBD, "-k", self.path("t"), "--pid-file", pid, "-f", "raw", self.image("b"), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("holds it", done.stderr.decode())
        run("nbdinfo", "--size", uri)
        self.assertTrue(os.path.exists(pid))
        done = run(VIREO_NBD, "--fork", "--pid-file", self.path("p2"), "-k", self.path("t"), "-f", "raw",
                   self.path("missing"), check=False)      # the parent tells of the failure, and nothing is left
        self.assertEqual(done.returncode, 1)
        self.assertIn("missing", done.stderr.decode())
        self.assertFalse(os.path.exists(self.path("p2")))

    def test_persistent(self):
        server, _, uri = self.serve(self.image(), "-f", "raw")     # with -t
        for _ in range(3):
            run("nbdinfo", "--size", uri)
        self.assertIsNone(server.poll())

    def test_discard_and_detect_zeroes(self):
        """What the file has allocated tells whether trims and zeroes arrive there."""
        full = b"x" * (4 * MiB)
        for options, freed in (([], True), (["--discard=unmap"], True), (["--discard=ignore"], False)):
            image = self.image(data=full)
            before = os.stat(image).st_blocks
            _, _, uri = self.serve(image, "-f", "raw", *options)
            with self.client(uri) as h:
                h.trim(2 * MiB, MiB, nbd.CMD_FLAG_FUA)
            self.assertEqual(os.stat(image).st_blocks < before - 3000, freed, options)
        for mode, freed in (("off", False), ("on", False), ("unmap", True)):
            image = self.image(data=full)
            before = os.stat(image).st_blocks
            _, _, uri = self.serve(image, "-f", "raw", "--detect-zeroes=" + mode)
            with self.client(uri) as h:
                h.pwrite(bytes(2 * MiB), MiB, nbd.CMD_FLAG_FUA)
                self.assertEqual(bytes(h.pread(2 * MiB, MiB)), bytes(2 * MiB))
            self.assertEqual(os.stat(image).st_blocks < before - 3000, freed, mode)


class Qcow2(Case):
    """What only an image of a format has: snapshots, bitmaps, depth."""

    def setUp(self):
        super().setUp()
        self.disk = self.path("disk.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", self.disk, "4M")

    def write(self, pattern, offset, length="64k"):
        run("qemu-io", "-f", "qcow2", "-c", "write -P %d %s %s" % (pattern, offset, length), self.disk)

    def status(self, uri, context):
        found = []
        with self.client(uri, [context]) as h:
            h.block_status(4 * MiB, 0, lambda name, at, extents, err: found.extend(extents))
        return found

    def test_a_temporary_overlay(self):
        self.write(1, 0)
        before = self.read(self.disk)
        os.mkdir(self.path("tmp"))
        env = dict(os.environ, TMPDIR=self.path("tmp"))
        for options in (["-s", "-f", "qcow2"], ["--snapshot"], ["-s", "-o", "64k"],
                        ["-s", "--image-opts"], ["-s", "-r"]):
            file = "driver=qcow2,file.driver=file,file.filename=" + self.disk if "--image-opts" in options \
                else self.disk
            server, _, uri = self.serve(file, *options, env=env)
            with self.client(uri) as h:
                if "-r" in options:
                    self.assertTrue(h.is_read_only())
                else:
                    h.pwrite(b"\7" * 70000, 1000)
                    self.assertEqual(bytes(h.pread(70000, 1000)), b"\7" * 70000)
                    h.trim(MiB, 2 * MiB)
                    h.flush()
                if "-o" not in options:
                    self.assertEqual(bytes(h.pread(1000, 0)), b"\1" * 1000)
            self.assertEqual(os.listdir(self.path("tmp")), [])      # it has no name while it is used
            self.end(server)
            self.assertEqual(self.read(self.disk), before, options)

    def test_an_internal_snapshot(self):
        self.write(1, 0)
        run("qemu-img", "snapshot", "-c", "first", self.disk)
        self.write(2, 0)
        run("qemu-img", "snapshot", "-c", "second", self.disk)
        self.write(3, 0)
        for param, byte in (("first", 1), ("1", 1), ("2", 2), ("snapshot.id=1", 1), ("snapshot.name=second", 2),
                            ("snapshot.id=2,snapshot.name=second", 2)):
            server, _, uri = self.serve(self.disk, "-f", "qcow2", "-l", param)
            with self.client(uri) as h:
                self.assertTrue(h.is_read_only())
                self.assertEqual(bytes(h.pread(65536, 0)), bytes([byte]) * 65536, param)
            self.end(server)
        for param in ("third", "snapshot.id=1,snapshot.name=second", "snapshot.nmae=first", "snapshot.x.y=1"):
            done = run(VIREO_NBD, "-k", self.path("s"), "-f", "qcow2", "--load-snapshot=" + param, self.disk,
                       check=False)
            self.assertEqual(done.returncode, 1, param)
            self.assertIn("snapshot", done.stderr.decode())
        run("qemu-img", "check", self.disk)

    def test_bitmaps(self):
        """As qemu-nbd shows the same image's."""
        for name in ("a", "b"):
            run("qemu-img", "bitmap", "--add", "-g", "64k", self.disk, name)
        self.write(1, "128k")
        run("qemu-img", "bitmap", "--disable", self.disk, "a")
        self.write(1, "1M", "128k")
        shown = {}
        for program in (VIREO_NBD, "qemu-nbd"):
            server, _, uri = self.serve(self.disk, "-r", "-f", "qcow2", "-B", "a", "-B", "b", "-A", program=program)
            info = json.loads(run("nbdinfo", "--json", "--no-content", uri).stdout)["exports"][0]
            shown[program] = sorted(info["contexts"]), [
                self.status(uri, "qemu:dirty-bitmap:" + name) for name in "ab"], [
                self.status(uri, "qemu:allocation-depth")]
            self.end(server)
        self.assertEqual(shown[VIREO_NBD], shown["qemu-nbd"])
        self.assertEqual(shown[VIREO_NBD][1][0], [128 << 10, 0, 64 << 10, 1, 4 * MiB - (192 << 10), 0])

    def test_preallocation_below(self):
        """The file is longer while it is written, and as long as it would be without the filter at the end."""
        lengths = []
        for driver in ("file.driver=preallocate,file.file.driver=file,file.file.filename=",
                       "file.driver=file,file.filename="):
            run("qemu-img", "create", "-q", "-f", "qcow2", self.disk, "64M")
            server, _, uri = self.serve("driver=qcow2," + driver + self.disk, "--image-opts")
            with self.client(uri) as h:
                for n in range(24):
                    h.pwrite(bytes([n + 1]) * 65536, n * 5 * 65536)
                h.flush()
                lengths.append(os.stat(self.disk).st_size)
            self.end(server)
            lengths.append(os.stat(self.disk).st_size)
            run("qemu-img", "check", self.disk)
            for n in (0, 23):
                run("qemu-io", "-r", "-c", "read -P %d %d 65536" % (n + 1, n * 5 * 65536), self.disk)
        self.assertGreater(lengths[0], 128 * MiB)
        self.assertEqual(lengths[1], lengths[3])

    def test_a_bitmap_that_grows(self):
        run("qemu-img", "bitmap", "--add", "-g", "64k", self.disk, "a")
        server, _, uri = self.serve(self.disk, "-f", "qcow2", "-B", "a")
        with self.client(uri) as h:
            h.pwrite(b"x", 256 << 10)
        self.assertEqual(self.status(uri, "qemu:dirty-bitmap:a"),
                         [256 << 10, 0, 64 << 10, 1, 4 * MiB - (320 << 10), 0])
        self.end(server)                                        # and it is stored
        _, _, uri = self.serve(self.disk, "-r", "-f", "qcow2", "-B", "a", program="qemu-nbd")
        self.assertEqual(self.status(uri, "qemu:dirty-bitmap:a")[:4], [256 << 10, 0, 64 << 10, 1])


if __name__ == "__main__":
    main()
