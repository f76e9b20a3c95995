"""types.h and types.c: the C side of every type, and its descriptor."""
from .model import Alternate, Array, Builtin, Enum, Struct, Union, all_types, c_name, snake
from .output import HEAD, c_string, string_list


def _enum(enum):
    lines = ["typedef enum %s {" % enum.c_base]
    lines += ["    %s," % enum.constant(word) for word in enum.values]
    lines += ["    QMP_%s__COUNT" % snake(enum.name).upper(), "} %s;" % enum.c_base,
              "extern const char *const qmp_%s_words[];      /* NULL-ended */" % snake(enum.name), ""]
    return lines


def _member_lines(member):
    lines = ["    %s%s;" % (member.type.c_type(), member.c)]
    if isinstance(member.type, Array):
        lines[0] += "    /* of %s */" % member.type.element.c_type().strip()
    if member.has:
        lines.append("    bool has_%s;" % member.c)
    return lines


def _struct(struct):
    lines = ["struct %s {" % struct.c_base]
    if isinstance(struct, Alternate):
        lines.append("    int kind;                      /* which of u, in order */")
    for member in getattr(struct, "members", []):
        lines += _member_lines(member)
    if getattr(struct, "branches", None):
        lines.append("    union {")
        for word, type_ in struct.branches.items():
            lines.append("        %s%s;" % (type_.c_type(), c_name(snake(word))))
        lines += ["        void *any;", "    } u;"]
    elif not getattr(struct, "members", []):
        lines.append("    char unused;")
    return lines + ["};", ""]


def _free_prototype(type_):
    return "void %s_free(%s *value)" % ("qmp_" + snake(type_.name), type_.c_base)


def header(schema):
    types = all_types(schema)
    out = [HEAD, "#pragma once", "#include <glib.h>", "#include <stdbool.h>", "#include <stdint.h>",
           '#include "monitor/schema/marshal.h"', ""]
    structs = [t for t in types if isinstance(t, (Struct, Alternate))]
    out += ["typedef struct %s %s;" % (t.c_base, t.c_base) for t in structs] + [""]
    for type_ in types:
        if isinstance(type_, Enum):
            out += _enum(type_)
    for type_ in structs:
        out += _struct(type_)
    for type_ in structs:
        if not getattr(type_, "implicit", False):
            out.append("%s;                        /* NULL is fine */" % _free_prototype(type_))
            out.append("G_DEFINE_AUTOPTR_CLEANUP_FUNC(%s, qmp_%s_free)"
                       % (type_.c_base, snake(type_.name)))
    out.append("")
    out += ["extern const QmpType %s;" % t.descriptor for t in types]
    return "\n".join(out) + "\n"


def _features(names):
    return [".features = %s" % string_list(names)] if names else []


def _member_row(struct, member):
    parts = [c_string(member.name), "&%s" % member.type.descriptor,
             ".offset = offsetof(%s, %s)" % (struct.c_base, member.c)]
    if member.has:
        parts.append(".has_offset = offsetof(%s, has_%s)" % (struct.c_base, member.c))
    if member.optional:
        parts.append(".optional = true")
    return "        { %s }," % ", ".join(parts + _features(member.features))


def _enum_descriptor(enum):
    words = ["const char *const qmp_%s_words[] = {" % snake(enum.name)]
    words += ["    %s," % c_string(word) for word in enum.values] + ["    NULL", "};"]
    return words + ["const QmpType %s = {" % enum.descriptor,
                    "    .name = %s, .kind = QMP_KIND_ENUM, .words = qmp_%s_words,"
                    % (c_string(enum.name), snake(enum.name))] + \
        ["    %s," % f for f in _features(enum.features)] + ["};", ""]


def _array_descriptor(array):
    return ["const QmpType %s = {" % array.descriptor,
            "    .name = %s, .kind = QMP_KIND_ARRAY, .element = &%s,"
            % (c_string(array.name), array.element.descriptor), "};", ""]


def _branch_rows(union):
    rows = []
    for word in union.tag.type.values:
        branch = union.branches.get(word)
        rows.append("        &%s," % branch.descriptor if branch else "        NULL,")
    return rows


def _union_rows(union):
    index = union.members.index(union.tag)
    return ["    .tag = &%s_members[%d], .u_offset = offsetof(%s, u),"
            % (union.descriptor, index, union.c_base),
            "    .branches = (const QmpType *const[]){"] + _branch_rows(union) + ["    },"]


def _struct_descriptor(struct):
    rows = ["static const QmpMember %s_members[] = {" % struct.descriptor]
    rows += [_member_row(struct, member) for member in struct.members] + ["        {}", "};"]
    rows += ["const QmpType %s = {" % struct.descriptor,
             "    .name = %s, .kind = QMP_KIND_STRUCT, .size = sizeof(%s),"
             % (c_string(struct.name), struct.c_base), "    .members = %s_members," % struct.descriptor]
    if struct.open:
        rows.append("    .open = true,")
    if not struct.implicit:
        rows.append("    .free = (void (*)(void *))qmp_%s_free," % snake(struct.name))
    if isinstance(struct, Union):
        rows += _union_rows(struct)
    return rows + ["    %s," % f for f in _features(struct.features)] + ["};", ""]


def _alternate_descriptor(alternate):
    rows = ["const QmpType %s = {" % alternate.descriptor,
            "    .name = %s, .kind = QMP_KIND_ALTERNATE, .size = sizeof(%s),"
            % (c_string(alternate.name), alternate.c_base),
            "    .u_offset = offsetof(%s, u)," % alternate.c_base,
            "    .free = (void (*)(void *))qmp_%s_free," % snake(alternate.name),
            "    .branches = (const QmpType *const[]){"]
    rows += ["        &%s," % t.descriptor for t in alternate.branches.values()] + ["        NULL", "    },"]
    return rows + ["};", ""]


def _free_function(type_):
    return [_free_prototype(type_), "{",
            "    qmp_clear(&%s, &value);" % type_.descriptor, "}", ""]


def source(schema):
    out = [HEAD, '#include "schema/types.h"', "#include <stddef.h>", ""]
    for type_ in all_types(schema):
        if isinstance(type_, (Struct, Alternate)) and not getattr(type_, "implicit", False):
            out += _free_function(type_)
        if isinstance(type_, Enum):
            out += _enum_descriptor(type_)
        elif isinstance(type_, Array):
            out += _array_descriptor(type_)
        elif isinstance(type_, Struct):
            out += _struct_descriptor(type_)
        elif isinstance(type_, Alternate):
            out += _alternate_descriptor(type_)
        else:
            assert isinstance(type_, Builtin)
    return "\n".join(out)
