"""Small and read-only file systems that one process and those it starts see, and that go when they end. Root is not needed."""

import ctypes
import os
from pathlib import Path

from faults import children
from faults.attack import Impossible

NEW_MOUNTS, NEW_USER, READ_ONLY, REMOUNT, BIND, PRIVATE = 0x20000, 0x10000000, 1, 32, 4096, (1 << 18) | (1 << 14)
# Bits of os.statvfs -> of mount: what a file system forbids already must be forbidden again when it becomes read-only.
KEPT = {os.ST_NOSUID: 2, os.ST_NODEV: 4, os.ST_NOEXEC: 8, os.ST_NOATIME: 1024, os.ST_NODIRATIME: 2048, os.ST_RELATIME: 1 << 21}


def small(target: Path, kilobytes: int) -> None:
    """From now on an empty file system of this size lies there."""
    _mount(_own_mounts(), b"tmpfs", target, b"tmpfs", 0, f"size={kilobytes}k".encode())


def leave_free(target: Path, size: int) -> None:
    """Of a `small` file system of this process: so many bytes are free from now on."""
    held = os.statvfs(target)
    used = (held.f_blocks - held.f_bfree) * held.f_frsize
    _mount(ctypes.CDLL(None, use_errno=True), b"tmpfs", target, b"tmpfs", REMOUNT, f"size={used + size}".encode())


def read_only(target: Path) -> None:
    """From now on nothing can be written there."""
    libc, held = _own_mounts(), os.statvfs(target).f_flag
    flags = sum(of_mount for bit, of_mount in KEPT.items() if held & bit)
    _mount(libc, os.fsencode(target), target, None, BIND, None)
    _mount(libc, os.fsencode(target), target, None, BIND | REMOUNT | READ_ONLY | flags, None)


def _mount(libc: ctypes.CDLL, source: bytes, target: Path, kind: bytes | None, flags: int, options: bytes | None) -> None:
    if libc.mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), options):
        raise OSError(ctypes.get_errno(), f"{target} cannot be mounted")


def _own_mounts() -> ctypes.CDLL:
    """Takes this process out of the others' mounts; where it may not, as the root of a name space of its own."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(NEW_MOUNTS):
        if libc.unshare(NEW_USER | NEW_MOUNTS):
            raise OSError(ctypes.get_errno(), "no mounts here")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(PRIVATE), None):
        raise OSError(ctypes.get_errno(), "no mounts here")
    return libc


def require_mounts(folder: Path) -> None:
    """Raises Impossible where this user may not mount, not even in a name space."""
    place = folder / "mount"
    place.mkdir(exist_ok=True)
    try:
        children.call(lambda: small(place, 64), folder)
    except RuntimeError as error:
        raise Impossible(f"no small file system can be mounted here ({str(error).splitlines()[-1]})") from error
