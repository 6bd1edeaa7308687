"""A view and its log on failing disks: full, read-only, with errors, with damaged or missing files.

Whatever is asked then gives the right answer, or an error that names the file and says what to do; nothing is lost, and
when the cause is gone, or the view was rebuilt, it is the view that an undisturbed run gives.

Damaged places and failing steps are drawn from a seed that is printed; REFOLD_TEST_SEED=... draws the same ones again.
"""

from __future__ import annotations

import atexit
import errno
import functools
import itertools
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pipelines
import pytest
from interrupting import lots_of_a_seed
from pipelines import Said, append, appends, events, here

from connectors import fs, local_writer, open_log, open_view
from connectors.manifest import Manifest
from flows import run
from flows.flights import departures_by_hour
from schemas.errors import LogError

VIEW = departures_by_hour.name
HALF = {"flights": [2000, 2100, 2200, 2300]}
SQL = f"SELECT * FROM {VIEW} ORDER BY window_start, origin, carrier"


@functools.cache
def original() -> Path:
    """A log with late events and dead letters in it, and a store with two commits: to be copied, not touched."""
    place = Path(tempfile.mkdtemp(prefix="refold-test-damage-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    # Small tails: there are segments, and a tail with the newest records.
    with pytest.MonkeyPatch.context() as small:
        small.setattr(local_writer, "TAIL_RECORDS", 1500)
        for first in range(0, 16_000, 2000):
            append(str(place / "log"), events().slice(first, 2000))
        append(str(place / "log"), events().slice(0, 50))  # long too late
        append(str(place / "log"), appends([b"no JSON", b'{"type": 3}'] * 3))
    for until in (HALF, "end"):
        run([departures_by_hour], log=str(place / "log"), store=place / "store", until=until, workers=1)
    assert all(table.rows for table in newest(place).tables.values()), "every table has something to damage"
    return place


def newest(place: Path) -> Manifest:
    return open_view(place / "store", VIEW).manifest


@functools.cache
def right(question: str) -> str:
    """What a question is answered when nothing is wrong."""
    return ask(original(), question).out


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Log and store of one's own."""
    for name in ("log", "store"):
        shutil.copytree(original() / name, tmp_path / name, symlinks=True, copy_function=copied_or_linked())
    return tmp_path


def copied_or_linked() -> Callable[[str, str], object]:
    """Copies files for ``copytree``, and keeps hard links what they are."""
    done: dict[int, str] = {}

    def copy(source: str, target: str) -> object:
        inode = Path(source).stat().st_ino
        if inode in done:
            return Path(target).hardlink_to(done[inode])
        done[inode] = target
        return shutil.copy2(source, target)

    return copy


# -- what is asked

LOG, STORE = "--log {log}", "--store {store}"
QUESTIONS = {
    "query": f"{STORE} --format csv",
    "status": f"{LOG} {STORE} --json",
    "views": f"{STORE} --json",
    "path": f"{STORE} --json {VIEW}",
    "verify --files": f"{STORE} {VIEW}",
    "verify": f"{LOG} {STORE} --quiet --workers 1 {VIEW}",
    "run": f"{LOG} {STORE} --quiet --workers 1 --until end {VIEW}",
    "rebuild": f"{LOG} {STORE} --quiet --workers 1 --json {VIEW}",
}
READING = ("query", "status", "views", "path", "verify --files", "verify")


def ask(place: Path, question: str) -> Said:
    options = QUESTIONS[question].format(log=place / "log", store=place / "store")
    return here(*question.split(), *options.split(), *([SQL] if question == "query" else []))


def is_right(place: Path, question: str, said: Said) -> bool:
    """Whether it is the answer that an undamaged view would give."""
    if said.code != 0:
        return False
    if question in ("status", "views"):
        return facts_of(said) == {VIEW: newest(original()).digest}
    if question == "path":
        return bool(json.loads(said.out)["digest"] == newest(original()).digest)
    return said.out == right(question) if question == "query" else True


def facts_of(said: Said) -> dict[str, str]:
    return {found["view"]: found["digest"] for found in json.loads(said.out)}


def is_clear(said: Said, *names: str) -> bool:
    """An error, or "no" as an answer: with the place and what to do, and nothing of how refold is made."""
    words = said.out + said.err
    return (
        said.code in (1, 3) and "Traceback" not in words and "  do " in words and any(name in words for name in names)
    )


def assert_whole(place: Path) -> None:
    """It is the view that an undisturbed run gives."""
    assert newest(place).tables == newest(original()).tables
    assert newest(place).facts == newest(original()).facts
    for question in ("query", "status", "verify --files"):
        said = ask(place, question)
        assert is_right(place, question, said), (question, said)


# -- damaged files of a store


def table_file(table: str) -> Callable[[Path], Path]:
    return lambda home: home / "v1/data" / newest(original()).tables[table].chunks[0].file


def shown_file(home: Path) -> Path:
    return min((home / "v1/g1/snapshots/0000000002").iterdir())


STORED = {
    "a file of the rows": table_file("rows"),
    "a file of the partials": table_file("partials"),
    "a file of the late events": table_file("late"),
    "a file of the dead letters": table_file("dead_letters"),
    "a file of the snapshot": shown_file,
    "the newest manifest": lambda home: home / "v1/g1/manifests/0000000002.json",
    "the manifest before": lambda home: home / "v1/g1/manifests/0000000001.json",
    "latest": lambda home: home / "v1/latest",
    "current": lambda home: home / "current",
    "the lock of the generation": lambda home: home / "v1/g1/.lock",
    "the lock of the version": lambda home: home / "v1/.lock",
    "the lock of the files": lambda home: home / "v1/.files",
}
HARMLESS = {"the manifest before", *(name for name in STORED if "lock" in name)}
"""Nobody needs them: a superseded manifest, and what is only locked."""


def truncate(path: Path, lots: random.Random) -> None:
    replace(path, content(path)[: len(content(path)) // 2])


def flip(path: Path, lots: random.Random) -> None:
    data = bytearray(content(path) or b"\x00")
    data[lots.randrange(len(data))] ^= 1 << lots.randrange(7 if path.is_symlink() else 8)
    replace(path, bytes(data).replace(b"\x00", b"-") if path.is_symlink() else bytes(data))


def empty(path: Path, lots: random.Random) -> None:
    if path.is_symlink():  # as tools do that cannot copy links
        path.unlink()
    path.write_bytes(b"")


def remove(path: Path, lots: random.Random) -> None:
    path.unlink()


def content(path: Path) -> bytes:
    return os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()


def replace(path: Path, data: bytes) -> None:
    """Change what a link leads to, or a file in its place, under all its names."""
    if path.is_symlink():
        path.unlink()
        path.symlink_to(os.fsdecode(data))
    else:
        path.write_bytes(data)


Damage = Callable[[Path, random.Random], None]
LEADING = ("a file of the rows", "a file of the snapshot", "the newest manifest", "latest", "current")
OFTEN = {(kind, flip) for kind in STORED} | {(kind, remove) for kind in LEADING}


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        pytest.param(kind, damage, marks=() if (kind, damage) in OFTEN else pytest.mark.slow)
        for kind in STORED
        for damage in (flip, remove, truncate, empty)
    ],
)
def test_a_damaged_file_of_a_store(kind: str, damage: Damage, place: Path) -> None:
    home = place / "store" / VIEW
    path = STORED[kind](home)
    damage(path, lots_of_a_seed())
    names = (path.name, path.name.partition("-")[2] or path.name)  # in a snapshot: a number, then the name in data/
    names = (*names, "current") if kind == "latest" else names  # the one leads through the other
    answers = {question: ask(place, question) for question in (*READING, "run")}
    for question, said in answers.items():
        assert is_right(place, question, said) or is_clear(said, *names), (question, said)
    assert kind in HARMLESS or answers["verify --files"].code != 0, "it was noticed"
    assert ask(place, "rebuild").code == 0
    assert_whole(place)


# -- damaged files of a log

LOGGED = {
    "the oldest segment": lambda partition: min(partition.glob("*.parquet")),
    "the newest segment": lambda partition: max(partition.glob("*.parquet")),
    "the tail": lambda partition: min(partition.glob("*.tail")),
    "the category's file": lambda partition: partition.parent / "category.json",
}


@pytest.mark.parametrize("kind", LOGGED)
@pytest.mark.parametrize(
    "damage",
    [truncate, flip, pytest.param(empty, marks=pytest.mark.slow), pytest.param(remove, marks=pytest.mark.slow)],
)
def test_a_damaged_file_of_a_log(kind: str, damage: Damage, place: Path) -> None:
    path = LOGGED[kind](place / "log/flights/1")
    good = path.read_bytes()
    damage(path, lots_of_a_seed())
    before = pipelines.contents(place / "store")
    for question in ("status", "run", "verify"):
        said = ask(place, question)
        # a tail that is cut off is a shorter log: that names the partition and the offset instead
        assert is_right(place, question, said) or is_clear(said, path.name, "flights/1"), (question, said)
    assert ask(place, "verify").code != 0, "it was noticed"
    for question in ("query", "views", "path"):
        assert is_right(place, question, ask(place, question)), "readers need no log"
    assert {name: data for name, data in pipelines.contents(place / "store").items() if name in before} == before
    path.write_bytes(good)
    assert ask(place, "run").code == 0
    assert_whole(place)


# -- a disk that fails


@contextmanager
def failing(step: int, number: int, once: bool) -> Iterator[list[str]]:
    """The ``step``-th step on disk, and all that follow unless ``once``, fail with error ``number``. Gives the failed."""
    taken = iter(range(10**9))
    failed: list[str] = []

    def on_step(name: str, path: Path) -> None:
        at = next(taken)
        if at == step or (at > step and not once):
            failed.append(f"{name} {path}")
            raise OSError(number, os.strerror(number), str(path))

    fs.on_step = on_step
    try:
        yield failed
    finally:
        fs.on_step = None


@dataclass(frozen=True)
class Failure:
    number: int
    once: bool
    words: str


FAILURES = [
    pytest.param(Failure(errno.ENOSPC, False, "make room"), id="full"),
    pytest.param(Failure(errno.EIO, True, "check the disk"), id="one error"),
    pytest.param(Failure(errno.EROFS, False, "writable"), id="read-only"),
]


@pytest.mark.parametrize("every", [pytest.param(29, id="few"), pytest.param(1, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("question", ["run", "rebuild"])
@pytest.mark.parametrize("failure", FAILURES)
def test_any_step_of_a_run_fails(failure: Failure, question: str, every: int, tmp_path: Path) -> None:
    shutil.copytree(original() / "log", tmp_path / "log")
    run([departures_by_hour], log=str(tmp_path / "log"), store=tmp_path / "half", until=HALF, workers=1)
    half = open_view(tmp_path / "half", VIEW).digest
    first = lots_of_a_seed().randrange(every)
    for step in itertools.count(first, every):
        shutil.copytree(tmp_path / "half", tmp_path / "store", symlinks=True)
        with failing(step, failure.number, failure.once) as failed:
            said = ask(tmp_path, question)
        assert said.code == 0 or is_clear(said, str(tmp_path)), (failed, said)
        assert said.code == 0 or failure.words in said.err or "reopen" in said.err, (failed, said)
        assert facts_of(ask(tmp_path, "views"))[VIEW] in (half, newest(original()).digest)
        assert ask(tmp_path, "run").code == 0
        assert_whole(tmp_path)
        shutil.rmtree(tmp_path / "store")
        if not failed:
            break  # there are no more steps
    print(f"{question}, {os.strerror(failure.number)}: {(step - first) // every} failing steps")
    assert step > 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, in memory; the test is skipped where that is not allowed."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = [shutil.which("mount") or "false", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system of its own can be mounted: {made.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes free; remove the file that this returns to have them all back."""
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(bytes(free - left))
    return filler


def test_a_full_disk_stops_a_run_and_with_more_room_it_goes_on(disk: Path) -> None:
    (disk / "log").symlink_to(original() / "log")
    stopped = 0
    for left in range(0, 160_000, 32_768):
        run([departures_by_hour], log=str(disk / "log"), store=disk / "store", until=HALF, workers=1)
        half = newest(disk).digest
        filler = fill(disk, left)
        said = ask(disk, "run")
        stopped += said.code != 0
        assert said.code == 0 or (is_clear(said, str(disk)) and "No space left" in said.err), said
        assert facts_of(ask(disk, "views"))[VIEW] in (half, newest(original()).digest)
        filler.unlink()
        assert ask(disk, "run").code == 0
        assert_whole(disk)
        shutil.rmtree(disk / "store")
    print(f"{stopped} runs on a full disk")
    assert stopped > 1


def test_a_full_disk_stops_an_append_and_with_more_room_it_goes_on(disk: Path) -> None:
    log = str(disk / "log")
    append(log, events().slice(0, 100))
    filler = fill(disk, 8192)
    with pytest.raises(LogError, match="No space left") as raised:
        append(log, events().slice(100, 4000))
    assert "make room" in str(raised.value)
    filler.unlink()
    with open_log(log) as opened:
        assert 100 <= sum(opened.describe("flights").ends) <= 4100
    append(log, events().slice(0, 1000))


def test_a_store_and_a_log_that_are_read_only_can_be_read(disk: Path, place: Path) -> None:
    for name in ("log", "store"):
        shutil.copytree(place / name, disk / name, symlinks=True)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        for question in ("query", "status", "views", "path", "verify --files"):
            assert is_right(disk, question, ask(disk, question)), question
        for question in ("run", "rebuild", "verify"):
            said = ask(disk, question)
            assert is_clear(said, str(disk)) and "Read-only file system" in said.err, (question, said)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert ask(disk, "run").code == 0
    assert_whole(disk)
