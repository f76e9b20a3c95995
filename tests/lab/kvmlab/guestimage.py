"""What a guest boots from: a root disk with busybox, and an initramfs with a kernel's drivers."""
import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile

from .archive import Archive
from .kernels import LabError, cache_dir, lock

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest")

# The rest is built into Debian's kernels.  evdev and button bring the power button to acpid.
DRIVERS = ["virtio_pci", "virtio_blk", "virtio_rng", "crc32c_generic", "ext4", "button", "evdev"]
DISK_MIB = 64


def busybox_path():
    path = shutil.which("busybox")
    if not path:
        raise LabError("busybox is needed (package busybox-static)")
    return path


def _digest(*paths):
    """A name for what is made of these files, and of this one."""
    digest = hashlib.sha256()
    for path in sorted([*paths, os.path.abspath(__file__)]):
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:12]


def _files():
    return [os.path.join(FILES, name) for name in os.listdir(FILES)]


@contextlib.contextmanager
def _new(path):
    """A name to make the file under: it becomes path when it is whole, and goes when it is not."""
    new = path + ".new"
    try:
        yield new
        os.rename(new, path)
    except BaseException:
        if os.path.exists(new):
            os.unlink(new)
        raise


def initramfs(kernel):
    """The path of an initramfs for this kernel."""
    busybox = busybox_path()
    path = "%s/initramfs-%s-%s" % (cache_dir("guest"), kernel.version, _digest(busybox, *_files()))
    with lock("guest"):
        if os.path.exists(path):
            return path
        archive = Archive()
        for name in ("bin", "modules", "proc", "sys", "dev", "root"):
            archive.directory(name)
        archive.copy("bin/busybox", busybox, 0o755)
        for applet in _applets(busybox):
            if applet != "busybox":
                archive.link("bin/" + applet, "busybox")
        for number, module in enumerate(kernel.module_files(DRIVERS)):
            archive.copy("modules/%02d-%s" % (number, os.path.basename(module)), module)
        archive.copy("init", FILES + "/initramfs-init", 0o755)
        with _new(path) as new, open(new, "wb") as file:
            file.write(archive.bytes())
    return path


def root_disk():
    """The path of a raw ext4 root disk.  It is shared: use a copy, see copy_disk()."""
    busybox = busybox_path()
    path = "%s/root-%s.raw" % (cache_dir("guest"), _digest(busybox, *_files()))
    with lock("guest"):
        if os.path.exists(path):
            return path
        with tempfile.TemporaryDirectory() as tree, _new(path) as new:
            for folder in ("bin", "dev", "etc/acpi/PWRF", "proc", "root", "run", "sys", "tmp", "mnt"):
                os.makedirs(os.path.join(tree, folder))
            os.symlink("bin", tree + "/sbin")
            shutil.copy(busybox, tree + "/bin/busybox")
            os.chmod(tree + "/bin/busybox", 0o755)
            for applet in _applets(busybox):
                if applet != "busybox":
                    os.symlink("busybox", tree + "/bin/" + applet)
            for name, target, mode in (("inittab", "etc/inittab", 0o644), ("rc", "etc/rc", 0o755),
                                       ("rc.stop", "etc/rc.stop", 0o755), ("profile", "etc/profile", 0o644),
                                       ("power-button", "etc/acpi/PWRF/00000080", 0o755)):
                shutil.copy(os.path.join(FILES, name), os.path.join(tree, target))
                os.chmod(os.path.join(tree, target), mode)
            with open(new, "wb") as file:
                file.truncate(DISK_MIB << 20)
            subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-L", "vireo-guest", "-d", tree,
                            "-E", "root_owner=0:0", new], check=True)
    return path


def copy_disk(target):
    """A root disk of one's own, sparse."""
    subprocess.run(["cp", "--sparse=always", root_disk(), target], check=True)
    return target


def _applets(busybox):
    return subprocess.run([busybox, "--list"], check=True, text=True, stdout=subprocess.PIPE).stdout.split()
