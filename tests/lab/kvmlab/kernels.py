"""Debian kernel packages, downloaded and unpacked in the cache, never installed."""
import fcntl
import glob
import lzma
import os
import re
import shutil
import subprocess
import tempfile


class LabError(Exception):
    """The lab itself cannot do its work; the text is for a person."""


def cache_dir(*parts):
    """A folder of the cache, made if it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(base, "vireo", *parts)
    os.makedirs(path, exist_ok=True)
    return path


class lock:
    """Hold a file lock in the cache, so that two runs do not make the same thing at once."""

    def __init__(self, name):
        self.path = os.path.join(cache_dir(), ".%s.lock" % name)

    def __enter__(self):
        self.file = open(self.path, "w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


class Kernel:
    """One unpacked kernel package."""

    def __init__(self, top):
        self.top = top
        self.modules = glob.glob(top + "/lib/modules/*")[0]
        self.version = os.path.basename(self.modules)
        self.bzimage = top + "/boot/vmlinuz-" + self.version
        self.config = top + "/boot/config-" + self.version

    @property
    def vmlinux(self):
        """The ELF inside the bzImage, or the bzImage where it is not packed with xz.

        The ELF is started by its PVH note, which saves 2.5 s of emulated decompression.
        """
        elf = self.top + "/boot/vmlinux"
        return elf if os.path.exists(elf) else self.bzimage

    def module_files(self, wanted):
        """Paths of the wanted modules and all they depend on, in the order to insert them.

        A name that is built in, or unknown, adds nothing.
        """
        path, needs = {}, {}
        with open(self.modules + "/modules.dep") as dep:
            for line in dep:
                file, _, rest = line.strip().partition(":")
                path[_module_name(file)] = self.modules + "/" + file
                needs[_module_name(file)] = [_module_name(d) for d in rest.split()]
        order = []

        def add(name):
            # modules.dep lists the nearest dependency first
            for dependency in reversed(needs.get(name, [])):
                add(dependency)
            if name in path and path[name] not in order:
                order.append(path[name])

        for name in wanted:
            add(name.replace("-", "_"))
        return order


def fetch(flavour):
    """The newest kernel of a flavour ("amd64", "cloud-amd64") -> Kernel."""
    package = _newest_package(flavour)
    top = os.path.join(cache_dir("kernels"), package)
    with lock("kernels"):
        if not os.path.exists(top + "/.complete"):
            print("kernel: downloading %s" % package, flush=True)
            _unpack_package(package, top)
    return Kernel(top)


def _newest_package(flavour):
    """The package that linux-image-FLAVOUR stands for; without apt's lists, one already here."""
    meta = "linux-image-" + flavour
    here = glob.glob(cache_dir("kernels") + "/linux-image-*[0-9]-%s/.complete" % flavour)
    cached = os.path.basename(os.path.dirname(max(here, key=os.path.getmtime))) if here else None
    if cached and "KVM_LAB" in os.environ:
        return cached  # apt takes half a minute on the lab's emulated host
    for attempt in ("as it is", "after an update"):
        out = subprocess.run(["apt-cache", "depends", meta], text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL).stdout
        found = re.search(r"Depends: (linux-image-\d\S+)", out)
        if found:
            return found.group(1)
        if cached:
            return cached
        if attempt == "as it is":
            _update_lists()
    raise LabError("no package %s: is this Debian, with the `main` component in its apt sources?" % meta)


def _update_lists():
    sudo = [] if os.getuid() == 0 else ["sudo"]
    subprocess.run(sudo + ["apt-get", "-qq", "update"], stdin=subprocess.DEVNULL)


def _unpack_package(package, top):
    with tempfile.TemporaryDirectory(dir=cache_dir("kernels")) as work:
        command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=", "download", package]
        if subprocess.run(command, cwd=work).returncode:
            _update_lists()
            if subprocess.run(command, cwd=work).returncode:
                raise LabError("cannot download the package %s" % package)
        tree = work + "/tree"
        subprocess.run(["dpkg-deb", "-x", glob.glob(work + "/*.deb")[0], tree], check=True)
        if not os.path.exists(tree + "/lib"):  # Debian 13 has its modules in /usr/lib
            os.symlink("usr/lib", tree + "/lib")
        os.chmod(tree, 0o755)
        version = os.path.basename(glob.glob(tree + "/lib/modules/*")[0])
        depmod = shutil.which("depmod", path="/sbin:/usr/sbin:" + os.environ.get("PATH", ""))
        if not depmod:
            raise LabError("depmod is needed (package kmod)")
        subprocess.run([depmod, "-b", tree, version], check=True)
        _unpack_elf(tree + "/boot/vmlinuz-" + version, tree + "/boot/vmlinux")
        open(tree + "/.complete", "w").close()
        shutil.rmtree(top, ignore_errors=True)
        os.rename(tree, top)


def _unpack_elf(bzimage, elf):
    """Write the kernel's ELF, which a bzImage carries compressed (x86 boot protocol 2.08)."""
    with open(bzimage, "rb") as file:
        image = file.read()
    setup_sectors = image[0x1f1] or 4
    offset, length = (int.from_bytes(image[at:at + 4], "little") for at in (0x248, 0x24c))
    start = (setup_sectors + 1) * 512 + offset
    try:
        # the payload ends in 4 bytes that are the size of the ELF, not xz
        data = lzma.LZMADecompressor().decompress(image[start:start + length])
    except lzma.LZMAError:
        return
    with open(elf, "wb") as file:
        file.write(data)


def _module_name(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")
