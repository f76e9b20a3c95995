"""commands.h and commands.c: prototypes of the handlers, and the table that calls them."""
from .model import Builtin
from .output import HEAD, arguments, c_string, parameters, string_list


def _result(command):
    if command.returns is None:
        return "bool "
    return "json_object *" if command.raw_returns else command.returns.c_type()


def _handler(command):
    context = ["MonitorClient *client" if command.client else "Vm *vm"]
    if command.raw_data:
        values = ["json_object *arguments"]
    elif command.boxed:
        values = [command.data.c_type(const=True) + "arg"]
    else:
        values = arguments(command.data, const=True)
    return "%sqmp_%s(%s)" % (_result(command), command.c,
                             parameters(context + values + ["GError **error"]))


def _summary(command):
    return " ".join(" ".join(command.doc.text).split())


def header(schema):
    out = [HEAD, "/* Handlers return false or NULL when they have set @error.  Main thread, VM lock; those",
           " * that may be sent out of band: any thread, without the lock. */",
           "#pragma once", '#include "monitor/dispatch.h"', '#include "schema/types.h"', ""]
    for _, command in sorted(schema.commands.items()):
        out += ["/* %s: %s */" % (command.name, _summary(command)), _handler(command) + ";"]
    return "\n".join(out) + "\n"


def _call_arguments(command):
    values = ["client" if command.client else "monitor_client_vm(client)"]
    if command.raw_data:
        return values + ["data"]
    if command.boxed:
        return values + ["arg"]
    for member in command.data.members if command.data else []:
        if member.has:
            values.append("arg->has_%s" % member.c)
        values.append("arg->%s" % member.c)
    return values


def _can_be_null(command):
    """Where NULL is a value (JSON null), only @error tells that it failed."""
    return command.raw_returns or (isinstance(command.returns, Builtin) and command.returns.name == "any")


def _thunk(command):
    lines = ["static bool call_%s(MonitorClient *client, void *data, void *ret, GError **error)"
             % command.c, "{"]
    if command.data and not command.raw_data and (command.boxed or command.data.members):
        lines.append("    %s *arg = data;" % command.data.c_base)
    call = "qmp_%s(%s" % (command.c, ", ".join(_call_arguments(command)))
    if command.returns is None:
        return lines + ["    return %s, error);" % call, "}", ""]
    result = _result(command)
    if _can_be_null(command):
        return lines + ["    GError *failure = NULL;",
                        "    *(%s*)ret = %s, &failure);" % (result, call),
                        "    if (failure)", "        g_propagate_error(error, failure);",
                        "    return !failure;", "}", ""]
    return lines + ["    return (*(%s*)ret = %s, error)) != NULL;" % (result, call), "}", ""]


def _row(command):
    parts = [".name = %s" % c_string(command.name), ".call = call_%s" % command.c]
    if command.data:
        parts.append(".data = &%s" % command.data.descriptor)
    if command.returns:
        parts.append(".returns = &%s" % command.returns.descriptor)
    if command.features:
        parts.append(".features = %s" % string_list(command.features))
    for flag, value in (("raw_data", command.raw_data), ("raw_returns", command.raw_returns),
                        ("oob", command.oob), ("preconfig", command.preconfig),
                        ("coroutine", command.coroutine)):
        if value:
            parts.append(".%s = true" % flag)
    return "    { %s }," % ", ".join(parts)


def source(schema):
    out = [HEAD, '#include "schema/commands.h"', ""]
    for _, command in sorted(schema.commands.items()):
        out += _thunk(command)
    out.append("const QmpCommand qmp_commands[] = {")
    out += [_row(command) for _, command in sorted(schema.commands.items())]
    return "\n".join(out + ["    {}", "};", ""])
