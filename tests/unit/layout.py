#!/usr/bin/env python3
"""The house rules that a compiler does not check.

usage: layout.py SOURCE_ROOT BUILD_ROOT CC

- every header compiles alone;
- no include points up a floor;
- no file in C is longer than a limit (a second concept is waiting to be found).
"""
import json
import os
import re
import subprocess
import sys
import unittest

ROOT = BUILD = CC = None

# From the ground up.  A file may include headers of its own floor and of those below.
FLOORS = [
    ["src/base"],
    ["src/object"],
    ["src/memory", "src/sandbox"],
    ["src/kvm"],
    ["src/chardev", "block"],
    ["hw"],
    ["migration"],
    ["src/vm.h", "src/vm.c"],
    ["monitor"],
    ["src/cli"],
    ["src/setup.h", "src/setup.c", "src/main.c", "src/tools"],
]
# Made from the schema; any floor may emit events.
EVENTS = "schema/events.h"
MAX_LINES = 1000


def tracked(*patterns):
    out = subprocess.run(["git", "-C", ROOT, "ls-files", *patterns], capture_output=True, text=True,
                         check=True).stdout.split()
    return [f for f in out if os.path.exists(os.path.join(ROOT, f))]


def floor_of(path):
    for n, places in enumerate(FLOORS):
        if any(path == p or path.startswith(p + "/") for p in places):
            return n
    return None


def includes(path):
    with open(os.path.join(ROOT, path)) as f:
        return re.findall(r'^#include "([^"]+)"', f.read(), re.M)


def first_include(path):
    """The file of ours that this one includes before all else, or None."""
    with open(os.path.join(ROOT, path)) as f:
        directives = [line for line in f if line.startswith("#") and not line.startswith("#pragma once")]
    found = re.match('#include "([^"]+)"', directives[0]) if directives else None
    return found and found[1]


def compiled_alone():
    """The headers with which the build begins to compile something: they compiled with nothing before them."""
    with open(os.path.join(BUILD, "compile_commands.json")) as f:
        paths = [os.path.relpath(os.path.join(BUILD, unit["file"]), ROOT) for unit in json.load(f)]
    known, alone = set(tracked("*.c", "*.h")), set()
    paths = [path for path in paths if path in known and not path.startswith("tests/")]
    while paths:
        header = first_include(paths.pop())
        if header in known - alone:
            alone.add(header)
            paths.append(header)
    return alone


class Layout(unittest.TestCase):
    def test_no_include_points_up(self):
        for path in tracked("*.c", "*.h"):
            mine = floor_of(path)
            if mine is None:
                continue
            for inc in includes(path):
                theirs = floor_of(inc)
                if theirs is not None and theirs > mine and inc != EVENTS:
                    self.fail("%s (floor %s) includes %s" % (path, FLOORS[mine][0], inc))

    def test_every_file_has_a_floor(self):
        for path in tracked("*.c", "*.h"):
            if not path.startswith(("tests/", "docs/")):
                self.assertIsNotNone(floor_of(path), "%s belongs to no floor" % path)

    def test_files_are_short(self):
        for path in tracked("*.c", "*.h"):
            if path.startswith("tests/"):
                continue
            with open(os.path.join(ROOT, path)) as f:
                lines = sum(1 for _ in f)
            self.assertLessEqual(lines, MAX_LINES, path)

    def test_headers_compile_alone(self):
        flags = subprocess.run(["pkg-config", "--cflags", "glib-2.0", "json-c", "liburing"],
                               capture_output=True, text=True, check=True).stdout.split()
        flags += ["-D_GNU_SOURCE", "-std=gnu11", "-Wall", "-Werror", "-fsyntax-only", "-I" + ROOT,
                  "-I" + BUILD, "-I" + os.path.join(BUILD, "monitor"), "-xc", "-"]
        alone = compiled_alone()
        for path in tracked("*.h"):
            if path.startswith("tests/") or path in alone:
                continue
            got = subprocess.run([*CC, *flags], input='#include "%s"\n' % path, capture_output=True, text=True)
            self.assertEqual(got.returncode, 0, "%s alone:\n%s" % (path, got.stderr))


if __name__ == "__main__":
    BUILD, ROOT = os.path.abspath(sys.argv.pop(2)), os.path.abspath(sys.argv.pop(1))
    CC, sys.argv[1:] = sys.argv[1:], []
    unittest.main(verbosity=1)
