"""The one seam for every step on disk that must be durable.

Promises: a name written by ``write_file``, ``link`` or ``replace_symlink`` is either absent (or as it was before) or
whole, whatever moment the machine stops at, and is on the disk when the call returns (the source is synced before it
gets its name, the directory after). ``on_step`` is called before every primitive step, so that a test can stop there,
or follow what is on the disk already and what only in memory.

Removing is not synced: everywhere what comes back after a loss of power is garbage that is found and removed again.

Nothing here knows what a file holds. Errors are the ``OSError`` of the system; ``advice`` has words for them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

on_step: Callable[[str, Path], None] | None = None
"""Called as ``on_step("rename", path)`` before each of: create, write, fsync, rename, fsync_dir, link, unlink, symlink,
mkdir, rmdir, truncate, read. What it raises comes out of the function that was about to take the step."""

TEMPORARY = ".tmp"
"""Suffix of a name that is not finished; such names begin with a dot, too. Safe to delete when no writer is at work."""


_ADVICE = {
    errno.ENOSPC: "make room on that disk, then start it again: it goes on from the last commit",
    errno.EDQUOT: "make room within the quota, then start it again: it goes on from the last commit",
    errno.EFBIG: "allow bigger files there (ulimit -f), then start it again: it goes on from the last commit",
    errno.EROFS: "make that file system writable, or name another place",
    errno.EACCES: "give this user the right to read and write there, or name another place",
    errno.EPERM: "give this user the right to read and write there, or name another place",
    errno.EIO: "check the disk (the system's log says more); when it works again, start it again",
}


def advice(error: OSError) -> str:
    """What a user can do about an error of the system."""
    return _ADVICE.get(error.errno or 0, "remove the cause, then start it again: it goes on from the last commit")


def _step(name: str, path: Path) -> None:
    if on_step is not None:
        on_step(name, path)


def read_file(path: Path) -> bytes:
    """All bytes of a file."""
    _step("read", path)
    return path.read_bytes()


def read_at(fd: int, size: int, offset: int, *, path: Path) -> bytes:
    """Up to ``size`` bytes of an open file. ``path`` only names it to ``on_step``."""
    _step("read", path)
    return os.pread(fd, size, offset)


def write_file(path: Path, data: bytes | memoryview, *, sync_dir: bool = True) -> None:
    """Put ``data`` under ``path``, replacing what was there, durably and all at once.

    ``sync_dir=False`` leaves the last step, ``fsync_dir(path.parent)``, to a caller that writes many files.
    """
    temporary = write_temporary(path, data)
    rename(temporary, path, sync_dir=sync_dir)


def write_derived(path: Path, data: bytes | memoryview) -> None:
    """The same for what can be made again: all at once, but not durable. After a loss of power it may be there in part."""
    fd, temporary = _create_temporary(path)
    try:
        _step("write", temporary)
        rest = memoryview(data).cast("B")
        while len(rest):
            rest = rest[os.write(fd, rest) :]
        rename(temporary, path, sync_dir=False)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(fd)


def write_temporary(path: Path, data: bytes | memoryview) -> Path:
    """Write and sync ``data`` under an unused temporary name beside ``path``; return that name."""
    fd, temporary = _create_temporary(path)
    try:
        append_fsync(fd, data, path=temporary)
    except OSError:  # a full disk should not stay full of our attempts
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(fd)
    return temporary


def _create_temporary(path: Path) -> tuple[int, Path]:
    """Exclusive creation makes two writers of one name safe without clocks or chance: they get different numbers."""
    number = 0
    while True:
        temporary = path.with_name(f".{path.name}.{number}{TEMPORARY}")
        _step("create", temporary)
        try:
            return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), temporary
        except FileExistsError:
            number += 1


def append_fsync(fd: int, data: bytes | memoryview, *, path: Path | None = None) -> None:
    """Write all of ``data`` to ``fd`` and sync it. ``path`` only names the file to ``on_step``."""
    named = path or Path(f"fd:{fd}")
    rest = memoryview(data).cast("B")
    _step("write", named)
    while len(rest):
        rest = rest[os.write(fd, rest) :]
    fsync(fd, path=named)


def fsync(fd: int, *, path: Path) -> None:
    """Make what was written to an open file durable. ``path`` only names it to ``on_step``."""
    _step("fsync", path)
    os.fsync(fd)


def truncate(path: Path, size: int) -> None:
    """Cut a file to ``size`` bytes, durably."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _step("truncate", path)
        os.ftruncate(fd, size)
        fsync(fd, path=path)
    finally:
        os.close(fd)


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    _step("fsync_dir", path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(source: Path, target: Path, *, sync_dir: bool = True) -> None:
    """Give a file or directory another name in the same directory; a file there before is replaced."""
    _step("rename", target)
    source.rename(target)
    if sync_dir:
        fsync_dir(target.parent)


def link(source: Path, target: Path, *, sync_dir: bool = True) -> None:
    """A second name for a file. Raises ``FileExistsError`` when ``target`` is there: the atomic "write if absent"."""
    _step("link", target)
    os.link(source, target)
    if sync_dir:
        fsync_dir(target.parent)


def unlink(path: Path) -> None:
    """Remove a name, if it is there. Not synced: call ``fsync_dir`` where its return after a crash would hurt."""
    _step("unlink", path)
    path.unlink(missing_ok=True)


def make_dir(path: Path) -> None:
    """Make a directory and those above it, durably; one that exists is fine.

    Whoever made it may have been killed before its name was on the disk, so that is made sure of. (Not of the names
    above it: they were synced before it was made.)
    """
    if path.is_dir():
        with contextlib.suppress(PermissionError):  # then it was not one of us who made it
            fsync_dir(path.parent)
        return
    make_dir(path.parent)
    _step("mkdir", path)
    path.mkdir(exist_ok=True)
    fsync_dir(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a file, a link (never what it leads to) or a directory with all in it, if it is there.

    Hide a directory under a temporary name first where readers may look.
    """
    if path.is_symlink() or not path.is_dir():
        unlink(path)
        return
    for entry in sorted(path.iterdir()):
        remove_tree(entry)
    _step("rmdir", path)
    path.rmdir()


def symlink(target: str, path: Path) -> None:
    """A symbolic link, durable. Raises ``FileExistsError`` when ``path`` is there."""
    _step("symlink", path)
    path.symlink_to(target)
    fsync_dir(path.parent)


def replace_symlink(target: str, path: Path) -> None:
    """Point ``path`` at ``target`` in one atomic step.

    Callers hold a lock: two at once would meet in one temporary name.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    unlink(temporary)
    _step("symlink", temporary)
    temporary.symlink_to(target)
    rename(temporary, path)


def lock(path: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """Lock a file (made when absent); the descriptor holds it until ``os.close``. None: taken, and not ``wait``.

    Advisory (``flock``): it ends with the process, whatever way that ends. A lock on a file that was removed meanwhile
    is worth nothing, so that is checked after taking it.
    """
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, mode)
        except BlockingIOError:
            os.close(fd)
            return None
        if _same_file(fd, path):
            return fd
        os.close(fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of ``path`` within a ``with`` block; waits for it."""
    fd = lock(path, shared=shared)
    assert fd is not None
    try:
        yield
    finally:
        os.close(fd)
