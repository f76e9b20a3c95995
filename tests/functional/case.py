"""A tiny test runner: cases whose tests share what setup() made, reported as TAP."""
import sys
import time
import traceback


class Skip(Exception):
    """The test cannot say anything here; the text says why."""


class Case:
    """Tests that run in the order they are written in, on one machine.

    Once a test fails by a time-out or the machine's death, the rest cannot tell anything
    and fail too; .broken says so.
    """
    place = "lab"     # "lab": on a host where stock kernels run; "any": also without KVM
    host_cpus = 1     # of the lab's host; docs/lab.md says when two are steady
    scratch = None    # size of the lab's scratch disk, on /run/scratch

    def __init__(self, vmm):
        self.vmm = vmm
        self.broken = None

    def setup(self):
        """Make what the tests share."""

    def teardown(self):
        """Undo setup(), also where it was left half done."""

    @classmethod
    def tests(cls):
        return [name for name in vars(cls) if name.startswith("test_")]


def check(condition, text):
    """An assertion that says what is wrong."""
    if not condition:
        raise AssertionError(text)


def equal(got, wanted, what="value"):
    check(got == wanted, "%s is %r, not %r" % (what, got, wanted))


class Report:
    """Prints TAP as it comes, and counts."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def line(self, ok, name, note=""):
        print("%s - %s%s" % ("ok" if ok else "not ok", name, note), flush=True)

    def run_case(self, case_type, vmm, pattern=None):
        case = case_type(vmm)
        names = [name for name in case.tests() if not pattern or pattern in case_name(case_type, name)]
        if not names:
            return
        try:
            first = self._guard(case, case.setup)
            for name in names:
                began = time.monotonic()
                error, first = first, None
                error = error or case.broken or self._guard(case, getattr(case, name))
                self._tell(case_name(case_type, name), error, time.monotonic() - began)
        finally:
            case.teardown()

    def _guard(self, case, function):
        """Call it -> None, or the text of what went wrong."""
        try:
            function()
            return None
        except Skip as skip:
            return skip
        except AssertionError as error:
            return "%s%s" % (error, "" if str(error) else traceback.format_exc())
        except Exception:
            text = traceback.format_exc()
            case.broken = "%s() failed before" % function.__name__
            return text

    def _tell(self, name, error, seconds):
        if error is None:
            self.passed += 1
            self.line(True, name, " # %.1f s" % seconds)
        elif isinstance(error, Skip):
            self.skipped += 1
            self.line(True, name, " # SKIP %s" % error)
        else:
            self.failed += 1
            self.line(False, name)
            for line in str(error).strip().split("\n"):
                print("#   " + line, flush=True)


def case_name(case_type, test):
    return "%s.%s" % (case_type.__name__, test[len("test_"):])


def all_cases():
    """Every case of the modules beside this one, by name."""
    import importlib
    import pathlib
    found = {}
    for path in sorted(pathlib.Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        for name, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, Case) and value.tests():
                found[name] = value
    return found
