"""events.h and events.c: a typed emitter for each event, and the table of events."""
from .output import HEAD, arguments, c_string, parameters, string_list


def _prototype(event):
    return "void event_%s(%s)" % (event.c, parameters(["Object *source"] +
                                                      arguments(event.data, const=True)))


def _summary(event):
    return " ".join(" ".join(event.doc.text).split())


def header(schema):
    out = [HEAD, "/* @source: any object of the machine's tree.  Any thread. */", "#pragma once",
           '#include "schema/types.h"', '#include "src/object/event.h"', ""]
    for _, event in sorted(schema.events.items()):
        out += ["/* %s: %s */" % (event.name, _summary(event)), _prototype(event) + ";"]
    return "\n".join(out) + "\n"


def _emitter(event):
    lines = [_prototype(event), "{"]
    if not event.data:
        return lines + ["    event_emit(source, %s, NULL);" % c_string(event.name), "}", ""]
    lines.append("    %s data = {" % event.data.c_base)
    for member in event.data.members:
        if member.has:
            lines.append("        .has_%s = has_%s," % (member.c, member.c))
        cast = "(%s)" % member.type.c_type().strip() if member.type.pointer else ""
        lines.append("        .%s = %s%s," % (member.c, cast, member.c))
    return lines + ["    };",
                    "    event_emit(source, %s, qmp_build_struct(&%s, &data));"
                    % (c_string(event.name), event.data.descriptor), "}", ""]


def _row(event):
    parts = [c_string(event.name), "&%s" % event.data.descriptor if event.data else "NULL",
             string_list(event.features) if event.features else "NULL", str(event.rate_ms),
             c_string(event.rate_key) if event.rate_key else "NULL"]
    return "    { %s }," % ", ".join(parts)


def source(schema):
    out = [HEAD, '#include "schema/events.h"', ""]
    for _, event in sorted(schema.events.items()):
        out += _emitter(event)
    out.append("const QmpEventInfo qmp_events[] = {")
    out += [_row(event) for _, event in sorted(schema.events.items())]
    return "\n".join(out + ["    {}", "};", ""])
