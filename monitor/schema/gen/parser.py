"""Reading schema files: definitions in JSON, each below a documentation comment.

A file is a sequence of comments and JSON objects.  `##` opens and closes a documentation block;
a block whose first line is `= TITLE` is a section of the reference, any other one must be followed
by the definition it documents.  What a block says is checked against the definition in model.py.
"""
import json
import os
import re


class SchemaError(Exception):
    """A mistake in a schema file, with its place: "FILE:LINE: what is wrong"."""

    def __init__(self, where, text):
        super().__init__("%s: %s" % (where, text))


class Doc:
    """A documentation block: name, text, members, features, and tagged paragraphs."""

    TAGS = ("Returns", "Errors", "Since", "Note", "Example")

    def __init__(self, where):
        self.where = where
        self.name = None
        self.text = []
        self.members = {}
        self.features = {}
        self.tags = {}

    def add_lines(self, lines):
        """Take the block apart; each of @lines is (place, text without the '#')."""
        into, features, example = self.text, False, False
        for where, line in lines:
            named = re.match(r"@([A-Za-z0-9_.-]+):\s*(.*)$", line)
            tagged = re.match(r"(%s):\s*(.*)$" % "|".join(self.TAGS), line)
            if named:
                into, example = self._start_named(where, named.group(1), features), False
                into.append(named.group(2))
            elif line == "Features:":
                features, example = True, False
            elif tagged:
                into = self.tags.setdefault(tagged.group(1), [])
                example = tagged.group(1) == "Example"
                if tagged.group(2):
                    into.append(tagged.group(2))
            else:
                into.append(line if example else line.strip())

    def _start_named(self, where, name, features):
        if self.name is None:
            self.name = name
            return self.text
        group = self.features if features else self.members
        if name in group:
            raise SchemaError(where, "'@%s' is documented twice" % name)
        group[name] = []
        return group[name]


class Definition:
    """One JSON object of a schema file, with its documentation and place."""

    def __init__(self, where, value, doc):
        self.where = where
        self.value = value
        self.doc = doc


class Section:
    """A heading of the reference, with the text below it."""

    def __init__(self, title, text):
        self.title = title
        self.text = text


def _reject_duplicates(pairs):
    result = {}
    for key, value in pairs:
        if key in result:
            raise ValueError("duplicate member '%s'" % key)
        result[key] = value
    return result


class _File:
    """A cursor over one file's lines."""

    def __init__(self, path, shown):
        with open(path, encoding="utf-8") as stream:
            self.text = stream.read()
        self.shown = shown
        self.offset = 0
        self.decoder = json.JSONDecoder(object_pairs_hook=_reject_duplicates)

    def where(self, offset=None):
        offset = self.offset if offset is None else offset
        return "%s:%d" % (self.shown, self.text.count("\n", 0, offset) + 1)

    def skip_space(self):
        while self.offset < len(self.text) and self.text[self.offset].isspace():
            self.offset += 1
        return self.offset < len(self.text)

    def line(self):
        end = self.text.find("\n", self.offset)
        end = len(self.text) if end < 0 else end
        line = self.text[self.offset:end]
        self.offset = min(end + 1, len(self.text))
        return line

    def doc_lines(self):
        """The lines of a block, from its opening '##' to its closing one."""
        start = self.where()
        self.line()
        lines = []
        while self.offset < len(self.text):
            where, line = self.where(), self.line()
            if line == "##":
                return lines
            if not line.startswith("#"):
                raise SchemaError(where, "documentation block is not closed with '##'")
            lines.append((where, line[2:] if line.startswith("# ") else line[1:]))
        raise SchemaError(start, "documentation block is not closed with '##'")

    def object(self):
        start = self.offset
        try:
            value, self.offset = self.decoder.raw_decode(self.text, self.offset)
        except json.JSONDecodeError as error:
            raise SchemaError(self.where(error.pos), "invalid JSON: %s" % error.msg) from None
        except ValueError as error:
            raise SchemaError(self.where(start), str(error)) from None
        if not isinstance(value, dict):
            raise SchemaError(self.where(start), "expected a JSON object")
        return value


class Parser:
    """Reads a schema and what it includes: .definitions and .sections in order, and .files."""

    def __init__(self, path):
        self.items = []            # Definition and Section, in order
        self.files = []
        self._root = os.path.dirname(path)
        self._read(path, None)

    @property
    def definitions(self):
        return [item for item in self.items if isinstance(item, Definition)]

    def _read(self, path, included_at):
        shown = os.path.relpath(path, self._root) if self._root else path
        if path in self.files:
            return
        self.files.append(path)
        try:
            file = _File(path, shown)
        except OSError as error:
            raise SchemaError(included_at or shown,
                              "cannot read '%s': %s" % (shown, error.strerror)) from None
        doc = None
        while file.skip_space():
            doc = self._item(file, doc, path)
        if doc:
            raise SchemaError(doc.where, "documentation block without a definition")

    def _item(self, file, doc, path):
        """Read one comment or object; returns the block that waits for its definition."""
        where, char = file.where(), file.text[file.offset]
        if char == "#":
            if not re.match(r"##(\n|$)", file.text[file.offset:file.offset + 3]):
                file.line()                        # a comment for readers of the file
                return doc
            if doc:
                raise SchemaError(doc.where, "documentation block without a definition")
            return self._block(where, file.doc_lines())
        value = file.object()
        if "include" in value:
            if doc:
                raise SchemaError(doc.where, "documentation block without a definition")
            if len(value) != 1 or not isinstance(value["include"], str):
                raise SchemaError(where, "an include has a file name and nothing else")
            self._read(os.path.join(os.path.dirname(path), value["include"]), where)
            return None
        self.items.append(Definition(where, value, doc))
        return None

    def _block(self, where, lines):
        if lines and lines[0][1].startswith("= "):
            self.items.append(Section(lines[0][1][2:].strip(), [text for _, text in lines[1:]]))
            return None
        doc = Doc(where)
        doc.add_lines(lines)
        if doc.name is None:
            raise SchemaError(where, "documentation block names nothing: its first line is '@NAME: …'")
        return doc
