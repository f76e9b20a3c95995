"""Replies compared with what query-qmp-schema says of them."""


class Schema:
    def __init__(self, reply):
        self.entries = {entry["name"]: entry for entry in reply}

    def commands(self):
        """The commands that need no arguments."""
        return [entry["name"] for entry in self.entries.values() if entry["meta-type"] == "command"
                and all("default" in member for member in self.entries[entry["arg-type"]]["members"])]

    def check_reply(self, command, value):
        self.check(value, self.entries[command]["ret-type"], command)

    def check_event(self, event):
        self.check(event.get("data", {}), self.entries[event["event"]]["arg-type"], event["event"])

    def check(self, value, type_name, where):
        kind = self.entries[type_name]
        getattr(self, "_" + kind["meta-type"])(value, kind, where)

    def _builtin(self, value, kind, where):
        types = {"string": str, "int": int, "number": (int, float), "boolean": bool, "value": object,
                 "null": type(None)}
        wrong = isinstance(value, bool) and kind["json-type"] in ("int", "number")
        self._require(isinstance(value, types[kind["json-type"]]) and not wrong, where,
                      "is no %s: %r" % (kind["json-type"], value))

    def _enum(self, value, kind, where):
        self._require(value in kind["values"], where, "has an unknown value: %r" % value)

    def _array(self, value, kind, where):
        self._require(isinstance(value, list), where, "is no array")
        for index, element in enumerate(value):
            self.check(element, kind["element-type"], "%s[%d]" % (where, index))

    def _members(self, value, kind):
        members = {member["name"]: member for member in kind["members"]}
        for variant in kind.get("variants", ()):
            if variant["case"] == value[kind["tag"]]:
                members.update(self._members(value, self.entries[variant["type"]]))
        return members

    def _object(self, value, kind, where):
        self._require(isinstance(value, dict), where, "is no object")
        members = self._members(value, kind)
        for name, member in members.items():
            self._require(name in value or "default" in member, where, "has no %s" % name)
        for name, element in value.items():
            self._require(name in members, where, "has %s, which is not in the schema" % name)
            self.check(element, members[name]["type"], "%s.%s" % (where, name))

    @staticmethod
    def _require(condition, where, text):
        if not condition:
            raise AssertionError("%s %s" % (where, text))
