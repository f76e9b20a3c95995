#!/usr/bin/env python3
"""Makes C and documentation from the QMP schema.  Usage: generate.py SCHEMA.json OUTPUT-FOLDER"""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from gen import commands, docs, events, types                     # noqa: E402
from gen.model import Schema                                      # noqa: E402
from gen.output import write                                      # noqa: E402
from gen.parser import Parser, SchemaError                        # noqa: E402


def main(arguments):
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        schema = Schema(Parser(arguments[1]))
    except SchemaError as error:
        print(error, file=sys.stderr)
        return 1
    products = {"types.h": types.header, "types.c": types.source, "events.h": events.header,
                "events.c": events.source, "commands.h": commands.header,
                "commands.c": commands.source, "qmp-reference.md": docs.page}
    os.makedirs(arguments[2], exist_ok=True)
    for name, make in products.items():
        write(os.path.join(arguments[2], name), make(schema))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
