"""What the tests of NBD share: servers and clients that are gone at the end of a test."""
import contextlib
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unittest

import nbd

VIREO_NBD, VIREO_IMG, VIREO = (os.path.abspath(p) for p in sys.argv[1:4])
TIMEOUT = 60
MiB = 1 << 20
SO_ACCEPTCON = 0x10000                      # in the flags of /proc/net/unix


def run(*line, check=True, **more):
    if "input" not in more:
        more["stdin"] = subprocess.DEVNULL
    done = subprocess.run([str(word) for word in line], capture_output=True, timeout=TIMEOUT, check=False, **more)
    if check and done.returncode:
        raise AssertionError("%s: %d\n%s%s" % (" ".join(map(str, line)), done.returncode,
                                               done.stdout.decode(), done.stderr.decode()))
    return done


def until(condition, what):
    limit = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > limit:
            raise AssertionError("never: " + what)
        time.sleep(0.01)


def is_ready(path):
    """It is there; a socket is also listened at (a connection would count as a client's)."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return os.path.exists(path)
    with open("/proc/net/unix") as f:
        return any(fields[-1] == path and int(fields[3], 16) & SO_ACCEPTCON for fields in map(str.split, f))


def can_connect(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
            return True
        except OSError:
            return False


def free_port():
    """A TCP port of this machine that nothing uses, and that it gives to nobody who asks for any."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)    # below net.ipv4.ip_local_port_range
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="vireo-nbd-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.count = 0

    def path(self, name):
        return os.path.join(self.dir, name)

    def image(self, name="disk.raw", size=4 * MiB, data=None):
        """A raw image: random bytes in its first half, nothing in the second."""
        path = self.path(name)
        with open(path, "wb") as f:
            f.write(random.Random(1).randbytes(size // 2) if data is None else data)
            f.truncate(size)
        return path

    def read(self, path):
        with open(path, "rb") as f:
            return f.read()

    def daemon(self, *line, ready=None, env=None):
        """Start a server; it must be gone at the end of the test."""
        process = subprocess.Popen([str(word) for word in line], stdin=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, env=env)
        self.addCleanup(self.end, process)
        if ready:
            until(lambda: process.poll() is not None or is_ready(ready), "listen at " + ready)
            self.assertIsNone(process.poll(), "it ended at once")
        return process

    def end(self, process):
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=TIMEOUT)

    def serve(self, image, *options, program=None, env=None, persistent=True):
        """vireo-nbd on a unix socket -> (process, socket, URI)."""
        self.count += 1
        path = self.path("s%d" % self.count)
        process = self.daemon(program or VIREO_NBD, "-k", path, *["-t"] * persistent, *options, image, ready=path,
                              env=env)
        return process, path, "nbd+unix:///?socket=" + path

    @contextlib.contextmanager
    def client(self, uri, contexts=(), aligned=True):
        h = nbd.NBD()
        h.set_request_block_size(aligned)
        for name in contexts:
            h.add_meta_context(name)
        h.connect_uri(uri)
        yield h
        h.shutdown()


class Monitored(Case):
    """A machine without devices, its monitor, and its NBD server's socket."""

    def setUp(self):
        super().setUp()
        qmp = self.path("qmp")
        self.daemon(VIREO, "-machine", "none", "-object", "iothread,id=io0", "-qmp",
                    "unix:%s,server=on,wait=off" % qmp, ready=qmp)
        self.monitor = socket.socket(socket.AF_UNIX)
        until(lambda: self.monitor.connect_ex(qmp) == 0, "the monitor")
        self.addCleanup(self.monitor.close)
        self.monitor.settimeout(TIMEOUT)
        self.lines = self.monitor.makefile("r")
        self.addCleanup(self.lines.close)
        self.events = []
        json.loads(self.lines.readline())
        self.call("qmp_capabilities")
        self.sock = self.path("nbd")

    def answer(self, command, arguments=None):
        self.monitor.sendall(json.dumps({"execute": command, "arguments": arguments or {}}).encode())
        while True:
            reply = json.loads(self.lines.readline())
            if "event" not in reply:
                return reply
            self.events.append(reply)

    def call(self, command, arguments=None):
        reply = self.answer(command, arguments)
        self.assertIn("return", reply, (command, reply))
        return reply["return"]

    def refused(self, command, arguments, words):
        self.assertIn(words, self.answer(command, arguments)["error"]["desc"])

    def job_is(self, job, *states):
        """Wait until the job's state has been one of these -> which."""
        while True:
            for event in self.events:
                if event["event"] == "JOB_STATUS_CHANGE" and event["data"]["id"] == job and \
                        event["data"]["status"] in states:
                    self.events.remove(event)
                    return event["data"]["status"]
            self.events.append(json.loads(self.lines.readline()))

    def start(self):
        self.call("nbd-server-start", {"addr": {"type": "unix", "data": {"path": self.sock}}})


def main():
    del sys.argv[1:4]
    unittest.main(verbosity=2)
