#!/usr/bin/env python3
"""vireo-ctl against a small monitor of our own: test-vireo-ctl.py PROGRAM"""

import json
import os
import pty
import select
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

PROGRAM = None

SCHEMA = [
    {"name": "query-status", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "query-list", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "query-qmp-schema", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "echo", "meta-type": "command", "arg-type": "1", "ret-type": "any"},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "1", "meta-type": "object", "members": [
        {"name": "id", "type": "str"},
        {"name": "count", "type": "int", "default": None},
        {"name": "flag", "type": "bool", "default": None},
        {"name": "mode", "type": "2", "default": None},
        {"name": "backend", "type": "3", "default": None},
        {"name": "list", "type": "[str]", "default": None},
        {"name": "free", "type": "any", "default": None}]},
    {"name": "2", "meta-type": "enum", "values": ["fast", "slow"]},
    {"name": "3", "meta-type": "object", "members": [{"name": "type", "type": "str"}],
     "tag": "type", "variants": [{"case": "a", "type": "4"}, {"case": "b", "type": "5"},
                                 {"case": "c", "type": "6"}]},
    {"name": "4", "meta-type": "object", "members": [{"name": "size", "type": "int"}]},
    {"name": "5", "meta-type": "object", "members": [{"name": "data", "type": "7"}]},
    {"name": "6", "meta-type": "object", "members": [{"name": "data", "type": "4"}]},
    {"name": "7", "meta-type": "object", "members": [{"name": "path", "type": "str"},
                                                     {"name": "size", "type": "str", "default": None}]},
    {"name": "[str]", "meta-type": "array", "element-type": "str"},
    {"name": "str", "meta-type": "builtin", "json-type": "string"},
    {"name": "int", "meta-type": "builtin", "json-type": "int"},
    {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
    {"name": "any", "meta-type": "builtin", "json-type": "value"},
]


class Monitor(threading.Thread):
    """Serves any number of connections; `echo` returns its arguments."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve_until_it_goes, args=(connection,),
                             daemon=True).start()

    def serve_until_it_goes(self, connection):
        with connection:
            try:
                self.serve(connection)
            except OSError:  # it went while we read or wrote
                pass

    def send(self, connection, message):
        text = json.dumps(message).encode() + b"\r\n"
        for i in range(0, len(text), 1000):  # in pieces: a client must put them together
            connection.sendall(text[i:i + 1000])

    def serve(self, connection):
        self.send(connection, {"QMP": {"version": {}, "capabilities": []}})
        negotiated = False
        for line in connection.makefile():
            request = json.loads(line)
            reply = {}
            if "id" in request:
                reply["id"] = request["id"]
            command, arguments = request["execute"], request.get("arguments", {})
            if command == "qmp_capabilities":
                negotiated = True
                reply["return"] = {}
            elif not negotiated:
                reply["error"] = {"class": "CommandNotFound", "desc": "negotiate first"}
            elif command == "hang":
                continue
            elif command == "die":
                return
            elif command == "event":
                self.send_events(connection)
                reply["return"] = {}
            else:
                reply.update(self.result(command, arguments))
            self.send(connection, reply)
            if command == "qmp_capabilities":
                self.send_events(connection)

    def send_events(self, connection):
        for name in "STOP", "RESUME", "RESET":
            self.send(connection, {"timestamp": {"seconds": 1, "microseconds": 2}, "event": name,
                                   "data": {"guest": False, "reason": "a}\"{\\"}})

    @staticmethod
    def result(command, arguments):
        if command == "query-qmp-schema":
            return {"return": SCHEMA}
        if command == "query-status":
            return {"return": {"status": "running", "running": True, "inner": {"a": 1, "b": [1, 2]}}}
        if command == "query-list":
            return {"return": [{"name": "one", "size": 1}, {"name": "twenty\u001b[2J", "other": None}]}
        if command == "echo":
            return {"return": arguments}
        if command == "fails":
            return {"error": {"class": "DeviceNotFound", "desc": "no such device",
                              "hint": "try another"}}
        if command == "text":
            return {"return": "line one\r\nline two\r\n"}
        return {"error": {"class": "CommandNotFound",
                          "desc": "there is no command '%s'" % command}}


class Test(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.path = os.path.join(cls.dir.name, "qmp")
        Monitor(cls.path).start()

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def ctl(self, *words, options=(), input=None, socket=None):
        done = subprocess.run([PROGRAM, *options, socket or self.path, *words], input=input or "",
                              capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def echo(self, *words):
        status, out, err = self.ctl("echo", *words)
        self.assertEqual((status, err), (0, ""))
        return json.loads(out)

    def test_json_in_a_pipe(self):
        status, out, err = self.ctl("query-status")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out.count("\n"), 1)
        self.assertEqual(json.loads(out)["status"], "running")
        self.assertIn("\n  ", self.ctl("query-status", options=["--pretty"])[1])

    def test_values_have_the_schemas_type(self):
        self.assertEqual(self.echo("id=7", "count=0x10", "flag=on", "mode=fast"),
                         {"id": "7", "count": 16, "flag": True, "mode": "fast"})
        self.assertEqual(self.echo("id=x=y", "count=2M", "flag=false"),
                         {"id": "x=y", "count": 2 << 20, "flag": False})
        self.assertEqual(self.echo("id=", "count=-3"), {"id": "", "count": -3})
        self.assertEqual(self.echo("backend.type=a", "backend.size=5", "list.0=p", "list.1=1"),
                         {"backend": {"type": "a", "size": 5}, "list": ["p", "1"]})
        self.assertEqual(self.echo('{"id": "j", "x": null}', "count=1"),
                         {"id": "j", "x": None, "count": 1})
        self.assertEqual(self.echo('backend={"type": "b"}', 'list=["q"]'),
                         {"backend": {"type": "b"}, "list": ["q"]})

    def test_values_without_a_type(self):
        for text, value in [("5", 5), ("-1.5", -1.5), ("true", True), ("off", False), ("null", None),
                            ("word", "word"), ("[1,2]", [1, 2]), ("1x", "1x"), ('"5"', "5")]:
            self.assertEqual(self.echo("free=" + text), {"free": value})

    def test_wrong_arguments(self):
        for words in (["idd=x"], ["count=many"], ["flag=maybe"], ["id"], ["=x"], ["id=a", "id=b"],
                      ["{"], ["list=x"], ["id=a", "id.b=c"]):
            status, out, err = self.ctl("echo", *words)
            self.assertEqual((status, out), (2, ""), words)
            self.assertTrue(err.startswith("vireo-ctl: echo: "), err)
        self.assertIn("did you mean 'id'?", self.ctl("echo", "idd=x")[2])

    def test_failures(self):
        status, out, err = self.ctl("fails")
        self.assertEqual((status, out), (1, ""))
        self.assertEqual(err, "vireo-ctl: fails: no such device\nvireo-ctl: hint: try another\n")
        status, out, err = self.ctl("query-statu")
        self.assertEqual(status, 1)
        self.assertIn("did you mean 'query-status'?", err)

    def test_no_connection(self):
        status, out, err = self.ctl("query-status", socket="/no/such/socket")
        self.assertEqual(status, 3)
        self.assertIn("/no/such/socket", err)
        self.assertEqual(self.ctl("die")[0], 3)
        status, out, err = self.ctl("hang", options=["--timeout=0.2"])
        self.assertEqual(status, 3)
        self.assertIn("in time", err)

    def test_usage(self):
        for words in (["--bogus"], ["--timeout=x", "s"], ["--timeout"], []):
            done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 2, words)
        done = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0)
        self.assertIn("SOCKET", done.stdout)
        done = subprocess.run([PROGRAM, "--man-page"], capture_output=True, text=True, timeout=60)
        self.assertIn(".SH OPTIONS", done.stdout)
        self.assertIn("\\-\\-timeout", done.stdout)

    def test_tables(self):
        table = ["--table"]
        status, out, err = self.ctl("query-list", options=table)
        self.assertEqual(out, "name           size  other\n"
                              "one            1     -\n"
                              "twenty\\x1b[2J  -     null\n")
        status, out, err = self.ctl("query-status", options=table)
        self.assertEqual(out, "status   running\nrunning  true\ninner.a  1\ninner.b  1, 2\n")
        self.assertEqual(self.ctl("text", options=table)[1], "line one\nline two\n")

    def test_help(self):
        status, out, err = self.ctl("help")
        self.assertEqual(status, 0)
        self.assertIn("query-status\n", out)
        self.assertIn("echo id=STRING [count=INT] [flag=BOOLEAN] [mode=fast|slow]", out)
        self.assertEqual(self.ctl("help", "ech")[0], 1)

    def test_events(self):
        status, out, err = self.ctl("events")
        self.assertEqual((status, json.loads(out)["event"]), (0, "STOP"))
        status, out, err = self.ctl("events", "RES*")
        self.assertEqual(json.loads(out)["event"], "RESUME")
        self.assertEqual(self.ctl("events", "--bogus")[0], 2)
        follow = subprocess.Popen([PROGRAM, "--table", self.path, "events", "--follow", "RES*"],
                                  stdout=subprocess.PIPE, text=True)
        self.assertIn("RESUME  guest=false", follow.stdout.readline())
        self.assertIn("RESET  guest=false", follow.stdout.readline())
        follow.kill()
        follow.wait()
        follow.stdout.close()

    def test_types_of_members_that_several_variants_have(self):
        self.assertEqual(self.echo("backend.type=c", "backend.data.size=1K")["backend"],
                         {"type": "c", "data": {"size": 1024}})
        self.assertEqual(self.echo("backend.type=b", "backend.data.size=1K")["backend"],
                         {"type": "b", "data": {"size": "1K"}})
        self.assertEqual(self.echo("backend.data.path=7", "backend.type=b")["backend"],
                         {"data": {"path": "7"}, "type": "b"})

    def test_lines(self):
        status, out, err = self.ctl(input="# a comment\n\nquery-status\necho 'id=a b'\nfails\n")
        self.assertEqual(status, 1)
        self.assertEqual(json.loads(out.splitlines()[1]), {"id": "a b"})
        self.assertEqual(self.ctl(input="exit\nfails\n")[0], 0)

    def test_prompt(self):
        pid, fd = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "dumb"
            os.environ["INPUTRC"] = "/dev/null"
            os.execv(PROGRAM, [PROGRAM, self.path])
        seen = b""

        def expect(text):
            nonlocal seen
            while text not in seen:
                ready, _, _ = select.select([fd], [], [], 60)
                self.assertTrue(ready, seen)
                try:
                    seen += os.read(fd, 4096)
                except OSError:
                    self.fail(seen)
            seen = seen[seen.index(text) + len(text):]

        expect(b"vireo> ")
        os.write(fd, b"query-s\t\n")       # completed from the schema, if there is readline
        expect(b"query-s")
        if b"readline" in subprocess.run(["ldd", PROGRAM], capture_output=True).stdout:
            expect(b"running")
            os.write(fd, b"event\n")       # events that come before the command's reply
            expect(b"RESET")
            os.write(fd, b"echo mo\ts\tid=x\n")
            expect(b"mode")
            expect(b"slow")
        expect(b"vireo> ")
        os.write(fd, b"exit\n")
        while True:
            try:
                if not os.read(fd, 4096):
                    break
            except OSError:
                break
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        os.close(fd)


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unittest.main()
