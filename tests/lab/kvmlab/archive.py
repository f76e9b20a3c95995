"""Write a newc cpio archive, the form of an initramfs, with root as the owner of everything."""
import os
import stat


class Archive:
    """Collects files in memory; bytes() is the archive."""

    def __init__(self):
        self.data = bytearray()
        self.inode = 0

    def directory(self, name):
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def link(self, name, target):
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def text(self, name, content, mode=0o644):
        self._entry(name, stat.S_IFREG | mode, content.encode())

    def copy(self, name, path, mode=None):
        with open(path, "rb") as file:
            content = file.read()
        if mode is None:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        self._entry(name, stat.S_IFREG | mode, content)

    def bytes(self):
        end = Archive()
        end._entry("TRAILER!!!", 0, b"")
        return bytes(self.data + end.data)

    def _entry(self, name, mode, content):
        self.inode += 1
        links = 2 if stat.S_ISDIR(mode) else 1
        #         inode       mode  uid gid links  mtime  size     dev   rdev  name's length       check
        fields = [self.inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name.encode()) + 1, 0]
        self.data += b"070701" + b"".join(b"%08x" % field for field in fields)
        self._padded(name.encode() + b"\0", len(self.data))
        self._padded(content, 0)

    def _padded(self, content, before):
        self.data += content
        self.data += b"\0" * (-(before + len(content)) % 4)
