#!/usr/bin/env python3
"""vireo-img against qemu-img: the same inputs, the same outputs, exit codes and images.

usage: img.py VIREO_IMG VIREO [unittest arguments]
"""
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

VIREO_IMG = VIREO = None
TIMEOUT = 60
MiB = 1 << 20


class Result:
    def __init__(self, done):
        self.code, self.out = done.returncode, done.stdout.decode()
        self.err = done.stderr.decode()


def run(program, *words, cwd=None):
    return Result(subprocess.run([program, *map(str, words)], capture_output=True, timeout=TIMEOUT, cwd=cwd,
                                 stdin=subprocess.DEVNULL, check=False))


def pieces(size, seed, count=40):
    """(offset, length, byte) of a disk with data, holes and written zeroes."""
    dice = random.Random(seed)
    for _ in range(count):
        at = dice.randrange(0, size, 512)
        length = min(dice.choice([512, 4096, 65536, 300000 // 512 * 512]), size - at)
        yield at, length, dice.choice([0, 1, 0x5a, 0xff])


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="vireo-img-")
        self.addCleanup(shutil.rmtree, self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def img(self, *words, code=0):
        """Run ours in the folder -> Result."""
        done = run(VIREO_IMG, *words, cwd=self.dir)
        self.assertEqual(done.code, code, "%s\n%s%s" % (words, done.out, done.err))
        return done

    def qemu(self, *words, code=0):
        done = run("qemu-img", *words, cwd=self.dir)
        self.assertEqual(done.code, code, "%s\n%s%s" % (words, done.out, done.err))
        return done

    def both(self, *words):
        """Both of them: the same exit code and the same text on stdout."""
        ours, theirs = run(VIREO_IMG, *words, cwd=self.dir), run("qemu-img", *words, cwd=self.dir)
        self.assertEqual((ours.code, ours.out), (theirs.code, theirs.out),
                         "%s\n%s\n%s" % (words, ours.err, theirs.err))
        return ours

    def both_json(self, *words):
        ours, theirs = run(VIREO_IMG, *words, cwd=self.dir), run("qemu-img", *words, cwd=self.dir)
        self.assertEqual((ours.code, json.loads(ours.out)), (theirs.code, json.loads(theirs.out)), words)
        return json.loads(ours.out)

    def raw(self, name, size=8 * MiB, seed=1):
        with open(self.path(name), "wb") as f:
            f.truncate(size)
            for at, length, byte in pieces(size, seed):
                f.seek(at)
                f.write(bytes([byte]) * length)
        return name

    def image(self, name, options="", size=8 * MiB, seed=1):
        """A qcow2 image by qemu-img, with a raw one of the same content beside it."""
        self.raw(name + ".raw", size, seed)
        self.qemu("convert", "-O", "qcow2", *(["-o", options] if options else []), name + ".raw", name)
        return name

    def same(self, one, other, *formats):
        """Both tools find the same content."""
        for tool in (self.img, self.qemu):
            self.assertIn("Images are identical", tool("compare", *formats, one, other).out)

    def sound(self, name):
        for tool in (self.img, self.qemu):
            self.assertIn("No errors were found", tool("check", name).out)


class Outputs(Case):
    def test_info(self):
        self.raw("a.raw")
        self.image("a.qcow2", "cluster_size=4k,lazy_refcounts=on")
        self.qemu("create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2")
        for name in ("a.raw", "a.qcow2", "top.qcow2"):
            self.both("info", name)
            self.both_json("info", "--output=json", name)
        self.both("info", "--backing-chain", "top.qcow2")
        self.both_json("info", "--backing-chain", "--output=json", "top.qcow2")
        self.img("info", "nothing.img", code=1)

    def test_map(self):
        self.image("a.qcow2")
        self.image("c.qcow2", "cluster_size=128k,extended_l2=on", seed=5)
        self.qemu("create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2", "9M")
        self.qemu("create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "top2.qcow2", "12M")
        self.both("map", "c.qcow2")
        for name in ("a.qcow2.raw", "a.qcow2", "top.qcow2", "top2.qcow2"):
            self.both("map", name)
            self.both_json("map", "--output=json", name)
        self.both_json("map", "--output=json", "--start-offset=1M", "--max-length=3M", "a.qcow2")

    def test_measure(self):
        self.image("a.qcow2")
        for name in ("a.qcow2", "a.qcow2.raw"):
            for words in (["-O", "raw"], ["-O", "qcow2"], ["-O", "qcow2", "-o", "cluster_size=4k"]):
                self.both("measure", *words, name)
                self.both_json("measure", "--output=json", *words, name)
        self.both("measure", "-O", "qcow2", "--size", "3T")
        self.both("measure", "-O", "qcow2", "-o", "preallocation=full", "--size", "1G")
        self.img("measure", code=1)

    def test_check(self):
        self.image("a.qcow2")
        self.both("check", "a.qcow2")
        self.both_json("check", "--output=json", "a.qcow2")
        self.img("check", "-f", "raw", "a.qcow2.raw", code=63)
        self.qemu("check", "-f", "raw", "a.qcow2.raw", code=63)
        self.img("check", "nothing.qcow2", code=1)

    def test_create_options(self):
        for words in (["-f", "raw", "x", "1000"], ["-f", "raw", "-o", "preallocation=falloc", "x", "1M"],
                      ["-f", "raw", "x"], ["-f", "raw", "-o", "nonsense=1", "x", "1M"],
                      ["-f", "qcow9", "x", "1M"], ["/nonexistent/x", "1M"],
                      ["-f", "raw", "-b", "y", "-F", "raw", "x", "1M"]):
            ours, theirs = run(VIREO_IMG, "create", *words, cwd=self.dir), run("qemu-img", "create", *words, cwd=self.dir)
            self.assertEqual((ours.code, ours.out), (theirs.code, theirs.out), words)
        self.assertEqual(self.img("create", "-f", "raw", "-o", "help", "x").out,
                         self.qemu("create", "-f", "raw", "-o", "help", "x").out)
        self.both("create", "-q", "-f", "raw", "x", "1M")

    def test_help(self):
        top = self.img("--help").out
        for command in ("amend bench bitmap check commit compare convert create dd info map measure rebase resize "
                        "snapshot").split():
            self.assertIn("  %s " % command, top)
            self.assertIn("usage: vireo-img " + command, self.img(command, "--help").out)
        page = self.img("--man-page").out
        self.assertIn(".SS convert", page)
        self.assertIn("did you mean 'convert'", self.img("comvert", code=1).err)
        self.img("info", "--nonsense", "x", code=1)


class Names(Case):
    """How an image is named: json:, prefixes, options, and what a header says of its backing file."""

    def setUp(self):
        super().setUp()
        self.image("a.qcow2", size=MiB)
        self.qemu("create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2")

    def overlay(self, name, backing, *words):
        self.qemu("create", "-q", "-f", "qcow2", "-u", "-b", backing, *words, name, "1M")
        return name

    def test_json(self):
        for text in ('{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}',
                     '{"driver":"qcow2","file.driver":"file","file.filename":"a.qcow2"}',
                     '{"driver":"qcow2","file.filename":"a.qcow2"}', '{"file.filename":"a.qcow2"}',
                     '{"file":{"filename":"a.qcow2"}}'):
            with self.subTest(text=text):
                self.both("info", "json:" + text)
                self.both_json("map", "--output=json", "json:" + text)
                self.both_json("info", "-U", "--backing-chain", "--output=json",
                               self.overlay("t.qcow2", "json:" + text, "-F", "qcow2"))
                self.both("map", "t.qcow2")
        self.both("info", 'json:{"driver":"file","filename":"a.qcow2"}')
        self.both("info", "-f", "raw", 'json:{"driver":"qcow2","file.filename":"a.qcow2"}')
        for text in ("nonsense", "[]", "{}", '{"driver":"qcow2"}', '{"filename":"a.qcow2"}',
                     '{"driver":"qcow2","foo":1,"file.filename":"a.qcow2"}', '{"file.x":1,"file":2}'):
            self.img("info", "json:" + text, code=1)

    def test_content_is_not_probed(self):
        """What a guest has written into its disk says nothing of the disk's format."""
        self.qemu("create", "-q", "-f", "qcow2", "inner.qcow2", "64k")
        self.qemu("create", "-q", "-f", "qcow2", "outer.qcow2", "1M")
        self.qemu("convert", "-n", "-f", "raw", "-O", "qcow2", "inner.qcow2", "outer.qcow2")
        name = 'json:{"driver":"qcow2","file.filename":"outer.qcow2"}'
        self.both("info", name)
        self.img("convert", "-O", "raw", name, "b.raw")
        self.same("outer.qcow2", "b.raw", "-f", "qcow2", "-F", "raw")
        self.img("convert", "-n", "-f", "raw", "a.qcow2.raw", "outer.qcow2", code=1)   # -O raw: it is too small

    def test_prefixes(self):
        for name in ("file:a.qcow2", "null-co://", "host_device:/dev/null"):
            self.both("info", name)
        self.both("info", "--backing-chain", self.overlay("t.qcow2", "file:a.qcow2", "-F", "qcow2"))

    def test_options_of_the_backing_file(self):
        for words in ("backing.driver=raw,backing.file.filename=a.qcow2.raw", "backing.driver=qcow2",
                      "backing.l2-cache-size=1M", "backing.file.filename=a.qcow2"):
            self.both_json("map", "--output=json", "--image-opts", "driver=qcow2,file.filename=top.qcow2," + words)
        self.both("commit", "--image-opts", "driver=qcow2,file.filename=top.qcow2")
        self.img("commit", "-b", self.path("a.qcow2"), "top.qcow2")
        self.both("rebase", "-b", 'json:{"driver":"raw","file.filename":"a.qcow2.raw"}', "-F", "raw", "top.qcow2")
        self.sound("top.qcow2")

    def test_loops(self):
        self.overlay("one", "two", "-F", "qcow2")
        self.overlay("two", "one", "-F", "qcow2")
        for n, text in enumerate(('"driver":"qcow2","file.filename":"loop%d"', '"file.filename":"loop%d"',
                                  '"driver":"raw","file":{"driver":"qcow2","file.filename":"loop%d"}')):
            self.overlay("loop%d" % n, "json:{%s}" % text % n, "-F", "qcow2")
        for name in ("one", "loop0", "loop1", "loop2"):
            for words in (["map"], ["check"], ["convert", "-O", "raw"]):
                done = self.img(*words, name, *(["out"] if len(words) > 1 else []), code=1)
                self.assertIn("an image that backs itself", done.err)
                self.assertLess(len(done.err), 300)


class Words(Case):
    def test_formatting(self):
        self.both("create", "-f", "qcow2", "-o", "data_file=d", "x", "1M")
        self.both("info", "x")
        for options in ("", "lazy_refcounts", "cluster_size=4k,preallocation=metadata,compat=1.1", "compat=v2",
                        "nocow=off,size=3k", "data_file=d,data_file_raw=on", "refcount_bits=8,extended_l2=on"):
            self.both("create", "-f", "qcow2", *(["-o", options] if options else []), "x",
                      *([] if "size=3k" in options else ["1M"]))
        for options in ("size=1M", "", ",", "cluster_size=4k,", "cluster_size=x", "lazy_refcounts=7"):
            self.both("create", "-q", "-f", "qcow2", "-o", options, "x", "2M")

    def test_help_without_a_file(self):
        for words in (["create", "-o", "help"], ["create", "-f", "raw", "-o", "size=1M,help"],
                      ["convert", "-o", "help"], ["amend", "-f", "raw", "-o", "help"]):
            self.both(*words)
        for words in (["create", "-f", "qcow2", "-o", "help"], ["convert", "-O", "qcow2", "-o", "help", "a", "b"]):
            ours, theirs = self.img(*words).out, self.qemu(*words).out
            self.assertEqual(ours.splitlines()[:2] + ours.splitlines()[-3:],
                             theirs.splitlines()[:2] + theirs.splitlines()[-3:])

    def test_snapshots_are_deleted_by_name(self):
        self.image("a.qcow2", size=MiB)
        for name in ("one", "1"):
            self.qemu("snapshot", "-c", name, "a.qcow2")
        self.img("snapshot", "-d", "2", "a.qcow2", code=1)
        self.img("snapshot", "-d", "1", "a.qcow2")
        self.assertIn("one", self.both("snapshot", "-l", "a.qcow2").out)
        self.img("convert", "-l", "snapshot.id=1,snapshot.name=1", "a.qcow2", "b.raw", code=1)
        self.img("convert", "-l", "snapshot.id=1,snapshot.name=one", "a.qcow2", "b.raw")

    def test_compare_sizes(self):
        for name, size in (("a", MiB), ("b", 2 * MiB)):
            self.raw(name, size, seed=size)
        self.raw("c", MiB)
        self.qemu("create", "-q", "-f", "raw", "d", "2M")
        self.qemu("convert", "-n", "-f", "raw", "-O", "raw", "c", "d")
        for words in (["a", "b"], ["c", "d"], ["d", "c"], ["-s", "c", "d"], ["b", "d"]):
            self.both("compare", "-f", "raw", "-F", "raw", *words)

    def test_compare_long_extents(self):
        """Ten terabytes without data in extents of two lengths: no cluster is looked at for each of the other's."""
        self.qemu("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M,extended_l2=on", "a", "10T")
        self.qemu("create", "-q", "-f", "qcow2", "b", "10T")
        for name in ("a", "b"):
            run("qemu-io", "-c", "write -P 1 1T 1M", "-c", "write -P 1 9T 64k", name, cwd=self.dir)
        self.both("compare", "a", "b")
        run("qemu-io", "-c", "write -P 2 9T 512", "b", cwd=self.dir)
        for words in (["a", "b"], ["b", "a"]):
            self.both("compare", *words)

    def test_refusals(self):
        self.raw("a.raw", MiB)
        self.qemu("create", "-q", "-f", "raw", "b.raw", "1M")
        for words in (["-c", "-O", "qcow2", "-o", "preallocation=full"], ["-O", "qcow2", "--bitmaps"], ["-S", "1G"],
                      ["-n", "-o", "size=1M", "-O", "raw"]):
            self.both("convert", *words, "-f", "raw", "a.raw", "b.raw")
        self.both("measure", "-O", "qcow2", "--size", "7")

    def test_grow_with_preallocation(self):
        """A backing file that ends before is not in the way."""
        self.image("a.qcow2", size=MiB)
        self.qemu("create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2")
        self.img("resize", "--preallocation=full", "top.qcow2", "2M")
        self.sound("top.qcow2")
        self.same("a.qcow2", "top.qcow2")


class Encrypted(Case):
    SECRET = ["--object", "secret,id=s,data=abc"]

    def test_zeroes_are_written(self):
        """Where encrypted storage has its place already, not writing zeroes would show noise."""
        self.raw("a.raw", MiB)
        for prefix, driver in (("", "luks"), ("encrypt.", "qcow2")):
            for more in ("", ",preallocation=full"):
                with self.subTest(driver=driver, more=more):
                    options = "%skey-secret=s,%siter-time=10" % (prefix, prefix)
                    options += ",encrypt.format=luks" if prefix else ""
                    self.img("convert", *self.SECRET, "-f", "raw", "-O", driver, "-o", options + more, "a.raw", "b")
                    name = "driver=%s,%skey-secret=s,file.filename=b" % (driver, prefix)
                    for tool in (self.img, self.qemu):
                        tool("compare", *self.SECRET, "--image-opts", name, "driver=raw,file.filename=a.raw")


class Converting(Case):
    OPTIONS = ["", "cluster_size=512", "cluster_size=2M", "extended_l2=on,cluster_size=64k", "compat=0.10",
               "refcount_bits=1", "compression_type=zstd", "lazy_refcounts=on"]

    def test_to_qcow2_and_back(self):
        self.raw("a.raw")
        for options in self.OPTIONS:
            for flags in ([], ["-W"], ["-c"]):
                with self.subTest(options=options, flags=flags):
                    self.img("convert", "-O", "qcow2", *flags, *(["-o", options] if options else []), "-f", "raw",
                             "a.raw", "b.qcow2")
                    self.sound("b.qcow2")
                    self.same("a.raw", "b.qcow2", "-f", "raw", "-F", "qcow2")
                    self.img("convert", "-O", "raw", "b.qcow2", "c.raw")
                    self.same("a.raw", "c.raw", "-f", "raw", "-F", "raw")

    def test_from_qemu(self):
        for seed, options in enumerate(self.OPTIONS):
            with self.subTest(options=options):
                self.image("a.qcow2", options, seed=seed)
                self.img("convert", "-O", "raw", "a.qcow2", "b.raw")
                self.same("a.qcow2.raw", "b.raw", "-f", "raw", "-F", "raw")

    def test_sparse(self):
        """Zeroes take no space, unless -S 0 asks for it."""
        with open(self.path("a.raw"), "wb") as f:
            f.write(bytes(4 * MiB) + b"x" * 4096)
        self.img("convert", "-f", "raw", "a.raw", "b.raw")
        self.assertLess(os.stat(self.path("b.raw")).st_blocks * 512, MiB)
        self.img("convert", "-S", "0", "-f", "raw", "a.raw", "c.raw")
        self.assertGreaterEqual(os.stat(self.path("c.raw")).st_blocks * 512, 4 * MiB)
        self.img("convert", "-S", "0", "-f", "raw", "-O", "qcow2", "a.raw", "c.qcow2")
        self.assertGreaterEqual(os.stat(self.path("c.qcow2")).st_size, 4 * MiB)
        for name in ("b.raw", "c.raw"):
            self.same("a.raw", name, "-f", "raw", "-F", "raw")

    def test_into_what_is_there(self):
        self.raw("a.raw")
        self.raw("b.raw", seed=9)
        self.img("convert", "-n", "-f", "raw", "-O", "raw", "a.raw", "b.raw")
        self.same("a.raw", "b.raw", "-f", "raw", "-F", "raw")
        self.image("c.qcow2", seed=9)
        self.img("convert", "-n", "-f", "raw", "-O", "qcow2", "a.raw", "c.qcow2")
        self.same("a.raw", "c.qcow2", "-f", "raw")
        self.sound("c.qcow2")
        self.raw("small.raw", MiB)
        self.assertIn("smaller", self.img("convert", "-n", "-f", "raw", "-O", "raw", "a.raw", "small.raw", code=1).err)

    def test_backing(self):
        """-B: what the backing file has is not copied."""
        self.image("base.qcow2")
        self.qemu("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        run("qemu-io", "-c", "write -P 7 1M 200k", "-c", "write -z 3M 64k", "top.qcow2", cwd=self.dir)
        self.img("convert", "-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2", "top.qcow2", "new.qcow2")
        self.same("top.qcow2", "new.qcow2")
        self.sound("new.qcow2")
        self.assertLess(os.stat(self.path("new.qcow2")).st_size, MiB)
        self.assertIn("backing file: base.qcow2", self.qemu("info", "new.qcow2").out)

    def test_several_sources(self):
        for n in range(3):
            self.raw("%d.raw" % n, MiB + 512 * n, seed=n)
        names = ["0.raw", "1.raw", "2.raw"]
        self.img("convert", "-f", "raw", "-O", "qcow2", *names, "all.qcow2")
        self.qemu("convert", "-f", "raw", "-O", "qcow2", *names, "theirs.qcow2")
        self.same("all.qcow2", "theirs.qcow2")

    def test_offload(self):
        self.raw("a.raw")
        self.img("convert", "-C", "-f", "raw", "a.raw", "b.raw")
        self.same("a.raw", "b.raw", "-f", "raw", "-F", "raw")

    def test_salvage(self):
        self.raw("a.raw", MiB)
        broken = ("driver=blkdebug,image.driver=file,image.filename=a.raw,inject-error.0.event=none,"
                  "inject-error.0.iotype=read,inject-error.0.sector=100")
        self.img("convert", "--image-opts", broken, "b.raw", code=1)
        done = self.img("convert", "--salvage", "--image-opts", broken, "b.raw")
        self.assertIn("51200", done.err)
        with open(self.path("a.raw"), "rb") as a, open(self.path("b.raw"), "rb") as b:
            a, b = bytearray(a.read()), b.read()
        a[51200:51712] = bytes(512)
        self.assertEqual(bytes(a), b)

    def test_progress(self):
        self.raw("a.raw")
        self.assertIn("(100.00/100%)", self.img("convert", "-p", "-f", "raw", "a.raw", "b.raw").out)
        self.assertEqual(self.img("convert", "-f", "raw", "a.raw", "b.raw").out, "")
        os.unlink(self.path("b.raw"))
        process = subprocess.Popen([VIREO_IMG, "convert", "-r", "64k", "-f", "raw", self.path("a.raw"), self.path("b.raw")],
                                   stderr=subprocess.PIPE)
        limit = time.monotonic() + TIMEOUT
        while not os.path.exists(self.path("b.raw")) and time.monotonic() < limit:
            time.sleep(0.01)
        with open("/proc/%d/status" % process.pid) as status:
            blocked = re.search(r"SigBlk:\s*(\w+)", status.read())
        self.assertTrue(int(blocked.group(1), 16) & 1 << (signal.SIGUSR1 - 1))
        process.send_signal(signal.SIGUSR1)
        self.assertRegex(process.stderr.readline(), rb"\(\d+\.\d\d/100%\)")
        process.kill()
        process.wait()
        process.stderr.close()

    def test_wrong_words(self):
        self.raw("a.raw", MiB)
        for words in (["-c", "-O", "raw", "a.raw", "b"], ["-m", "0", "a.raw", "b"], ["-m", "99", "a.raw", "b"],
                      ["-S", "100", "a.raw", "b"], ["--target-is-zero", "a.raw", "b"], ["-C", "-c", "a.raw", "b"],
                      ["-O", "nonsense", "a.raw", "b"], ["a.raw"], ["missing.raw", "b"],
                      ["-t", "sometimes", "a.raw", "b"]):
            self.assertEqual(run(VIREO_IMG, "convert", *words, cwd=self.dir).code,
                             run("qemu-img", "convert", *words, cwd=self.dir).code, words)

    def test_dd(self):
        self.raw("a.raw")
        for words in (["bs=64k", "count=3", "skip=2"], ["bs=1M", "skip=3"], ["bs=4k", "count=100"], []):
            self.img("dd", "-f", "raw", "-O", "raw", *words, "if=a.raw", "of=b.raw")
            subprocess.run(["dd", "status=none", *words, "if=a.raw", "of=c.raw"], cwd=self.dir, check=True, timeout=TIMEOUT)
            with open(self.path("b.raw"), "rb") as b, open(self.path("c.raw"), "rb") as c:
                self.assertEqual(b.read(), c.read())
        self.img("dd", "-f", "raw", "-O", "qcow2", "bs=1M", "count=2", "if=a.raw", "of=b.qcow2")
        self.sound("b.qcow2")


class Comparing(Case):
    def test_results(self):
        self.raw("a.raw", MiB)
        self.raw("b.raw", MiB)
        with open(self.path("longer.raw"), "wb") as f, open(self.path("a.raw"), "rb") as a:
            f.write(a.read() + bytes(MiB))
        self.qemu("convert", "-f", "raw", "-O", "qcow2", "a.raw", "a.qcow2")
        raws = ["-f", "raw", "-F", "raw"]
        self.both("compare", *raws, "a.raw", "b.raw")
        self.both("compare", "-f", "raw", "a.raw", "a.qcow2")
        self.both("compare", *raws, "a.raw", "longer.raw")
        self.both("compare", "-s", *raws, "a.raw", "longer.raw")
        for at in (0, 511, 512, 700000, MiB - 1):
            shutil.copy(self.path("a.raw"), self.path("b.raw"))
            with open(self.path("b.raw"), "r+b") as f:
                f.seek(at)
                byte = f.read(1)
                f.seek(at)
                f.write(bytes([byte[0] ^ 0x80]))
            self.both("compare", *raws, "a.raw", "b.raw")
        with open(self.path("longer.raw"), "r+b") as f:
            f.seek(MiB + 5000)
            f.write(b"x")
        self.both("compare", *raws, "a.raw", "longer.raw")
        self.both("compare", "-q", *raws, "a.raw", "longer.raw")
        self.img("compare", "a.raw", code=2)
        self.img("compare", "a.raw", "missing.raw", code=2)


class Changing(Case):
    def test_resize(self):
        for fmt in ("raw", "qcow2"):
            self.qemu("create", "-q", "-f", fmt, "a", "1M")
            for size in ("2M", "+512k", "3000320"):
                self.assertIn("Image resized", self.img("resize", "-f", fmt, "a", size).out)
            self.img("resize", "-f", fmt, "a", "-1M", code=1)
            self.img("resize", "-f", fmt, "--shrink", "a", "-1M")
            self.assertEqual(json.loads(self.qemu("info", "-f", fmt, "--output=json", "a").out)["virtual-size"],
                             3000320 - MiB)
        self.sound("a")
        self.img("resize", "-f", "raw", "--preallocation=full", "a", "+1M")

    def test_commit(self):
        for base in (None, "base.qcow2"):
            self.image("base.qcow2")
            self.qemu("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "mid.qcow2", "9M")
            self.qemu("create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2", "10M")
            run("qemu-io", "-c", "write -P 7 1M 200k", "mid.qcow2", cwd=self.dir)
            run("qemu-io", "-c", "write -P 8 2M 200k", "-c", "write -z 1M 64k", "-c", "write -P 9 9900k 64k", "top.qcow2",
                cwd=self.dir)
            self.qemu("convert", "-O", "raw", "top.qcow2", "want.raw")
            self.img("commit", *(["-b", base] if base else []), "top.qcow2")
            self.same("want.raw", base or "mid.qcow2", "-f", "raw")
            self.same("want.raw", "top.qcow2", "-f", "raw")
            for name in ("base.qcow2", "mid.qcow2", "top.qcow2"):
                self.sound(name)
        self.img("commit", "base.qcow2", code=1)

    def test_rebase(self):
        self.image("a.qcow2", seed=1)
        self.image("b.qcow2", seed=2)
        self.qemu("create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2", "9M")
        run("qemu-io", "-c", "write -P 7 1M 200k", "top.qcow2", cwd=self.dir)
        self.qemu("convert", "-O", "raw", "top.qcow2", "want.raw")
        for words in (["-b", "b.qcow2", "-F", "qcow2"], ["-b", ""]):
            self.img("rebase", *words, "top.qcow2")
            self.same("want.raw", "top.qcow2", "-f", "raw")
            self.sound("top.qcow2")
        self.assertNotIn("backing", self.qemu("info", "top.qcow2").out)
        self.img("rebase", "-u", "-b", "gone.qcow2", "-F", "qcow2", "top.qcow2")
        self.assertIn("backing file: gone.qcow2", self.qemu("info", "top.qcow2").out)
        self.img("rebase", "-b", "a.qcow2", "top.qcow2", code=1)

    def test_snapshots(self):
        self.image("a.qcow2")
        self.img("snapshot", "-c", "one", "a.qcow2")
        run("qemu-io", "-c", "write -P 7 1M 200k", "a.qcow2", cwd=self.dir)
        self.qemu("snapshot", "-c", "two", "a.qcow2")
        self.both("snapshot", "-l", "a.qcow2")
        self.both("info", "a.qcow2")
        self.img("convert", "-l", "one", "-O", "raw", "a.qcow2", "one.raw")
        self.same("a.qcow2.raw", "one.raw", "-f", "raw", "-F", "raw")
        self.img("snapshot", "-a", "one", "a.qcow2")
        self.same("a.qcow2.raw", "a.qcow2", "-f", "raw")
        self.sound("a.qcow2")
        self.img("snapshot", "-d", "one", "a.qcow2")
        self.img("snapshot", "-d", "one", "a.qcow2", code=1)
        self.qemu("snapshot", "-d", "two", "a.qcow2")
        self.sound("a.qcow2")
        self.assertIn("snapshot", self.img("snapshot", "-a", "none", "a.qcow2", code=1).err)

    def test_bitmaps(self):
        self.image("a.qcow2")
        for words in (["--add", "-g", "128k", "a.qcow2", "b0"], ["--add", "a.qcow2", "b1"], ["--disable", "a.qcow2", "b1"],
                      ["--add", "a.qcow2", "b2"], ["--merge", "b0", "a.qcow2", "b2"], ["--clear", "a.qcow2", "b0"],
                      ["--remove", "a.qcow2", "b1"]):
            self.img("bitmap", *words)
        self.both("info", "a.qcow2")
        self.sound("a.qcow2")
        self.img("convert", "--bitmaps", "-O", "qcow2", "a.qcow2", "c.qcow2")
        self.assertIn("name: b2", self.qemu("info", "c.qcow2").out)
        self.sound("c.qcow2")
        self.img("bitmap", "--remove", "a.qcow2", "nothing", code=1)
        self.img("bitmap", "a.qcow2", "b0", code=1)

    def test_amend(self):
        self.image("a.qcow2")
        self.img("amend", "-o", "compat=0.10", "a.qcow2")
        self.assertIn("compat: 0.10", self.qemu("info", "a.qcow2").out)
        self.img("amend", "-o", "compat=v3,lazy_refcounts=on", "a.qcow2")
        self.assertIn("lazy refcounts: true", self.qemu("info", "a.qcow2").out)
        self.sound("a.qcow2")
        self.same("a.qcow2.raw", "a.qcow2", "-f", "raw")
        self.img("amend", "-o", "cluster_size=4k", "a.qcow2", code=1)

    def test_bench(self):
        self.raw("a.raw", MiB)
        for words in ([], ["-w"], ["-w", "--flush-interval=64", "-d", "8"], ["-d", "1", "-s", "512", "-S", "4k"]):
            ours = self.img("bench", "-f", "raw", "-c", "200", *words, "a.raw").out
            theirs = self.qemu("bench", "-f", "raw", "-c", "200", *words, "a.raw").out
            number = re.compile(r"[\d.]+ seconds")
            self.assertEqual(number.sub("N", ours).splitlines()[0], number.sub("N", theirs).splitlines()[0])
            self.assertIn("Run completed in", ours)

    def test_locked(self):
        """An image in use is refused, and the user told who has it."""
        self.image("a.qcow2")
        holder = subprocess.Popen(["qemu-io", self.path("a.qcow2")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        holder.stdin.write(b"read 0 512\n")
        holder.stdin.flush()
        holder.stdout.readline()
        self.assertIn("qemu-io", self.img("resize", "a.qcow2", "+1M", code=1).err)
        self.img("info", "a.qcow2", code=1)
        self.img("info", "-U", "a.qcow2")
        holder.communicate(b"quit\n", timeout=TIMEOUT)


class Drives(Case):
    """Filters, as the drives of a machine have them."""

    def test_copy_on_read(self):
        self.image("base.qcow2")
        self.qemu("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        self.img("dd", "--image-opts", "bs=1M", "count=2", "if=driver=copy-on-read,file.driver=qcow2,"
                 "file.file.driver=file,file.file.filename=top.qcow2,read-only=off", "of=out.raw")
        self.sound("top.qcow2")
        self.same("base.qcow2", "top.qcow2")
        self.qemu("dd", "bs=1M", "count=2", "if=base.qcow2", "of=want.raw")
        self.same("want.raw", "out.raw", "-f", "raw", "-F", "raw")
        top = json.loads(self.qemu("map", "--output=json", "top.qcow2").out)
        self.assertTrue(any(e["depth"] == 0 and e["start"] < 2 * MiB and e["data"] for e in top))
        self.assertFalse(any(e["depth"] == 0 and e["start"] >= 3 * MiB and e["present"] and e["data"] for e in top))

    def query_block(self, drive):
        """What a machine with this -drive says of it."""
        socket_path = self.path("qmp")
        process = subprocess.Popen([VIREO, "-machine", "none", "-display", "none", "-nodefaults", "-drive", drive, "-qmp",
                                    "unix:%s,server=on,wait=on" % socket_path], cwd=self.dir)
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(TIMEOUT)
                limit = time.monotonic() + TIMEOUT
                while s.connect_ex(socket_path) and time.monotonic() < limit:
                    time.sleep(0.01)
                with s.makefile("rw") as qmp:
                    qmp.readline()
                    answers = []
                    for command in ("qmp_capabilities", "query-block", "quit"):
                        qmp.write(json.dumps({"execute": command}) + "\n")
                        qmp.flush()
                        answer = json.loads(qmp.readline())
                        while "event" in answer:
                            answer = json.loads(qmp.readline())
                        answers.append(answer)
            process.wait(TIMEOUT)
        finally:
            process.kill()
            process.wait()
        return answers[1]["return"][0]["inserted"]

    def test_options_of_a_drive(self):
        self.image("a.qcow2")
        before = os.stat(self.path("a.qcow2")).st_mtime_ns
        drive = "file=a.qcow2,if=none,id=d"
        info = self.query_block(drive + ",snapshot=on,format=qcow2")
        self.assertEqual((info["drv"], info["ro"], info["image"]["virtual-size"]), ("qcow2", False, 8 * MiB))
        self.assertIn("backing", [child["child"] for child in info["children"]])
        self.assertEqual(self.query_block(drive + ",copy-on-read=on")["drv"], "copy-on-read")
        self.assertEqual(before, os.stat(self.path("a.qcow2")).st_mtime_ns)
        self.sound("a.qcow2")

    def test_compress(self):
        self.raw("a.raw")
        self.qemu("create", "-q", "-f", "qcow2", "b.qcow2", "8M")
        self.img("convert", "-n", "-f", "raw", "--target-image-opts", "a.raw",
                 "driver=compress,file.driver=qcow2,file.file.driver=file,file.file.filename=b.qcow2")
        self.sound("b.qcow2")
        self.same("a.raw", "b.qcow2", "-f", "raw")
        self.assertGreater(json.loads(self.qemu("check", "--output=json", "b.qcow2").out).get("compressed-clusters", 0), 0)


if __name__ == "__main__":
    VIREO_IMG, VIREO = map(os.path.abspath, sys.argv[1:3])
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=1)
