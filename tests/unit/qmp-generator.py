#!/usr/bin/env python3
"""The QMP schema's generator: what it refuses, in which words, and what it makes of a good schema."""
import contextlib
import io
import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "monitor", "schema"))

import generate                                                   # noqa: E402


def doc(name, *members, text="Something."):
    lines = ["##", "# @%s: %s" % (name, text)]
    lines += ["# @%s: a member" % member for member in members]
    return "\n".join(lines + ["##", ""])


class Generator(unittest.TestCase):
    def generate(self, text, **files):
        with tempfile.TemporaryDirectory() as folder:
            for name, content in dict(files, schema=text).items():
                with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as out:
                    out.write(content)
            made = os.path.join(folder, "made")
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                status = generate.main(["generate.py", os.path.join(folder, "schema.json"), made])
            products = {}
            for name in os.listdir(made) if os.path.isdir(made) else []:
                with open(os.path.join(made, name), encoding="utf-8") as stream:
                    products[name] = stream.read()
            return status, errors.getvalue(), products

    def refused(self, text, error, **files):
        self.assertEqual(self.generate(text, **files), (1, error + "\n", {}))

    def made(self, text, **files):
        status, errors, products = self.generate(text, **files)
        self.assertEqual((status, errors), (0, ""))
        return products


class Syntax(Generator):
    def test_json(self):
        self.refused(doc("A") + '{ "enum": "A", }',
                     "schema.json:4: invalid JSON: Expecting property name enclosed in double quotes")

    def test_duplicate_key(self):
        self.refused(doc("A") + '{ "enum": "A", "data": [], "data": [] }',
                     "schema.json:4: duplicate member 'data'")

    def test_not_an_object(self):
        self.refused('[ 1 ]', "schema.json:1: expected a JSON object")

    def test_no_kind(self):
        self.refused(doc("A") + '{ "name": "A" }',
                     "schema.json:4: expected one of 'enum', 'struct', 'union', 'alternate', "
                     "'command', 'event'")

    def test_unknown_key(self):
        self.refused(doc("A", "x") + '{ "enum": "A", "data": [ "x" ], "colour": 1 }',
                     "schema.json:5: enum 'A' has unknown key 'colour'")

    def test_bad_name(self):
        self.refused(doc("A") + '{ "event": "9 lives" }', "schema.json:4: event has a bad name")

    def test_defined_twice(self):
        text = doc("A") + '{ "event": "A" }\n'
        self.refused(text + text, "schema.json:8: event 'A' is already defined")

    def test_missing_include(self):
        self.refused('{ "include": "gone.json" }',
                     "schema.json:1: cannot read 'gone.json': No such file or directory")

    def test_error_in_an_include_names_it(self):
        self.refused('{ "include": "part.json" }', "part.json:2: event 'A' is not documented",
                     part='\n{ "event": "A" }')

    def test_an_include_is_read_once(self):
        self.made('{ "include": "part.json" }\n{ "include": "part.json" }',
                  part=doc("A") + '{ "event": "A" }')


class Documentation(Generator):
    def test_no_documentation(self):
        self.refused('{ "command": "go" }', "schema.json:1: command 'go' is not documented")

    def test_documentation_of_another_thing(self):
        self.refused(doc("stop") + '{ "command": "go" }',
                     "schema.json:1: documentation of 'stop' stands above command 'go'")

    def test_no_text(self):
        self.refused(doc("go", text="") + '{ "command": "go" }',
                     "schema.json:1: command 'go' has no description")

    def test_undocumented_member(self):
        self.refused(doc("go", "x") + '{ "command": "go", "data": { "x": "int", "*y": "int" } }',
                     "schema.json:1: command 'go': member 'y' is not documented")

    def test_documented_member_that_is_not_there(self):
        self.refused(doc("go", "x") + '{ "command": "go" }',
                     "schema.json:1: command 'go': documented member 'x' does not exist")

    def test_member_documented_twice(self):
        self.refused(doc("go", "x", "x") + '{ "command": "go" }',
                     "schema.json:4: '@x' is documented twice")

    def test_undocumented_value(self):
        self.refused(doc("E", "a") + '{ "enum": "E", "data": [ "a", "b" ] }',
                     "schema.json:1: enum 'E': member 'b' is not documented")

    def test_undocumented_feature(self):
        self.refused(doc("go") + '{ "command": "go", "features": [ "fast" ] }',
                     "schema.json:1: command 'go': feature 'fast' is not documented")

    def test_documented_feature_that_is_not_there(self):
        self.refused("##\n# @go: Go.\n# Features:\n# @fast: quickly\n##\n{ \"command\": \"go\" }",
                     "schema.json:1: command 'go': documented feature 'fast' does not exist")

    def test_block_without_end(self):
        self.refused("##\n# @go: Go.\n{ \"command\": \"go\" }",
                     "schema.json:3: documentation block is not closed with '##'")

    def test_block_without_definition(self):
        self.refused(doc("go"), "schema.json:1: documentation block without a definition")

    def test_block_without_name(self):
        self.refused("##\n# Go.\n##\n{ \"command\": \"go\" }",
                     "schema.json:1: documentation block names nothing: its first line is '@NAME: …'")


class Meaning(Generator):
    def test_unknown_type(self):
        self.refused(doc("go", "x") + '{ "command": "go", "data": { "x": "Thing" } }',
                     "schema.json:5: command 'go', member 'x': unknown type 'Thing'")

    def test_array_of_two(self):
        self.refused(doc("go", "x") + '{ "command": "go", "data": { "x": [ "int", "str" ] } }',
                     "schema.json:5: command 'go', member 'x': an array has one element type")

    def test_returns_a_number(self):
        self.refused(doc("go") + '{ "command": "go", "returns": "int" }',
                     "schema.json:4: command 'go': 'returns' is not a struct, an array or a string")

    def test_same_member_in_base(self):
        text = doc("A", "x") + '{ "struct": "A", "data": { "x": "int" } }\n'
        text += doc("B", "x") + '{ "struct": "B", "base": "A", "data": { "x": "int" } }'
        self.refused(text, "schema.json:10: 'B' has member 'x' twice")

    def test_union_without_its_tag(self):
        text = doc("E", "a") + '{ "enum": "E", "data": [ "a" ] }\n'
        text += doc("U", "kind") + ('{ "union": "U", "base": { "kind": "E" }, "discriminator": "type", '
                                    '"data": {} }')
        self.refused(text, "schema.json:10: union 'U': discriminator 'type' is no member of the base")

    def test_union_with_an_unknown_branch(self):
        text = doc("E", "a") + '{ "enum": "E", "data": [ "a" ] }\n'
        text += doc("S", "x") + '{ "struct": "S", "data": { "x": "int" } }\n'
        text += doc("U", "t") + ('{ "union": "U", "base": { "t": "E" }, "discriminator": "t", '
                                 '"data": { "b": "S" } }')
        self.refused(text, "schema.json:15: union 'U': 'b' is no value of enum 'E'")

    def test_ambiguous_alternate(self):
        text = doc("E", "a") + '{ "enum": "E", "data": [ "a" ] }\n'
        text += doc("A", "one", "two") + '{ "alternate": "A", "data": { "one": "str", "two": "E" } }'
        self.refused(text, "schema.json:11: alternate 'A': 'one' and 'two' are both a JSON string")

    def test_rate_key(self):
        self.refused(doc("E") + '{ "event": "E", "rate-ms": 10, "rate-key": "id" }',
                     "schema.json:4: event 'E': 'rate-key' is no member of its data")


class Products(Generator):
    def test_handler_and_emitter(self):
        text = doc("Mode", "slow", "fast") + '{ "enum": "Mode", "data": [ "slow", "fast" ] }\n'
        text += doc("go-to", "where", "speed", "mode", "stops") + (
            '{ "command": "go-to", "data": { "where": "str", "*speed": "uint8", "*mode": "Mode", '
            '"*stops": [ "str" ] }, "returns": [ "Mode" ] }\n')
        text += doc("ARRIVED", "default") + '{ "event": "ARRIVED", "data": { "*default": "bool" } }'
        products = self.made(text)
        self.assertIn("GArray *qmp_go_to(Vm *vm, const char *where, bool has_speed, uint8_t speed, "
                      "bool has_mode, QmpMode mode, GPtrArray *stops, GError **error);",
                      products["commands.h"])
        self.assertIn("void event_arrived(Object *source, bool has_q_default, bool q_default);",
                      products["events.h"])
        self.assertIn("QMP_MODE_FAST", products["types.h"])

    def test_reference_page(self):
        text = "##\n# = Travel\n# How to get about.\n##\n"
        text += "##\n# @go: Go.\n# @far: how far,\n#     in km\n# Errors: not-found if it is lost\n##\n"
        text += '{ "command": "go", "data": { "*far": "int" } }'
        page = self.made(text)["qmp-reference.md"]
        self.assertIn("## Travel\n\nHow to get about.\n", page)
        self.assertIn("- `far` (`int`, optional): how far, in km", page)
        self.assertIn("**Errors:** not-found if it is lost", page)


if __name__ == "__main__":
    unittest.main(verbosity=1)
