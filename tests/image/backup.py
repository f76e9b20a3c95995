#!/usr/bin/env python3
"""Checkpoints and backups with the commands that libvirt 9.0 sends for them, in their order, while a client
in the guest's place writes to the disk.

usage: backup.py VIREO_NBD VIREO_IMG VIREO [unittest arguments]
"""
import json
import random

from nbdcase import VIREO_IMG, MiB, Monitored, main, run

SIZE, CLUSTER = 8 * MiB, 65536
DISK = "libvirt-3-format"


def add(node, name, persistent=True, **more):
    return {"type": "block-dirty-bitmap-add", "data": dict(node=node, name=name, persistent=persistent, **more)}


def merge(node, target, *sources):
    return {"type": "block-dirty-bitmap-merge",
            "data": {"node": node, "target": target,
                     "bitmaps": [{"node": of, "name": name} for of, name in sources]}}


def remove(node, name):
    return {"type": "block-dirty-bitmap-remove", "data": {"node": node, "name": name}}


def backup(target, **more):
    return {"type": "blockdev-backup",
            "data": dict({"device": DISK, "job-id": "backup-vda-" + DISK, "target": target,
                          "auto-finalize": True, "auto-dismiss": False}, **more)}


class Libvirt(Monitored):
    def setUp(self):
        super().setUp()
        self.random = random.Random(1)
        run(VIREO_IMG, "create", "-f", "qcow2", self.path("root.qcow2"), SIZE)
        self.add_image(3, "root.qcow2")
        self.disk = bytearray(SIZE)
        self.serve_guest()
        self.write(*range(0, 80))

    def add_image(self, number, name, **more):
        storage, node = "libvirt-%d-storage" % number, "libvirt-%d-format" % number
        open(self.path(name), "ab").close()  # it does so itself
        self.call("blockdev-add", {"driver": "file", "filename": self.path(name), "node-name": storage,
                                   "auto-read-only": True, "discard": "unmap"})
        if more:
            job = "create-" + node
            self.call("blockdev-create", {"job-id": job, "options": {
                "driver": "qcow2", "file": storage, "size": SIZE, "cluster-size": CLUSTER,
                "backing-file": self.path("root.qcow2"), "backing-fmt": "qcow2"}})
            self.job_is(job, "concluded")
            self.assertNotIn("error", self.call("query-jobs")[0])
            self.call("job-dismiss", {"id": job})
        self.call("blockdev-add", dict({"node-name": node, "read-only": False, "driver": "qcow2",
                                        "file": storage}, **more))
        return node

    def remove_image(self, number):
        for kind in ("format", "storage"):
            self.call("blockdev-del", {"node-name": "libvirt-%d-%s" % (number, kind)})

    def transact(self, *actions):
        self.call("transaction", {"actions": list(actions)})

    # The guest: a client of an export of the disk.

    def serve_guest(self):
        self.start()
        self.call("block-export-add", {"type": "nbd", "id": "guest", "node-name": DISK, "name": "guest",
                                       "writable": True, "iothread": "io0"})

    def uri(self, name):
        return "nbd+unix:///%s?socket=%s" % (name, self.sock)

    def write(self, *clusters):
        with self.client(self.uri("guest")) as h:
            for cluster in clusters:
                data = self.random.randbytes(4096)
                at = cluster * CLUSTER + 4096 * self.random.randrange(16)
                h.pwrite(data, at)
                self.disk[at:at + 4096] = data

    # What libvirt does.

    def begin_pull(self, number, *actions, **export):
        node = self.add_image(number, "scratch%d.qcow2" % number, backing=DISK)
        self.transact(*[action(node) if callable(action) else action for action in actions],
                      backup(node, sync="none"))
        frozen = bytes(self.disk)
        self.call("block-export-add", dict({"type": "nbd", "id": "libvirt-nbd-" + node, "node-name": node,
                                            "writable": False, "name": "vda"}, **export))
        return frozen

    def end_job(self, cancel):
        job = "backup-vda-" + DISK
        if cancel:
            self.call("block-job-cancel", {"device": job, "force": True})
        self.job_is(job, "concluded")
        state = [j for j in self.call("query-jobs") if j["id"] == job][0]
        self.assertEqual("error" in state, cancel, state)
        self.call("job-dismiss", {"id": job})

    def end_pull(self, number):
        self.end_job(True)
        self.call("nbd-server-stop")
        self.remove_image(number)
        self.serve_guest()

    def dirty(self, name):
        """The clusters that a bitmap's context shows."""
        listed = json.loads(run("nbdinfo", "--json", "--map=qemu:dirty-bitmap:" + name, self.uri("vda")).stdout)
        return [cluster for e in listed if e["type"] for cluster in
                range(e["offset"] // CLUSTER, (e["offset"] + e["length"]) // CLUSTER)]

    def test_pull(self):
        self.transact(add(DISK, "c1"))
        self.write(3, 5)
        frozen = self.begin_pull(4, add(DISK, "c2"))
        self.write(*range(0, 20), 100)
        run("nbdcopy", self.uri("vda"), self.path("full"))
        self.assertEqual(self.read(self.path("full")), frozen)
        self.write(*range(40, 50))
        run("nbdcopy", self.uri("vda"), self.path("again"))
        self.assertEqual(self.read(self.path("again")), frozen)
        self.end_pull(4)

        self.write(120)
        frozen = self.begin_pull(
            5, add(DISK, "c3"), lambda node: add(node, "backup-vda", False, disabled=True, granularity=CLUSTER),
            lambda node: merge(node, "backup-vda", (DISK, "c2")), bitmaps=["backup-vda"])
        self.write(7, 8, 9)
        changed = self.dirty("backup-vda")
        self.assertEqual(changed, [*range(0, 20), *range(40, 50), 100, 120])
        copy = bytearray(self.read(self.path("full")))
        with self.client(self.uri("vda")) as h:
            for cluster in changed:
                at = cluster * CLUSTER
                copy[at:at + CLUSTER] = h.pread(CLUSTER, at)
        self.assertEqual(bytes(copy), frozen)
        self.end_pull(5)

    def test_push(self):
        self.transact(add(DISK, "c1"))
        node = self.add_image(6, "push.qcow2", backing=None)
        self.transact(backup(node, sync="full"))
        self.end_job(False)
        self.write(2, 64)
        self.transact(add(DISK, "backup-vda", False, disabled=True, granularity=CLUSTER),
                      merge(DISK, "backup-vda", (DISK, "c1")),
                      backup(node, sync="incremental", bitmap="backup-vda"))
        self.end_job(False)
        self.call("block-dirty-bitmap-remove", {"node": DISK, "name": "backup-vda"})
        self.remove_image(6)
        image = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": self.path("push.qcow2")}}
        run(VIREO_IMG, "convert", "-O", "raw", "json:" + json.dumps(image), self.path("raw"))
        self.assertEqual(self.read(self.path("raw")), bytes(self.disk))

    def test_checkpoints_across_a_snapshot(self):
        self.transact(add(DISK, "c1"))
        self.write(1)
        self.transact(add(DISK, "c3"))
        self.write(2)
        top = self.add_image(8, "top.qcow2", backing=None)
        self.transact(add(top, "c3", granularity=CLUSTER), add(top, "c1", granularity=CLUSTER),
                      {"type": "blockdev-snapshot", "data": {"node": DISK, "overlay": top}})
        self.write(3)
        self.call("block-commit", {"device": top, "job-id": "commit", "top-node": top, "base-node": DISK,
                                   "auto-finalize": True, "auto-dismiss": False})
        self.job_is("commit", "ready")
        self.transact(add(DISK, "libvirt-tmp-activewrite", False))
        self.write(4)
        self.call("job-complete", {"id": "commit"})
        self.job_is("commit", "concluded")
        self.call("job-dismiss", {"id": "commit"})
        self.transact(*[merge(DISK, name, (top, name), (DISK, "libvirt-tmp-activewrite"))
                        for name in ("c3", "c1")], remove(DISK, "libvirt-tmp-activewrite"))
        self.remove_image(8)
        self.write(5)
        node = [n for n in self.call("query-named-block-nodes") if n["node-name"] == DISK][0]
        counts = {b["name"]: b["count"] // CLUSTER for b in node["dirty-bitmaps"]}
        self.assertEqual(counts, {"c1": 5, "c3": 4})
        self.transact(remove(DISK, "c1"))
        self.transact(remove(DISK, "c3"))
        with self.client(self.uri("guest")) as h:
            self.assertEqual(bytes(h.pread(SIZE, 0)), bytes(self.disk))


if __name__ == "__main__":
    main()
