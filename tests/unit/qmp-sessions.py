#!/usr/bin/env python3
"""Runs the QMP sessions of a page of the documentation: qmp-sessions.py VIREO PAGE

All sessions of the page run one after the other on one machine, in an empty folder.  Each command must
get the reply that the page shows; each event that it shows must come, with these members."""

import json
import os
import socket
import subprocess
import sys
import tempfile


def sessions(page):
    """The lines of all blocks marked qmp: ("->" or "<-", message)."""
    inside = False
    with open(page, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("```"):
                inside = line.strip() == "```qmp"
            elif inside:
                yield line[:2], json.loads(line[2:])


class Client:
    def __init__(self, connection):
        self.file = connection.makefile("rw")
        self.events = []
        self.read()                        # the greeting
        self.command({"execute": "qmp_capabilities"})

    def read(self):
        line = self.file.readline()
        if not line:
            sys.exit("vireo closed the connection")
        return json.loads(line)

    def command(self, message):
        self.file.write(json.dumps(message) + "\n")
        self.file.flush()
        while True:
            reply = self.read()
            if "event" not in reply:
                return reply
            self.events.append(reply)

    def wait_event(self, wanted):
        while True:
            for event in self.events:
                if event["event"] == wanted["event"] and \
                        all(event["data"].get(key) == value
                            for key, value in wanted["data"].items()):
                    self.events.remove(event)
                    return
            self.events.append(self.read())


def run(client, page):
    replies, commands = [], 0
    for direction, message in sessions(page):
        if direction == "->":
            reply = client.command(message)
            replies.append((message, reply))
            commands += 1
        elif "event" in message:
            client.wait_event(message)
        else:
            sent, reply = replies.pop(0)
            if reply != message:
                sys.exit("%s\ngot %s" % (json.dumps(sent), json.dumps(reply)))
    return commands


def main(vireo, page):
    vireo, page = os.path.abspath(vireo), os.path.abspath(page)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        with subprocess.Popen([vireo, "-machine", "none", "-S", "-chardev",
                               "socket,id=q,fd=%d" % theirs.fileno(), "-mon",
                               "chardev=q,mode=control"], pass_fds=[theirs.fileno()]) as machine:
            theirs.close()
            try:
                commands = run(Client(ours), page)
            finally:
                machine.terminate()
        os.chdir("/")
    print("%d commands of %s" % (commands, os.path.basename(page)))
    return 0 if commands and machine.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
