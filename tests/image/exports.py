#!/usr/bin/env python3
"""NBD, against programs that are not ours: vireo-nbd with libnbd's, fio's and QEMU's clients; the nbd
driver (in vireo-img and vireo-nbd) with nbdkit and qemu-nbd; the server of the machine.

usage: exports.py VIREO_NBD VIREO_IMG VIREO [unittest arguments]
"""
import contextlib
import json
import os
import random
import signal
import socket
import struct
import threading

import nbd

from nbdcase import VIREO_IMG, VIREO_NBD, TIMEOUT, Case, MiB, Monitored, can_connect, main, run, until


class Server(Case):
    """vireo-nbd and libnbd's programs."""

    def test_what_an_export_says(self):
        _, _, uri = self.serve(self.image(), "-f", "raw", "-x", "name", "-D", "words", "-A", "-e", "3")
        info = json.loads(run("nbdinfo", "--json", "--no-content", uri.replace("///", "///name")).stdout)["exports"][0]
        self.assertEqual(info["export-name"], "name")
        self.assertEqual(info["description"], "words")
        self.assertEqual(info["export-size"], 4 * MiB)
        self.assertEqual(sorted(info["contexts"]), ["base:allocation", "qemu:allocation-depth"])
        for flag in "cache df fast_zero flush fua multi_conn trim zero".split():
            self.assertTrue(info["can_" + flag], flag)
        self.assertFalse(info["is_read_only"])
        self.assertEqual(info["block_size_maximum"], 32 * MiB)
        listed = run("nbdinfo", "--list", uri).stdout.decode()
        self.assertIn('export="name"', listed)
        wrong = run("nbdinfo", uri.replace("///", "///other"), check=False)
        self.assertNotEqual(wrong.returncode, 0)
        self.assertIn("No such file", wrong.stderr.decode())

    def test_map(self):
        image = self.image(data=b"")
        with open(image, "r+b") as f:
            for at in (0, 2 * MiB):
                f.seek(at)
                f.write(b"x" * 65536)
        _, _, uri = self.serve(image, "-f", "raw", "-r")
        extents = [(e["offset"], e["length"], e["type"])
                   for e in json.loads(run("nbdinfo", "--map", "--json", uri).stdout)]
        self.assertEqual(extents, [(0, 65536, 0), (65536, 2 * MiB - 65536, 3), (2 * MiB, 65536, 0),
                                   (2 * MiB + 65536, 2 * MiB - 65536, 3)])

    def test_holes_in_reads(self):
        image = self.image()
        _, _, uri = self.serve(image, "-f", "raw")
        chunks = []
        with self.client(uri) as h:
            data = h.pread_structured(4 * MiB, 0, lambda _, at, kind, err: chunks.append((at, kind)))
            self.assertEqual(bytes(data), self.read(image))
            self.assertEqual(chunks, [(0, nbd.READ_DATA), (2 * MiB, nbd.READ_HOLE)])
            chunks.clear()
            h.pread_structured(4 * MiB, 0, lambda _, at, kind, err: chunks.append((at, kind)),
                               nbd.CMD_FLAG_DF)
            self.assertEqual(chunks, [(0, nbd.READ_DATA)])

    def test_without_structured_replies(self):
        image = self.image()
        _, _, uri = self.serve(image, "-f", "raw")
        h = nbd.NBD()
        h.set_request_structured_replies(False)
        h.set_handshake_flags(0)
        h.connect_uri(uri)
        self.assertFalse(h.get_structured_replies_negotiated())
        self.assertEqual(bytes(h.pread(MiB, MiB)), self.read(image)[MiB:2 * MiB])
        h.shutdown()

    def test_copies(self):
        image = self.image(size=64 * MiB)
        _, _, uri = self.serve(image, "-f", "raw", "-e", "0")
        run("nbdcopy", uri, self.path("a"))
        self.assertEqual(self.read(self.path("a")), self.read(image))
        other = self.image("other.raw", size=64 * MiB, data=random.Random(2).randbytes(MiB))
        _, _, to = self.serve(other, "-f", "raw", "-e", "0")
        run("nbdcopy", uri, to)
        self.assertEqual(self.read(other), self.read(image))

    def test_random_requests_against_a_model(self):
        size = 2 * MiB
        image = self.image(size=size)
        model = bytearray(self.read(image))
        _, _, uri = self.serve(image, "-f", "raw", "-e", "2")
        rng = random.Random(int(os.environ.get("VIREO_NBD_SEED", "7")))
        with self.client(uri) as a, self.client(uri) as b:
            for i in range(int(os.environ.get("VIREO_NBD_REQUESTS", "1500"))):
                h = rng.choice((a, b))
                at = rng.randrange(size)
                length = min(rng.choice((1, 511, 4096, 70000, 300000)), size - at)
                kind = rng.randrange(5)
                flags = rng.choice((0, nbd.CMD_FLAG_FUA))
                if kind == 0:
                    data = rng.randbytes(length)
                    h.pwrite(data, at, flags)
                    model[at:at + length] = data
                elif kind == 1:
                    h.zero(length, at, flags | rng.choice((0, nbd.CMD_FLAG_NO_HOLE)))
                    model[at:at + length] = bytes(length)
                elif kind == 2 and i % 4 == 0:
                    h.flush()
                elif kind == 3 and i % 8 == 0:
                    h.cache(length, at)
                else:
                    self.assertEqual(bytes(h.pread(length, at)), model[at:at + length])
            h.flush()
        self.assertEqual(self.read(image), model)

    def test_trim_frees_space(self):
        image = self.image(data=b"x" * (4 * MiB))
        _, _, uri = self.serve(image, "-f", "raw")
        before = os.stat(image).st_blocks
        with self.client(uri) as h:
            h.trim(2 * MiB, MiB, nbd.CMD_FLAG_FUA)
        self.assertLess(os.stat(image).st_blocks, before - 3000)
        self.assertEqual(os.stat(image).st_size, 4 * MiB)

    def test_refusals(self):
        image = self.image()
        _, _, uri = self.serve(image, "-f", "raw", "-r")
        with self.client(uri) as h:
            self.assertTrue(h.is_read_only())
            h.set_strict_mode(0)
            for what in (lambda: h.pwrite(b"x", 0), lambda: h.zero(512, 0), lambda: h.trim(512, 0)):
                with self.assertRaises(nbd.Error) as caught:
                    what()
                self.assertEqual(caught.exception.errno, "EPERM")
            for what in (lambda: h.pread(1, 4 * MiB), lambda: h.pread(512, 0, 0x40)):
                with self.assertRaises(nbd.Error) as caught:
                    what()
                self.assertEqual(caught.exception.errno, "EINVAL")
            self.assertEqual(len(h.pread(512, 0)), 512)     # and it still serves
        self.assertEqual(self.read(image)[:512], random.Random(1).randbytes(2 * MiB)[:512])

    def test_qemu_as_a_client(self):
        image = self.image(size=16 * MiB)
        _, _, uri = self.serve(image, "-f", "raw", "-e", "2")
        run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "read -P 7 1M 64k",
            "-c", "write -z 8k 4k", "-c", "read -P 0 8k 4k", "-c", "discard 2M 1M", "-c", "flush", uri)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, image)
        self.assertEqual(json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", uri).stdout)[-1]
                         ["data"], False)

    def test_fio(self):
        image = self.image(size=8 * MiB)
        _, _, uri = self.serve(image, "-f", "raw", "-e", "0")
        run("fio", "--name=v", "--ioengine=nbd", "--uri=" + uri, "--rw=randwrite", "--bs=4k-64k",
            "--iodepth=32", "--size=8M", "--verify=crc32c", "--verify_fatal=1", cwd=self.dir)

    def test_an_image_of_a_format(self):
        raw, image = self.image(), self.path("disk.qcow2")
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
        run("qemu-img", "create", "-f", "qcow2", "-b", image, "-F", "qcow2", self.path("top.qcow2"))
        run("qemu-io", "-c", "write -P 3 64k 64k", self.path("top.qcow2"))
        server, _, uri = self.serve(self.path("top.qcow2"), "-f", "qcow2", "-A")
        with self.client(uri, ["qemu:allocation-depth"]) as h:
            found = []
            h.block_status(4 * MiB, 0, lambda name, at, extents, err: found.extend(extents))
            self.assertEqual(found[:6], [65536, 2, 65536, 1, 2 * MiB - 131072, 2])
            self.assertEqual(bytes(h.pread(65536, 65536)), b"\3" * 65536)
            h.pwrite(b"\4" * 1000, 3 * MiB + 77)
        self.end(server)
        run("qemu-img", "check", self.path("top.qcow2"))
        run("qemu-io", "-r", "-c", "read -P 4 %d 1000" % (3 * MiB + 77), self.path("top.qcow2"))


class Wire(Case):
    """The protocol by hand."""

    def connect(self, flags=3):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(TIMEOUT)
        s.connect(self.socket)
        self.addCleanup(s.close)
        self.assertEqual(s.recv(18, socket.MSG_WAITALL)[:8], b"NBDMAGIC")
        s.sendall(struct.pack(">I", flags))
        return s

    def option(self, s, number, data=b"", length=None):
        s.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data) if length is None else length) + data)

    def reply(self, s):
        head = s.recv(20, socket.MSG_WAITALL)
        magic, option, kind, length = struct.unpack(">QIII", head)
        self.assertEqual(magic, 0x3e889045565a9)
        return kind, s.recv(length, socket.MSG_WAITALL) if length else b""

    def closed(self, s):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while s.recv(65536):
                pass

    def request(self, s, kind, offset, length, flags=0, data=b""):
        s.sendall(struct.pack(">IHHQQI", 0x25609513, flags, kind, 1, offset, length) + data)


class Hostile(Wire):
    """Bytes that no client would send."""

    def setUp(self):
        super().setUp()
        self.server, self.socket, self.uri = self.serve(self.image(), "-f", "raw", "-e", "0")

    def tearDown(self):
        self.assertIsNone(self.server.poll(), "the server died")
        run("nbdinfo", "--size", self.uri)

    def go(self):
        s = self.connect()
        self.option(s, 7, struct.pack(">IH", 0, 0))
        while self.reply(s)[0] != 1:
            pass
        return s

    def simple(self, s):
        return struct.unpack(">IIQ", s.recv(16, socket.MSG_WAITALL))[1]

    def test_options(self):
        s = self.connect()
        for number, data, want in ((99, b"abc", 0x80000001), (7, b"\xff" * 9, 0x80000003),
                                   (10, b"", 0x80000003), (3, b"x", 0x80000003),
                                   (6, struct.pack(">I", 0xffffffff), 0x80000003),
                                   (5, b"", 0x80000002), (7, b"\0\0\0\1x\0\0", 0x80000006)):
            self.option(s, number, data)
            self.assertEqual(self.reply(s)[0], want, number)
        self.option(s, 8)
        self.assertEqual(self.reply(s)[0], 1)
        self.option(s, 10, struct.pack(">III", 0, 1, 70000))
        self.assertEqual(self.reply(s)[0], 0x80000003)
        self.option(s, 99, bytes(200000))                   # longer than it listens to
        self.assertEqual(self.reply(s)[0], 0x80000009)
        self.option(s, 2)
        self.assertEqual(self.reply(s)[0], 1)
        self.closed(s)

    def test_greetings(self):
        self.closed(self.connect(flags=0xffff))
        s = self.connect()
        s.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.closed(s)
        s = self.connect()
        self.option(s, 1, b"\0" * 5000)
        self.closed(s)

    def test_requests(self):
        s = self.go()
        for kind, offset, length, flags, want in ((0, 0, 0xffffffff, 0, 22), (77, 0, 1, 0, 22),
                                                  (0, 1 << 63, 1, 0, 22), (0, 2**64 - 1, 4096, 0, 22),
                                                  (7, 0, 4096, 0, 22), (0, 0, 4096, 4, 22),
                                                  (4, 4 * MiB, 1, 0, 28), (6, 0, 0xffffffff, 0, 28),
                                                  (3, 5, 5, 0, 0), (4, 0, 0, 0, 0)):
            self.request(s, kind, offset, length, flags)
            self.assertEqual(self.simple(s), want, (kind, offset, length))
        self.request(s, 1, 4 * MiB, 4096, data=bytes(4096))  # its payload is passed over
        self.assertEqual(self.simple(s), 28)
        self.request(s, 3, 0, 0)
        self.assertEqual(self.simple(s), 0)
        self.request(s, 1, 0, 33 * MiB)
        self.closed(s)

    def test_many_options(self):
        """Who sends many at once has them answered in turn with other clients'."""
        server, self.socket, _ = self.serve(self.image("more"), "-v", "-f", "raw", "-e", "0")
        many = self.connect()
        self.option(many, 98)                               # now it is past its greeting
        self.reply(many)
        server.send_signal(signal.SIGSTOP)
        many.sendall((b"IHAVEOPT" + struct.pack(">II", 99, 0)) * 400)
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(self.socket)
            one.sendall(struct.pack(">I", 3))
            self.option(one, 97)
            server.send_signal(signal.SIGCONT)
            one.recv(18, socket.MSG_WAITALL)
            self.reply(one)
        for _ in range(400):
            self.reply(many)
        server.terminate()
        log = server.communicate(timeout=TIMEOUT)[1].decode()
        self.assertEqual(log.count("option 99"), 400)
        self.assertGreater(log[log.index("option 97"):].count("option 99"), 200)

    def test_bad_magic(self):
        s = self.go()
        s.sendall(b"\0" * 28)
        self.closed(s)

    def test_who_never_reads(self):
        s = self.go()
        s.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:                                     # until the server listens no more
                self.request(s, 0, 0, 2 * MiB)
        with self.client(self.uri) as h:                    # the others are served meanwhile
            self.assertEqual(len(h.pread(MiB, 0)), MiB)
        with open("/proc/%d/statm" % self.server.pid) as f:
            self.assertLess(int(f.read().split()[1]) * 4096, 200 * MiB)

    def test_cut_off_in_the_middle(self):
        for length in (0, 1, 27, 28, 5000):
            s = self.go()
            s.sendall((struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 65536) + bytes(65536))[:length])
            s.close()

    def test_noise(self):
        rng = random.Random(3)
        for i in range(100):
            s = self.connect() if i % 2 else self.go()
            with contextlib.suppress(OSError):
                s.sendall(rng.randbytes(rng.randrange(1, 3000)))
                s.shutdown(socket.SHUT_WR)
            self.closed(s)

    def test_a_handshake_that_never_ends(self):
        threads = threading.active_count()
        idle = [self.connect() for _ in range(20)]
        with self.client(self.uri) as h:
            h.pread(512, 0)
        del idle
        self.assertEqual(threading.active_count(), threads)


class Extended(Wire):
    """Extended headers: requests of 64 bits, by a client of our own (libnbd has them from 1.18)."""

    SIZE = 1 << 40

    def setUp(self):
        super().setUp()
        self.file = self.image("large", size=self.SIZE, data=b"x" * 65536)
        self.server, self.socket, self.uri = self.serve(self.file, "-f", "raw", "-e", "0", "-A")
        self.s = self.connect()
        self.option(self.s, 11)
        self.assertEqual(self.reply(self.s)[0], 1)
        names = b"".join(struct.pack(">I", len(n)) + n for n in (b"base:allocation", b"qemu:allocation-depth"))
        self.option(self.s, 10, struct.pack(">II", 0, 2) + names)
        self.assertEqual([self.reply(self.s)[0] for _ in range(3)], [4, 4, 1])

    def start(self):
        self.option(self.s, 7, struct.pack(">IH", 0, 0))
        info = b""
        kind, data = self.reply(self.s)
        while kind != 1:
            info, (kind, data) = data if data[:2] == b"\0\0" else info, self.reply(self.s)
        self.assertTrue(struct.unpack(">H", info[10:])[0] & 1 << 12)    # BLOCK_STAT_PAYLOAD

    def ask(self, kind, offset, length, flags=0, data=b""):
        self.s.sendall(struct.pack(">IHHQQQ", 0x21e41c71, flags, kind, 77, offset, length) + data)
        chunks = []
        while not chunks or not chunks[-1][0] & 1:
            magic, done, what, cookie, at, size = struct.unpack(">IHHQQQ", self.s.recv(32, socket.MSG_WAITALL))
            self.assertEqual((magic, cookie, at), (0x6e8a278c, 77, offset))
            chunks.append((done, what, self.s.recv(size, socket.MSG_WAITALL) if size else b""))
        return [chunk[1:] for chunk in chunks]

    def error(self, *request):
        (what, data), = self.ask(*request)
        self.assertEqual(what, 0x8001)
        return struct.unpack(">I", data[:4])[0]

    def extents(self, data):
        ident, count = struct.unpack(">II", data[:8])
        self.assertEqual(len(data), 8 + 16 * count)
        return ident, struct.unpack(">%dQ" % (2 * count), data[8:])

    def test_negotiation(self):
        for number, want in ((8, 0x8000000a), (11, 0x80000003)):
            self.option(self.s, number)
            self.assertEqual(self.reply(self.s)[0], want)
        other = self.connect()
        self.option(other, 11, b"x")
        self.assertEqual(self.reply(other)[0], 0x80000003)
        self.option(self.s, 1)                              # who can GO does not ask so
        self.closed(self.s)

    def test_data(self):
        self.start()
        self.assertEqual(self.ask(1, 1 << 35, 4096, 0x20, b"y" * 4096), [(0, b"")])
        self.assertEqual(self.ask(1, 4096, 512, 0x21, b"z" * 512), [(0, b"")])
        self.assertEqual(self.ask(0, 1 << 35, 4096), [(1, struct.pack(">Q", 1 << 35) + b"y" * 4096)])
        chunks = self.ask(0, 0, 1 << 20)
        self.assertEqual([what for what, _ in chunks], [1, 2])
        self.assertEqual(chunks[0][1][8:], b"x" * 4096 + b"z" * 512 + b"x" * (65536 - 4608))
        self.assertEqual(chunks[1][1], struct.pack(">QI", 65536, (1 << 20) - 65536))
        self.assertEqual(self.ask(0, 0, 0), [(0, b"")])
        self.assertEqual(self.ask(3, 0, 0), [(0, b"")])

    def test_long_areas(self):
        """More than 32 bits can say, at once."""
        self.start()
        self.assertEqual(self.ask(1, 3 << 33, 4096, 0x20, b"y" * 4096), [(0, b"")])
        (what, data), (also, depth) = self.ask(7, 0, self.SIZE)
        self.assertEqual((what, also), (6, 6))
        self.assertEqual(self.extents(data)[1], (65536, 0, (3 << 33) - 65536, 3, 4096, 0,
                                                 self.SIZE - (3 << 33) - 4096, 3))
        self.assertEqual(sum(self.extents(depth)[1][::2]), self.SIZE)
        self.assertEqual(self.ask(6, 1 << 33, 1 << 38), [(0, b"")])
        self.assertEqual(self.ask(4, 0, 1 << 38, 1), [(0, b"")])
        (_, data), _ = self.ask(7, 0, self.SIZE, 8)
        self.assertEqual(self.extents(data)[1], (self.SIZE, 3))
        self.assertLess(os.stat(self.file).st_blocks, 128)

    def test_some_contexts(self):
        self.start()
        (_, first), (_, second) = self.ask(7, 0, 4096)
        for data in (first, second):
            ident, found = self.extents(data)
            self.assertEqual(self.ask(7, 0, 12, 0x20, struct.pack(">QI", 4096, ident)), [(6, data)])
        payload = struct.pack(">QII", 1 << 39, self.extents(second)[0], self.extents(first)[0])
        self.assertEqual([self.extents(data)[0] for _, data in self.ask(7, 0, 16, 0x28, payload)],
                         [self.extents(second)[0], self.extents(first)[0]])
        for bad in (b"", b"x" * 7, struct.pack(">Q", 4096), struct.pack(">QI", 4096, 99),
                    struct.pack(">QII", 4096, 0, 0), struct.pack(">QI", 1 << 41, 0), struct.pack(">QI", 0, 0),
                    struct.pack(">QIII", 4096, 0, 1, 2), struct.pack(">QIH", 4096, 0, 1)):
            self.assertEqual(self.error(7, 0, len(bad), 0x20, bad), 22, bad)

    def test_refusals(self):
        self.start()
        for request, want in (((0, 0, 1 << 33), 75), ((0, self.SIZE, 1), 22), ((4, 0, 1 << 41), 28),
                              ((6, 2**64 - 1, 2**64 - 1), 28), ((7, 0, 2**64 - 1), 22), ((99, 0, 1), 22),
                              ((0, 0, 5, 0x20, b"12345"), 22), ((99, 0, 5, 0x20, b"12345"), 22)):
            self.assertEqual(self.error(*request), want, request)
        self.assertEqual(self.ask(3, 0, 0), [(0, b"")])
        self.s.sendall(struct.pack(">IHHQQQ", 0x21e41c71, 0x20, 1, 1, 0, 1 << 40))   # nobody waits for so much
        self.closed(self.s)
        other = self.connect()
        self.option(other, 11)
        self.reply(other)
        self.option(other, 7, struct.pack(">IH", 0, 0))
        while self.reply(other)[0] != 1:
            pass
        self.request(other, 0, 0, 512)                      # a compact request
        other.sendall(bytes(4))
        self.closed(other)


class Client(Case):
    """The nbd driver and servers that are not ours."""

    def kit(self, *line, options=()):
        self.count += 1
        path = self.path("k%d" % self.count)
        self.daemon("nbdkit", "-f", "-U", path, *options, *line, ready=path)
        until(lambda: can_connect(path), "nbdkit")
        return "nbd+unix:///?socket=" + path

    def test_qemu_nbd(self):
        image = self.image()
        path = self.path("q")
        self.daemon("qemu-nbd", "-k", path, "-t", "-e", "4", "-f", "raw", "-x", "e/x", image, ready=path)
        uri = "nbd+unix:///e/x?socket=" + path
        out = json.loads(run(VIREO_IMG, "info", "--output=json", uri).stdout)
        self.assertEqual((out["virtual-size"], out["format"]), (4 * MiB, "raw"))
        run(VIREO_IMG, "convert", "-f", "raw", "-O", "raw", uri, self.path("out"))
        self.assertEqual(self.read(self.path("out")), self.read(image))
        run(VIREO_IMG, "compare", "-f", "raw", "-F", "raw", "nbd:unix:%s:exportname=e/x" % path,
            self.path("out"))
        mapped = json.loads(run(VIREO_IMG, "map", "--output=json", "-f", "raw", uri).stdout)
        self.assertEqual([(e["start"], e["length"], e["data"]) for e in mapped],
                         [(0, 2 * MiB, True), (2 * MiB, 2 * MiB, False)])

    def test_writes_to_nbdkit(self):
        uri = self.kit("memory", "4M")
        image = self.image()
        _, _, ours = self.serve(uri, "-f", "raw", "-e", "0")
        run("nbdcopy", image, ours)
        run("nbdcopy", uri, self.path("out"))
        self.assertEqual(self.read(self.path("out")), self.read(image))
        with self.client(ours) as h:
            h.zero(MiB, 0)
            h.trim(MiB, MiB)
            h.flush()
            self.assertEqual(bytes(h.pread(MiB, 0)), bytes(MiB))

    def test_servers_that_can_do_little(self):
        image = self.image()
        for filters in (("--filter=nozero", "--filter=nofilter"), ("--no-sr",), ("--mask-handshake=0",),
                        ("--filter=nocache", "--filter=blocksize-policy")):
            more = ["blocksize-minimum=512", "blocksize-error-policy=error"] \
                if "--filter=blocksize-policy" in filters else []
            uri = self.kit("file", image, *more, options=filters)
            _, _, ours = self.serve(uri, "-f", "raw", "-e", "0")
            with self.client(ours, aligned=False) as h:
                self.assertEqual(bytes(h.pread(1000, 3)), self.read(image)[3:1003])
                h.pwrite(b"abc", 4097, nbd.CMD_FLAG_FUA)
                h.zero(5000, 8191)
                self.assertEqual(bytes(h.pread(5, 4096))[1:4], b"abc")
                self.assertEqual(bytes(h.pread(5000, 8191)), bytes(5000))

    def test_an_error_is_an_error(self):
        uri = self.kit("memory", "4M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%",
                       "error-pread=EIO", "error-pread-rate=50%", options=["--filter=error"])
        _, _, ours = self.serve(uri, "-f", "raw", "-e", "0")
        failed = 0
        with self.client(ours) as h:
            with self.assertRaises(nbd.Error) as caught:
                h.pwrite(bytes(512), 0)
            self.assertEqual(caught.exception.errno, "ENOSPC")
            for _ in range(60):
                try:
                    h.pread(512, 0)
                except nbd.Error as e:
                    self.assertEqual(e.errno, "EIO")
                    failed += 1
        self.assertTrue(0 < failed < 60)

    def test_a_slow_server(self):
        log = self.path("log")
        uri = self.kit("memory", "4M", "rdelay=100ms", "logfile=" + log, options=["--filter=log", "--filter=delay"])
        _, _, ours = self.serve(uri, "-f", "raw", "-e", "0")
        with self.client(ours) as h:                        # all at once: not one after the other
            buffers = [nbd.Buffer(512) for _ in range(32)]
            cookies = [h.aio_pread(b, i * 512) for i, b in enumerate(buffers)]
            while not all(h.aio_command_completed(c) for c in cookies if c in self.left(h, cookies)):
                h.poll(-1)
        with open(log) as f:
            reads = [line for line in f if "Read id=" in line]
        first_end = min(i for i, line in enumerate(reads) if "...Read" in line)
        self.assertGreater(first_end, 4, reads)

    def left(self, h, cookies):
        if not hasattr(self, "finished"):
            self.finished = set()
        for c in cookies:
            if c not in self.finished and h.aio_command_completed(c):
                self.finished.add(c)
        return [c for c in cookies if c not in self.finished]

    def test_it_comes_back(self):
        image, path = self.image(), self.path("back")
        first = self.daemon("qemu-nbd", "-k", path, "-t", "-f", "raw", image, ready=path)
        ours = self.serve("driver=nbd,server.type=unix,server.path=%s,reconnect-delay=50" % path,
                          "--image-opts")[2]
        with self.client(ours) as h:
            self.assertEqual(bytes(h.pread(512, 0)), self.read(image)[:512])
            first.kill()
            first.wait()
            os.unlink(path)
            buffer = nbd.Buffer(4096)
            cookie = h.aio_pread(buffer, 4096)
            h.poll(0)
            self.daemon("qemu-nbd", "-k", path, "-t", "-f", "raw", image, ready=path)
            while not h.aio_command_completed(cookie):
                h.poll(-1)
            self.assertEqual(bytes(buffer.to_bytearray()), self.read(image)[4096:8192])

    def test_it_dies_under_load(self):
        """Killed in the middle of it, several times: every request waits, none fails, nothing is lost."""
        size, block = 8 * MiB, 16384
        image, path = self.image(size=size, data=b""), self.path("dies")
        ours = self.serve("driver=nbd,server.type=unix,server.path=%s,reconnect-delay=50" % self.start_backend(
            path, image), "--image-opts", "-e", "0")[2]
        rng = random.Random(11)
        model = bytearray(size)
        for turn in range(4):
            order = list(range(size // block))
            rng.shuffle(order)
            with self.client(ours) as h, self.client(ours) as other:
                cookies = []
                for n, index in enumerate(order):
                    data = rng.randbytes(block)
                    model[index * block:(index + 1) * block] = data
                    who = h if n % 2 else other
                    cookies.append((who, who.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), index * block)))
                    if n == len(order) // 3:                # some are done, some are not
                        self.backend.kill()
                        self.backend.wait()
                        os.unlink(path)
                    if n == len(order) // 2:                # and those that came since wait
                        self.start_backend(path, image)
                for who, cookie in cookies:
                    while not who.aio_command_completed(cookie):  # raises if it has failed
                        who.poll(-1)
                if turn % 2:
                    h.flush()
                    self.assertTrue(bytes(h.pread(size, 0)) == model)
            self.assertTrue(self.read(image) == model, "turn %d" % turn)

    def start_backend(self, path, image):
        self.backend = self.daemon("qemu-nbd", "-k", path, "-t", "-e", "0", "-f", "raw", image, ready=path)
        until(lambda: can_connect(path), "qemu-nbd")
        return path

    def test_it_is_gone_for_good(self):
        image, path = self.image(), self.path("gone")
        first = self.daemon("qemu-nbd", "-k", path, "-t", "-f", "raw", image, ready=path)
        ours = self.serve("driver=nbd,server.type=unix,server.path=%s" % path, "--image-opts")[2]
        with self.client(ours) as h:
            h.pread(512, 0)
            first.kill()
            first.wait()
            for _ in range(5):
                with self.assertRaises(nbd.Error) as caught:
                    h.pread(512, 0)
                self.assertEqual(caught.exception.errno, "EIO")

    def test_a_descriptor(self):
        """A connection that somebody else made, which is good for one attempt."""
        path = self.serve(self.image(), "-f", "raw", "-e", "2")[1]
        for first, ok in ((b"", True), (b"nonsense", False)):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
                s.sendall(first)
                done = run(VIREO_IMG, "info", "--image-opts", "driver=nbd,open-timeout=60,server.type=fd,server.str=%d"
                           % s.fileno(), check=False, pass_fds=[s.fileno()])
            self.assertEqual(done.returncode == 0, ok, done.stderr)

    def test_it_was_never_there(self):
        done = run(VIREO_IMG, "info", "nbd+unix:///?socket=" + self.path("none"), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("Failed to connect", done.stderr.decode())
        for name in ("nbd:x", "nbd://h/e?socket=/x", "nbd+unix:///", "nbd://h/?evil=1"):
            done = run(VIREO_IMG, "info", name, check=False)
            self.assertEqual(done.returncode, 1, name)
            self.assertIn("vireo-img: ", done.stderr.decode())


class Qmp(Monitored):
    """The server inside the machine."""

    def setUp(self):
        super().setUp()
        self.call("blockdev-add", {"driver": "raw", "node-name": "disk",
                                   "file": {"driver": "file", "filename": self.image()}})

    def remove(self, command, arguments):
        """The server needs a moment to see that a client has gone."""
        until(lambda: "return" in self.answer(command, arguments), command)
        until(lambda: not self.call("query-block-exports"), "the export goes")

    def test_life(self):
        export = {"type": "nbd", "id": "e0", "node-name": "disk", "name": "x", "writable": True,
                  "iothread": "io0"}
        self.refused("block-export-add", export, "not running")
        self.start()
        self.refused("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "/x"}}},
                     "already running")
        self.call("block-export-add", export)
        self.refused("block-export-add", export, "already")
        self.assertEqual(self.call("query-block-exports"),
                         [{"id": "e0", "type": "nbd", "node-name": "disk", "shutting-down": False}])
        self.refused("blockdev-del", {"node-name": "disk"}, "busy")
        self.refused("object-del", {"id": "io0"}, "in use")
        with self.client("nbd+unix:///x?socket=" + self.sock) as h:
            h.pwrite(b"hello", 7)
            self.assertEqual(bytes(h.pread(5, 7)), b"hello")
            self.refused("block-export-del", {"id": "e0"}, "in use")
        h = nbd.NBD()
        h.connect_uri("nbd+unix:///x?socket=" + self.sock)
        self.call("block-export-del", {"id": "e0", "mode": "hard"})
        until(lambda: not self.call("query-block-exports"), "the export goes")
        with self.assertRaises(nbd.Error):
            h.pread(512, 0)
        until(lambda: self.call("query-block-exports") is not None and self.events, "an event")
        self.assertEqual([e["data"] for e in self.events if e["event"] == "BLOCK_EXPORT_DELETED"],
                         [{"id": "e0"}])
        self.call("nbd-server-stop")
        self.call("blockdev-del", {"node-name": "disk"})
        self.call("object-del", {"id": "io0"})

    def test_the_older_commands(self):
        self.start()
        self.call("nbd-server-add", {"device": "disk"})
        run("nbdinfo", "--size", "nbd+unix:///disk?socket=" + self.sock)
        self.remove("nbd-server-remove", {"name": "disk"})
        self.call("nbd-server-add", {"device": "disk", "name": "again", "writable": True})
        h = nbd.NBD()
        h.connect_uri("nbd+unix:///again?socket=" + self.sock)
        self.call("nbd-server-stop")                        # with a client there
        self.call("blockdev-del", {"node-name": "disk"})
        self.assertFalse(os.path.exists(self.sock))

    def test_a_listening_descriptor(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(self.sock)
            socket.send_fds(self.monitor, [json.dumps({"execute": "getfd", "arguments": {"fdname": "nbd"}}).encode()],
                            [s.fileno()])
            self.assertIn("return", json.loads(self.lines.readline()))
            addr = {"addr": {"type": "fd", "data": {"str": "nbd"}}}
            self.refused("nbd-server-start", addr, "no listening socket")
            self.refused("nbd-server-start", addr, "nbd")   # it was used up
            s.listen()
            socket.send_fds(self.monitor, [json.dumps({"execute": "getfd", "arguments": {"fdname": "nbd"}}).encode()],
                            [s.fileno()])
            self.assertIn("return", json.loads(self.lines.readline()))
        self.call("nbd-server-start", addr)
        self.call("nbd-server-add", {"device": "disk"})
        run("nbdinfo", "--size", "nbd+unix:///disk?socket=" + self.sock)
        self.call("nbd-server-stop")

    def test_bitmaps(self):
        self.call("block-dirty-bitmap-add", {"node": "disk", "name": "b", "granularity": 65536})
        self.start()
        self.call("block-export-add", {"type": "nbd", "id": "w", "node-name": "disk", "writable": True})
        with self.client("nbd+unix:///disk?socket=" + self.sock) as h:
            h.pwrite(b"x", 70000)
        self.remove("block-export-del", {"id": "w"})
        self.call("block-dirty-bitmap-disable", {"node": "disk", "name": "b"})
        self.call("block-export-add", {"type": "nbd", "id": "r", "node-name": "disk", "bitmaps": ["b"]})
        found = []
        with self.client("nbd+unix:///disk?socket=" + self.sock, ["qemu:dirty-bitmap:b"]) as h:
            h.block_status(4 * MiB, 0, lambda name, at, extents, err: found.extend(extents))
        self.assertEqual(found, [65536, 0, 65536, 1, 4 * MiB - 131072, 0])
        self.refused("block-dirty-bitmap-remove", {"node": "disk", "name": "b"}, "in use")
        self.call("nbd-server-stop")
        self.call("block-dirty-bitmap-remove", {"node": "disk", "name": "b"})

    def test_it_ends_with_clients(self):
        self.start()
        self.call("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk"})
        h = nbd.NBD()
        h.connect_uri("nbd+unix:///disk?socket=" + self.sock)
        self.call("quit")


if __name__ == "__main__":
    main()
