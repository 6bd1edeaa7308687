"""A disk that loses power: what is on it, what only in memory, and what may be found afterwards.

    with Disk(directory) as disk:               # all that is there is durable now
        work(directory, disk.acknowledge)
    for state in disk.states:                   # one before each step on disk, and one after the last
        lay(state.after_power_loss(lots), another_directory)

``Disk`` looks at the real directory between any two steps that ``connectors.fs`` announces, so that nothing escapes it,
and takes from the steps what was synced. The rules are those of POSIX, not of one file system:

- the contents of a file are durable as of its last ``fsync``, the entries of a directory as of its last ``fsync_dir``;
- of changes to entries that were not synced any subset survives; a rename is one change, it survives whole or not at all;
- a file that was not synced holds what it should, or what it last had for certain, cut off anywhere, or with blocks
  of zeros where nothing was written;
- a directory whose own entry did not survive is gone with all that is in it.

A symbolic link is its name and target at once: the target is never torn.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from connectors import fs

BLOCK = 512
"""Storage writes so many bytes at once: all of a block, or none of it."""

Entries = dict[str, int]
Change = tuple[tuple[str, int | None], ...]
"""Names that get, together, another node (None: are removed)."""


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    synced: bytes = b""


@dataclass(frozen=True, slots=True)
class Link:
    target: str


@dataclass(frozen=True, slots=True)
class Directory:
    """``changes``: what made ``entries`` of ``durable``, in order."""

    entries: Entries = field(default_factory=dict)
    durable: Entries = field(default_factory=dict)
    changes: tuple[Change, ...] = ()


Node = File | Link | Directory
Laid = bytes | tuple[str, str] | None
"""A file's content, ("symlink" or "hard link", target), or None for a directory."""
Plan = dict[str, Laid]
"""What to put under each path, in an order in which it can be put there."""
Choice = tuple[Callable[[Directory], Entries], Callable[[File], bytes]]
"""Which entries of a directory, and which content of a file, there will be."""


@dataclass(frozen=True, slots=True)
class State:
    """The disk just before ``step``. ``acknowledged``: the last value that the work had promised by then."""

    step: str
    acknowledged: int
    root: int
    nodes: dict[int, Node]

    def when_killed(self) -> Plan:
        """The process ended, the machine did not: all that was done is there."""
        return self._plan((lambda directory: directory.entries, lambda file: file.content))

    def only_durable(self) -> Plan:
        """Power was lost, and nothing had reached the disk before it had to."""
        return self._plan((lambda directory: directory.durable, lambda file: file.synced))

    def after_power_loss(self, lots: random.Random) -> Plan:
        """Power was lost, and whatever was not synced survived as the lots fall."""
        return self._plan((lambda directory: survivors(directory, lots), lambda file: torn(file, lots)))

    def _plan(self, choice: Choice) -> Plan:
        plan: Plan = {}
        self._put(plan, {}, "", self.root, choice)
        return plan

    def _put(self, plan: Plan, first: dict[int, str], path: str, number: int, choice: Choice) -> None:
        """Add a node and what is in it; ``first``: the path at which a file was put before."""
        node = self.nodes[number]
        if isinstance(node, Directory):
            plan[path] = None
            for name, inner in sorted(choice[0](node).items()):
                self._put(plan, first, f"{path}/{name}".lstrip("/"), inner, choice)
        elif isinstance(node, Link):
            plan[path] = ("symlink", node.target)
        elif number in first:
            plan[path] = ("hard link", first[number])
        else:
            plan[path] = choice[1](node)
            first[number] = path


def survivors(directory: Directory, lots: random.Random) -> Entries:
    """The entries after any subset of the changes that were not synced."""
    entries = dict(directory.durable)
    for change in directory.changes:
        if lots.random() < 0.5:
            for name, number in change:
                entries.pop(name, None)
                if number is not None:
                    entries[name] = number
    return entries


def torn(file: File, lots: random.Random) -> bytes:
    """What may be found in a file that was not synced."""
    if not file.content.startswith(file.synced):  # cut off or written anew
        return lots.choice([file.content, file.synced])
    new = file.content[len(file.synced) :]
    end = lots.randint(0, len(new))
    return file.synced + lots.choice([new, b"", new[:end], bytes(len(new)), bytes(end), _holes(file, lots)])


def _holes(file: File, lots: random.Random) -> bytes:
    """The new part of a file with some of its blocks never written."""
    start = len(file.synced)
    edges = [start, *range(start - start % BLOCK + BLOCK, len(file.content), BLOCK), len(file.content)]
    blocks = [file.content[first:end] for first, end in pairwise(edges)]
    return b"".join(lots.choice([block, bytes(len(block))]) for block in blocks)


def lay(plan: Plan, place: Path) -> Path:
    """Make a directory tree of a plan."""
    for name, laid in plan.items():
        path = place / name
        if laid is None:
            path.mkdir()
        elif isinstance(laid, bytes):
            path.write_bytes(laid)
        elif laid[0] == "symlink":
            path.symlink_to(laid[1])
        else:
            path.hardlink_to(place / laid[1])
    return place


class Disk:
    """Follows the steps on disk within a ``with`` block. One thread at a time takes steps below ``root``."""

    def __init__(self, root: Path, *, since: State | None = None) -> None:
        """``since``: ``root`` was laid by ``since.when_killed()``, and the machine has had power ever since."""
        self.states: list[State] = []
        self._root = root
        self._since = since
        self._acknowledged = since.acknowledged if since else 0
        self._nodes: dict[int, Node] = dict(since.nodes) if since else {}
        self._numbers: dict[int, int] = {}  # by inode
        self._new = itertools.count(max(self._nodes, default=-1) + 1)
        self._handles: list[int] = []  # an inode that is open is not used again for another file
        self._written: tuple[str, Path] | None = None

    def acknowledge(self, value: int) -> None:
        """The work has promised its caller that something is there: the ``value``-th commit, so many records."""
        self._acknowledged = value

    def __enter__(self) -> Self:
        if self._since:
            self._recognize(self._root, self._since.root)
        self._look(self._root)
        if not self._since:
            self._nodes = {number: settled(node) for number, node in self._nodes.items()}
        fs.on_step = self._before
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fs.on_step = None
        self._settle()
        self._record("end")
        for handle in self._handles:
            os.close(handle)

    def _before(self, name: str, path: Path) -> None:
        if name == "read":
            return  # changes nothing: as good a moment to lose power as the one before
        self._settle()
        self._record(f"{name} {path.name}")
        self._written = (name, path)

    def _record(self, step: str) -> None:
        self.states.append(State(step, self._acknowledged, self._number(self._root), dict(self._nodes)))

    def _settle(self) -> None:
        """The step that was announced last is done: see what it did."""
        self._look(self._root)
        name, path = self._written or ("", self._root)
        if name in ("fsync", "fsync_dir") and path.is_relative_to(self._root):
            number = self._number(path)
            self._nodes[number] = settled(self._nodes[number])

    def _number(self, path: Path) -> int:
        """Which node a path is."""
        inode = path.lstat().st_ino
        if inode not in self._numbers:
            self._enter(inode, path, next(self._new))
        return self._numbers[inode]

    def _enter(self, inode: int, path: Path, number: int) -> None:
        self._handles.append(os.open(path, os.O_PATH | os.O_NOFOLLOW))
        self._numbers[inode] = number

    def _recognize(self, path: Path, number: int) -> None:
        """Give the nodes that were laid the numbers that they had."""
        if path.lstat().st_ino not in self._numbers:
            self._enter(path.lstat().st_ino, path, number)
        node = self._nodes[number]
        for name, inner in node.entries.items() if isinstance(node, Directory) else ():
            self._recognize(path / name, inner)

    def _look(self, path: Path) -> int:
        """Bring what is known of a path up to date."""
        number = self._number(path)
        before = self._nodes.get(number)
        if path.is_symlink():
            self._nodes[number] = Link(str(path.readlink()))
        elif path.is_dir():
            known = before if isinstance(before, Directory) else Directory()
            entries = {name: self._look(path / name) for name in sorted(inner.name for inner in path.iterdir())}
            changes = (*known.changes, *changed(known.entries, entries))
            self._nodes[number] = replace(known, entries=entries, changes=changes)
        elif not isinstance(before, File) or self._may_differ(path, before):
            known_file = before if isinstance(before, File) else File(b"")
            self._nodes[number] = replace(known_file, content=path.read_bytes())
        return number

    def _may_differ(self, path: Path, known: File) -> bool:
        writing = self._written is not None and self._written[0] in ("write", "truncate") and self._written[1] == path
        return writing or path.stat().st_size != len(known.content)


def settled(node: Node) -> Node:
    """A node after it was synced."""
    if isinstance(node, File):
        return File(node.content, node.content)
    return Directory(node.entries, node.entries) if isinstance(node, Directory) else node


def changed(before: Entries, after: Entries) -> Iterator[Change]:
    """The changes that lead from one to the other; a name that went where another came is a rename."""
    gone = {number: name for name, number in before.items() if name not in after}
    for name, number in after.items():
        if before.get(name) != number:
            old = gone.pop(number, None)
            yield ((name, number),) if old is None else ((old, None), (name, number))
    for name in gone.values():
        yield ((name, None),)
