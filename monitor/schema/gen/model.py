"""What a schema means: types, commands and events, checked against each other and their docs."""
import re

from .parser import Definition, SchemaError

C_KEYWORDS = set("auto break case char const continue default do double else enum extern float for "
                 "goto if inline int long register restrict return short signed sizeof static struct "
                 "switch typedef union unsigned void volatile while bool true false asm unix linux errno "
                 "error vm u".split())


def c_name(name):
    """A member's or command's name as a C identifier."""
    result = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return "q_" + result if result in C_KEYWORDS or result[0].isdigit() else result


def snake(name):
    """RunState -> run_state, PCIBus -> pci_bus."""
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"[^A-Za-z0-9]", "_", name).lower()


class Type:
    """Something a value can be.  Named ones carry where they were defined and their docs."""

    pointer = True                 # in C: a pointer to the thing, NULL when absent

    def __init__(self, name, definition=None):
        self.name = name
        self.where = definition.where if definition else None
        self.doc = definition.doc if definition else None
        self.features = []

    @property
    def c_base(self):
        return "Qmp" + re.sub(r"[^A-Za-z0-9]", "_", self.name)

    @property
    def descriptor(self):
        return "qmp_type_" + snake(self.name)

    def c_type(self, const=False):
        return ("const " if const else "") + self.c_base + " *"


class Builtin(Type):
    def __init__(self, name, c, json_type):
        super().__init__(name)
        self.c, self.json_type = c, json_type
        self.pointer = c.endswith("*")

    def c_type(self, const=False):
        return ("const " if const and self.name == "str" else "") + self.c


BUILTINS = {b.name: b for b in (
    Builtin("str", "char *", "string"), Builtin("bool", "bool ", "boolean"),
    Builtin("number", "double ", "number"), Builtin("null", "json_object *", "null"),
    Builtin("any", "json_object *", "value"), Builtin("size", "uint64_t ", "int"),
    *(Builtin(name, name + "_t ", "int") for name in
      ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")),
    Builtin("int", "int64_t ", "int"))}


class Enum(Type):
    pointer = False

    def __init__(self, name, definition, values):
        super().__init__(name, definition)
        self.values = values

    def c_type(self, const=False):
        return self.c_base + " "

    def constant(self, word):
        return "QMP_%s_%s" % (snake(self.name).upper(), snake(word).upper())


class Array(Type):
    def __init__(self, element):
        super().__init__("[%s]" % element.name)
        self.element = element

    @property
    def descriptor(self):
        return "qmp_type_array_" + snake(self.element.name)

    def c_type(self, const=False):
        return "GPtrArray *" if self.element.pointer else "GArray *"


class Member:
    def __init__(self, name, optional, type_, features):
        self.name, self.optional, self.type, self.features = name, optional, type_, features
        self.c = c_name(name)

    @property
    def has(self):
        """True where a flag says whether it is there (pointers are NULL instead)."""
        return self.optional and not self.type.pointer


class Struct(Type):
    def __init__(self, name, definition=None, implicit=False):
        super().__init__(name, definition)
        self.members = []                  # the base's first
        self.own = []
        self.base = None
        self.implicit = implicit
        self.open = False                  # takes members that it does not name


class Union(Struct):
    def __init__(self, name, definition):
        super().__init__(name, definition)
        self.tag = None                    # Member
        self.branches = {}                 # word: Struct


class Alternate(Type):
    def __init__(self, name, definition):
        super().__init__(name, definition)
        self.branches = {}                 # name: Type


class Command:
    def __init__(self, name, definition):
        self.name, self.where, self.doc = name, definition.where, definition.doc
        self.data = self.returns = None
        self.features = []
        self.boxed = self.oob = self.preconfig = self.client = self.coroutine = False
        self.raw_data = self.raw_returns = False
        self.c = c_name(name)


class Event:
    def __init__(self, name, definition):
        self.name, self.where, self.doc = name, definition.where, definition.doc
        self.data = None
        self.features = []
        self.rate_ms, self.rate_key = 0, None
        self.c = snake(name)


KINDS = {
    "enum": ("data", "features"),
    "struct": ("data", "base", "features", "open"),
    "union": ("data", "base", "discriminator", "features"),
    "alternate": ("data", "features"),
    "command": ("data", "returns", "boxed", "allow-oob", "allow-preconfig", "features", "client", "coroutine",
                "raw-data", "raw-returns"),
    "event": ("data", "features", "rate-ms", "rate-key"),
}


class Schema:
    def __init__(self, parser):
        self.items = parser.items
        self.types = dict(BUILTINS)
        self.commands = {}
        self.events = {}
        self._raw = {}                     # type name: its Definition
        for definition in parser.definitions:
            self._declare(definition)
        for definition in parser.definitions:
            self._define(definition)
        for definition in parser.definitions:
            self._check_doc(definition)

    # Pass 1: names.

    def _declare(self, definition):
        kinds = [key for key in definition.value if key in KINDS]
        where = definition.where
        if len(kinds) != 1:
            raise SchemaError(where, "expected one of %s" % ", ".join("'%s'" % k for k in KINDS))
        kind, name = kinds[0], definition.value[kinds[0]]
        if not isinstance(name, str) or not re.match(r"[A-Za-z][A-Za-z0-9_-]*$", name):
            raise SchemaError(where, "%s has a bad name" % kind)
        definition.kind, definition.name = kind, name
        for key in definition.value:
            if key != kind and key not in KINDS[kind]:
                raise SchemaError(where, "%s '%s' has unknown key '%s'" % (kind, name, key))
        if not definition.doc:
            raise SchemaError(where, "%s '%s' is not documented" % (kind, name))
        table, make = {
            "command": (self.commands, Command), "event": (self.events, Event),
            "enum": (self.types, lambda n, d: Enum(n, d, [])), "struct": (self.types, Struct),
            "union": (self.types, Union), "alternate": (self.types, Alternate)}[kind]
        if name in table:
            raise SchemaError(where, "%s '%s' is already defined" % (kind, name))
        table[name] = definition.object = make(name, definition)
        self._raw[name] = definition

    # Pass 2: contents.

    def _define(self, definition):
        what, value = definition.object, definition.value
        what.features = self._features(definition.where, value)
        getattr(self, "_define_" + definition.kind)(definition.where, what, value)

    def _features(self, where, value):
        features = value.get("features", [])
        if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
            raise SchemaError(where, "'features' is not an array of names")
        return features

    def _flag(self, where, value, key):
        flag = value.get(key, False)
        if not isinstance(flag, bool):
            raise SchemaError(where, "'%s' is not true or false" % key)
        return flag

    def _type(self, where, value, what):
        if isinstance(value, list):
            if len(value) != 1 or not isinstance(value[0], str):
                raise SchemaError(where, "%s: an array has one element type" % what)
            return Array(self._type(where, value[0], what))
        if not isinstance(value, str) or value not in self.types:
            raise SchemaError(where, "%s: unknown type %s" % (what, value if isinstance(value, (dict, int))
                                                              else "'%s'" % value))
        return self.types[value]

    def _members(self, where, data, what):
        if not isinstance(data, dict):
            raise SchemaError(where, "%s: 'data' is not an object" % what)
        members = []
        for key, value in data.items():
            optional, name = key.startswith("*"), key.lstrip("*")
            if not re.match(r"[A-Za-z0-9][A-Za-z0-9_.-]*$", name):
                raise SchemaError(where, "%s: bad member name '%s'" % (what, key))
            features = []
            if isinstance(value, dict):
                features, value = self._features(where, value), value.get("type")
            type_ = self._type(where, value, "%s, member '%s'" % (what, name))
            members.append(Member(name, optional, type_, features))
        return members

    def _define_enum(self, where, enum, value):
        for item in value.get("data", []):
            if not isinstance(item, str) or not re.match(r"[A-Za-z0-9][A-Za-z0-9_.-]*$", item):
                raise SchemaError(where, "enum '%s' has a bad value" % enum.name)
            if item in enum.values:
                raise SchemaError(where, "enum '%s' has '%s' twice" % (enum.name, item))
            enum.values.append(item)

    def _set_members(self, where, struct, base, own):
        struct.own = own
        struct.members = (base.members if base else []) + own
        seen = set()
        for member in struct.members:
            if member.name in seen:
                raise SchemaError(where, "'%s' has member '%s' twice" % (struct.name, member.name))
            seen.add(member.name)

    def _base(self, where, struct, value):
        """A named base, defined by now even if it stands below."""
        base = value.get("base")
        if base is None or isinstance(base, dict):
            return None
        if not isinstance(self.types.get(base), Struct) or isinstance(self.types[base], Union):
            raise SchemaError(where, "'%s': base '%s' is not a struct" % (struct.name, base))
        if base == struct.name:
            raise SchemaError(where, "'%s' is its own base" % base)
        if not self.types[base].members and self._raw[base].value.get("data"):
            self._define(self._raw[base])
        struct.base = self.types[base]
        return struct.base

    def _define_struct(self, where, struct, value):
        if struct.members:
            return                               # done as somebody's base
        struct.open = self._flag(where, value, "open")
        own = self._members(where, value.get("data", {}), "struct '%s'" % struct.name)
        self._set_members(where, struct, self._base(where, struct, value), own)

    def _define_union(self, where, union, value):
        base = self._base(where, union, value)
        own = ([] if base else
               self._members(where, value.get("base"), "union '%s', base" % union.name))
        self._set_members(where, union, base, own)
        tag = value.get("discriminator")
        union.tag = next((m for m in union.members if m.name == tag), None)
        if not union.tag:
            raise SchemaError(where, "union '%s': discriminator '%s' is no member of the base"
                              % (union.name, tag))
        if not isinstance(union.tag.type, Enum) or union.tag.optional:
            raise SchemaError(where, "union '%s': discriminator '%s' is not a mandatory enum"
                              % (union.name, tag))
        self._union_branches(where, union, value)

    def _union_branches(self, where, union, value):
        words = self._raw[union.tag.type.name].value.get("data", [])
        for word, type_name in value.get("data", {}).items():
            if word not in words:
                raise SchemaError(where, "union '%s': '%s' is no value of enum '%s'"
                                  % (union.name, word, union.tag.type.name))
            type_ = self._type(where, type_name, "union '%s', branch '%s'" % (union.name, word))
            if not isinstance(type_, Struct):
                raise SchemaError(where, "union '%s': branch '%s' is not a struct"
                                  % (union.name, word))
            union.branches[word] = type_

    def _define_alternate(self, where, alternate, value):
        taken = {}
        for name, type_name in value.get("data", {}).items():
            type_ = self._type(where, type_name,
                               "alternate '%s', branch '%s'" % (alternate.name, name))
            kind = json_kind(type_)
            if kind in taken:
                raise SchemaError(where, "alternate '%s': '%s' and '%s' are both a JSON %s"
                                  % (alternate.name, taken[kind], name, kind))
            taken[kind] = name
            alternate.branches[name] = type_

    def _data(self, where, what, value, label):
        data = value.get("data")
        if data is None:
            return None
        if isinstance(data, str):
            type_ = self._type(where, data, label)
            if not isinstance(type_, Struct):
                raise SchemaError(where, "%s: 'data' is not a struct" % label)
            return type_
        struct = Struct("%s-%s" % (what.name, "event" if isinstance(what, Event) else "arg"),
                        implicit=True)
        self._set_members(where, struct, None, self._members(where, data, label))
        return struct

    def _define_command(self, where, command, value):
        label = "command '%s'" % command.name
        command.data = self._data(where, command, value, label)
        command.boxed = self._flag(where, value, "boxed")
        command.oob = self._flag(where, value, "allow-oob")
        command.preconfig = self._flag(where, value, "allow-preconfig")
        command.client = self._flag(where, value, "client")
        command.coroutine = self._flag(where, value, "coroutine")
        command.raw_data = self._flag(where, value, "raw-data")
        command.raw_returns = self._flag(where, value, "raw-returns")
        if isinstance(command.data, Union) and not command.boxed and not command.raw_data:
            raise SchemaError(where, "%s: a union as 'data' needs 'boxed' or 'raw-data'" % label)
        if "returns" in value:
            command.returns = self._type(where, value["returns"], label)
            if not command.returns.pointer:
                raise SchemaError(where, "%s: 'returns' is not a struct, an array or a string" % label)

    def _define_event(self, where, event, value):
        label = "event '%s'" % event.name
        event.data = self._data(where, event, value, label)
        event.rate_ms = value.get("rate-ms", 0)
        event.rate_key = value.get("rate-key")
        if not isinstance(event.rate_ms, int):
            raise SchemaError(where, "%s: 'rate-ms' is not a number" % label)
        names = [m.name for m in event.data.members] if event.data else []
        if event.rate_key is not None and event.rate_key not in names:
            raise SchemaError(where, "%s: 'rate-key' is no member of its data" % label)

    # Pass 3: what the documentation says.

    def _check_doc(self, definition):
        doc, what = definition.doc, definition.object
        if doc.name != definition.name:
            raise SchemaError(doc.where, "documentation of '%s' stands above %s '%s'"
                              % (doc.name, definition.kind, definition.name))
        if not any(doc.text):
            raise SchemaError(doc.where, "%s '%s' has no description"
                              % (definition.kind, definition.name))
        names = documented_names(definition.kind, what)
        for name in names:
            if name not in doc.members:
                raise SchemaError(doc.where, "%s '%s': member '%s' is not documented"
                                  % (definition.kind, definition.name, name))
        for name in doc.members:
            if name not in names:
                raise SchemaError(doc.where, "%s '%s': documented member '%s' does not exist"
                                  % (definition.kind, definition.name, name))
        self._check_features(definition)

    def _check_features(self, definition):
        what, doc = definition.object, definition.doc
        features = set(what.features)
        for member in getattr(what, "own", []) or getattr(getattr(what, "data", None), "own", []):
            features.update(member.features)
        for name in features - set(doc.features):
            raise SchemaError(doc.where, "%s '%s': feature '%s' is not documented"
                              % (definition.kind, definition.name, name))
        for name in set(doc.features) - features:
            raise SchemaError(doc.where, "%s '%s': documented feature '%s' does not exist"
                              % (definition.kind, definition.name, name))


def documented_names(kind, what):
    """The names that a definition's own documentation has to explain."""
    if kind == "enum":
        return what.values
    if kind in ("struct", "union"):
        return [member.name for member in what.own]
    if kind == "alternate":
        return list(what.branches)
    return [m.name for m in what.data.own] if what.data and what.data.implicit else []


def json_kind(type_):
    """How a value of the type looks in JSON; for alternates."""
    if isinstance(type_, Builtin):
        return type_.json_type
    if isinstance(type_, Enum):
        return "string"
    if isinstance(type_, Array):
        return "array"
    return "object"


def all_types(schema):
    """Every type in use, arrays and implicit structs included, each once, in a stable order."""
    seen = {}

    def visit(type_):
        if type_.name in seen:
            return
        seen[type_.name] = type_
        if isinstance(type_, Array):
            visit(type_.element)
        for member in getattr(type_, "members", []):
            visit(member.type)
        for branch in getattr(type_, "branches", {}).values():
            visit(branch)

    for type_ in schema.types.values():
        if not isinstance(type_, Builtin):
            visit(type_)
    for what in list(schema.commands.values()) + list(schema.events.values()):
        for type_ in (what.data, getattr(what, "returns", None)):
            if type_:
                visit(type_)
    for builtin in BUILTINS.values():
        seen.pop(builtin.name, None)
    return list(seen.values())
