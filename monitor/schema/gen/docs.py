"""qmp-reference.md: the reference page, in the schema's own order."""
from .model import Alternate, Array, Builtin, Enum, Struct, Union
from .parser import Section


def _type(type_):
    if isinstance(type_, Array):
        return "array of " + _type(type_.element)
    if isinstance(type_, Builtin):
        return "`%s`" % type_.name
    return "[`%s`](#%s)" % (type_.name, type_.name.lower())


def _text(lines):
    return "\n".join(lines).strip()


def _inline(lines):
    return " ".join(" ".join(lines).split())


def _row(name, note, text):
    return "- `%s`%s: %s" % (name, " (%s)" % note if note else "", text)


def _member_rows(members, doc):
    rows = []
    for member in members:
        note = _type(member.type) + (", optional" if member.optional else "")
        rows.append(_row(member.name, note, _inline(doc.members[member.name])))
    return rows


def _type_body(type_):
    if isinstance(type_, Enum):
        return ["Values:", ""] + [_row(word, "", _inline(type_.doc.members[word]))
                                  for word in type_.values]
    if isinstance(type_, Alternate):
        return ["One of:", ""] + [_row(name, _type(branch), _inline(type_.doc.members[name]))
                                  for name, branch in type_.branches.items()]
    rows = ["Members:", ""] + _member_rows(type_.own, type_.doc)
    if type_.base:
        rows.append("- the members of %s" % _type(type_.base))
    for word, branch in getattr(type_, "branches", {}).items():
        if isinstance(type_, Union):
            rows.append("- where `%s` is `%s`: the members of %s"
                        % (type_.tag.name, word, _type(branch)))
    if type_.open:
        rows.append("- any further members")
    return rows


def _arguments(what):
    if what.data is None:
        return []
    if not what.data.implicit:
        return ["Members: those of %s" % _type(what.data)]
    if not what.data.members:
        return []
    return ["Members:", ""] + _member_rows(what.data.members, what.doc)


def _call_body(what):
    rows = _arguments(what)
    returns = getattr(what, "returns", None)
    if returns:
        rows += ["", "Returns: %s" % _type(returns)]
    if getattr(what, "oob", False):
        rows += ["", "May be sent out of band (`exec-oob`)."]
    if getattr(what, "rate_ms", 0):
        rows += ["", "Sent at most once in %d ms; the latest one counts." % what.rate_ms]
    return rows


def _tags(doc):
    rows = []
    for tag in ("Returns", "Errors", "Note"):
        if tag in doc.tags:
            rows += ["", "**%s:** %s" % (tag, _text(doc.tags[tag]))]
    if doc.features:
        rows += ["", "Features:", ""] + [_row(name, "", _inline(text))
                                         for name, text in doc.features.items()]
    if "Example" in doc.tags:
        rows += ["", "```json", "\n".join(doc.tags["Example"]).strip("\n"), "```"]
    if "Since" in doc.tags:
        rows += ["", "Since: %s" % _inline(doc.tags["Since"])]
    return rows


def _entry(definition):
    what = definition.object
    body = _type_body(what) if isinstance(what, (Enum, Struct, Alternate)) else _call_body(what)
    return (["### %s" % definition.name, "", "*%s*" % definition.kind, "", _text(what.doc.text), ""]
            + body + _tags(what.doc) + [""])


def page(schema):
    out = ["# The QMP reference", "",
           "Every command, event and type of the monitor, from the definitions in `monitor/schema`.", ""]
    for item in schema.items:
        if isinstance(item, Section):
            out += ["## %s" % item.title, "", _text(item.text), ""]
        else:
            out += _entry(item)
    return "\n".join(out)
