"""Writing the products: files are replaced only when they differ, so that little is rebuilt."""
import os

HEAD = "/* Made by monitor/schema/generate.py from the QMP schema.  Do not edit. */\n"


def write(path, text):
    try:
        with open(path, encoding="utf-8") as old:
            if old.read() == text:
                return
    except OSError:
        pass
    with open(path, "w", encoding="utf-8") as new:
        new.write(text)


def c_string(text):
    return '"%s"' % text.replace("\\", "\\\\").replace('"', '\\"')


def string_list(words):
    return "(const char *const[]){ %s, NULL }" % ", ".join(c_string(w) for w in words)


def arguments(struct, const):
    """A struct's members as C parameters: has_x before each optional x that needs it."""
    result = []
    for member in struct.members if struct else []:
        if member.has:
            result.append("bool has_%s" % member.c)
        result.append(member.type.c_type(const) + member.c)
    return result


def parameters(items):
    return ", ".join(items) if items else "void"
