"""A QMP client."""
import json
import socket
import time


class QmpError(Exception):
    """The answer to a command was an error; .error is the object that came."""

    def __init__(self, command, error):
        super().__init__("%s: %s: %s" % (command, error.get("class"), error.get("desc")))
        self.error = error


class Qmp:
    """One connection.  Events that come meanwhile wait in .events."""

    def __init__(self, path, timeout=20, negotiate=True):
        self.events = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        limit = time.monotonic() + timeout
        while True:
            try:
                self.socket.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > limit:
                    raise
                time.sleep(0.02)
        self.buffer = b""
        self.greeting = self.read()["QMP"]
        if negotiate:
            self("qmp_capabilities")

    def read(self):
        """The next message, of any kind."""
        while b"\n" not in self.buffer:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("the QMP connection was closed")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def send(self, message):
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        self.socket.sendall(data)

    def __call__(self, command, **arguments):
        """Run a command -> what it returned.  In names, _ stands for -."""
        message = {"execute": command}
        if arguments:
            message["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.send(message)
        while True:
            answer = self.read()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(command, answer["error"])
            else:
                return answer["return"]

    def wait_event(self, name, timeout=20):
        """The first event of this name, of those not yet looked at."""
        limit = time.monotonic() + timeout
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            left = limit - time.monotonic()
            if left <= 0:
                raise TimeoutError("no event %s within %g s" % (name, timeout))
            saved = self.socket.gettimeout()
            self.socket.settimeout(left)
            try:
                self.events.append(self.read())
            except socket.timeout:
                raise TimeoutError("no event %s within %g s" % (name, timeout)) from None
            finally:
                self.socket.settimeout(saved)

    def close(self):
        self.socket.close()
