#!/usr/bin/env python3
"""Two images of one kind, one in vireo's hands, one in QEMU's: the same random operations on both, which must leave
the same disk. Each time both have been compared they change hands, so that each program goes on with what the
other has written.  Now and then ours gets checksums, which QEMU must not notice.

usage: lockstep.py VIREO_NBD VIREO_IMG VIREO [unittest arguments]

Writes, zeroes and discards go over NBD to vireo-nbd, and by qemu-io; snapshots, resizing, commits and checks by
vireo-img and qemu-img. VIREO_LOCKSTEP says how many operations in all (100000; a tenth where sanitizers make
everything slow), VIREO_LOCKSTEP_SEED with which numbers to begin.
"""
import concurrent.futures
import os
import random
import subprocess

from nbdcase import TIMEOUT, VIREO_IMG, VIREO_NBD, Case, MiB, main, run

KiB = 1 << 10
SEGMENT = 1000                             # operations between two comparisons

# name: options, size, cluster, what it can do besides plain requests
KINDS = {
    "standard": ("", 16 * MiB, 64 * KiB, {"snapshot", "resize"}),
    "version 2": ("compat=0.10", 16 * MiB, 64 * KiB, {"snapshot"}),
    "clusters of 512 bytes": ("cluster_size=512", 3 * MiB, 512, {"snapshot", "resize"}),
    "refcounts of one bit": ("cluster_size=4k,refcount_bits=1", 8 * MiB, 4 * KiB, {"resize"}),
    "wide refcounts": ("cluster_size=4k,refcount_bits=64,lazy_refcounts=on", 8 * MiB, 4 * KiB, {"snapshot", "resize"}),
    "clusters of 2 MiB": ("cluster_size=2M", 48 * MiB, 2 * MiB, {"snapshot", "resize"}),
    "subclusters": ("extended_l2=on,cluster_size=16k", 8 * MiB, 16 * KiB, {"snapshot", "resize"}),
    "overlay": ("cluster_size=8k", 8 * MiB, 8 * KiB, {"commit", "snapshot"}),
    "overlay with subclusters": ("extended_l2=on", 16 * MiB, 64 * KiB, {"commit"}),
    "data file": ("data_file=%s.data", 16 * MiB, 64 * KiB, {"resize"}),
}


def at_once(*calls):
    """Calls of a function and its arguments, each in a thread: most of their time is waiting for another process."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(*call) for call in calls]:
            future.result()


def operations():
    with open(VIREO_NBD, "rb") as f:
        slow = b"__asan_init" in f.read()
    return int(os.environ.get("VIREO_LOCKSTEP", 10000 if slow else 100000))


class Lockstep(Case):
    def create(self, name, options, size, overlay):
        path = self.path(name)
        words = ["-o", options % path if "%" in options else options] if options else []
        if overlay:
            base = path + ".base"
            run("qemu-img", "create", "-q", "-f", "qcow2", base, size)
            words += ["-b", base, "-F", "qcow2"]
        run("qemu-img", "create", "-q", "-f", "qcow2", *words, path, size)
        return path

    def draw(self, rand, size, cluster):
        """A request: what, where, how long, and the byte that is written."""
        kind = rand.choices(["write", "zero", "unmap", "discard"], [12, 2, 2, 2])[0]
        unit = rand.choice([512, 4 * KiB, cluster])
        if kind == "discard":
            unit = cluster                  # what is done about parts of clusters is everybody's own choice
        most = max(unit, min(64 * KiB, 8 * cluster))
        length = unit * rand.randint(1, max(1, most // unit))
        length = min(length, size // unit * unit)
        offset = unit * rand.randint(0, (size - length) // unit)
        return kind, offset, length, rand.randint(1, 255)

    def ours(self, image, requests):
        process, _, uri = self.serve(image, "-f", "qcow2", "--cache=unsafe", "--discard=unmap", persistent=False)
        with self.client(uri) as h:
            for kind, offset, length, byte in requests:
                if kind == "write":
                    h.pwrite(bytes([byte]) * length, offset)
                elif kind == "discard":     # what was not zeroes before may stay
                    h.zero(length, offset)
                    h.trim(length, offset)
                else:
                    h.zero(length, offset, 0 if kind == "unmap" else 2)
        self.assertEqual(process.wait(60), 0)

    def theirs(self, image, requests):
        lines = []
        for kind, offset, length, byte in requests:
            if kind == "write":
                lines.append("write -q -P %d %d %d" % (byte, offset, length))
            else:
                lines.append("write -q -z %s %d %d" % ("-u" if kind == "unmap" else "", offset, length))
            if kind == "discard":
                lines.append("discard -q %d %d" % (offset, length))
        with open(image + ".io", "w+b") as talk:    # no pipes: nobody need wake for each prompt
            talk.write("\n".join(lines).encode())
            talk.seek(0)
            with open(image + ".out", "w+b") as out:
                done = subprocess.run(["qemu-io", "-f", "qcow2", "-t", "unsafe", "-d", "unmap", image], stdin=talk,
                                      stdout=out, stderr=subprocess.STDOUT, timeout=TIMEOUT, check=False)
                out.seek(0)
                said = out.read().replace(b"qemu-io> ", b"").strip()
        self.assertEqual((done.returncode, said), (0, b""), image)

    def change(self, rand, can, cluster, state):
        """A change of the image as a whole -> the words after the program's name, {} is the image."""
        what = rand.choice(sorted(can))
        if what == "commit":
            return ["commit", "-q", "{}"]
        if what == "resize":
            # Whole clusters: what is cut off within one comes back as zeroes here, and as it was with QEMU.
            n = state["size"] // cluster
            state["size"] = cluster * max(2, n + rand.randint(-n // 4, n // 4))
            return ["resize", "-q", "--shrink", "-f", "qcow2", "{}", state["size"]]
        snapshots = state["snapshots"]
        verb = rand.choice("cccad" if snapshots else "c")
        if verb == "c":
            state["count"] += 1
            name = "s%d" % state["count"]
            snapshots[name] = state["size"]
        else:
            name = rand.choice(sorted(snapshots))
        if verb == "a":
            state["size"] = snapshots[name]
        if verb == "d":
            del snapshots[name]
        return ["snapshot", "-q", "-" + verb, name, "{}"]

    def judge(self, ours, theirs, turn):
        at_once((run, "qemu-img", "check", "-q", "-f", "qcow2", ours),
                (run, VIREO_IMG, "check", "-q", "-f", "qcow2", theirs),
                (run, "qemu-img" if turn % 4 == 0 else VIREO_IMG, "compare", "-q", "-f", "qcow2", "-F", "qcow2", ours,
                 theirs))

    def lockstep(self, kind, count, seed):
        options, size, cluster, can = KINDS[kind]
        rand = random.Random(seed)
        images = [self.create("%d%s" % (seed, name), options, size, "commit" in can) for name in "ab"]
        state = {"size": size, "snapshots": {}, "count": 0}
        for turn in range(max(1, count // SEGMENT)):
            ours, theirs = images
            requests = [self.draw(rand, state["size"], cluster) for _ in range(SEGMENT)]
            at_once((self.ours, ours, requests), (self.theirs, theirs, requests))
            words = self.change(rand, can, cluster, state)
            at_once((run, VIREO_IMG, *[ours if word == "{}" else word for word in words]),
                    (run, "qemu-img", *[theirs if word == "{}" else word for word in words]))
            self.judge(ours, theirs, turn)
            if turn % 4 == 0 and "compat" not in options:
                run(VIREO_IMG, "amend", "-q", "-o", "checksums=" + rand.choice(["on", "on", "off"]), ours)
            images.reverse()

    def test_lockstep(self):
        begin = int(os.environ.get("VIREO_LOCKSTEP_SEED", 1))
        count = operations() // len(KINDS)
        for number, kind in enumerate(KINDS):
            with self.subTest(kind=kind, seed=begin + number):
                self.lockstep(kind, count, begin + number)


if __name__ == "__main__":
    main()
