"""The writer of a view's tables: atomic commits, one writer a generation, and the step from a rebuild to the live view.

    with open_writer(store, "departures", 1, [TableSpec("rows", schema, ("window_start", "key"))]) as writer:
        writer.manifest                     # where to go on from; None before the first commit
        writer.commit({"rows": Changes(upserts)}, {"cut": {"flights": [10, 12]}})

Promises: after a commit returned, or was seen by anyone, it is there after a crash at any moment; a commit that raised
changed nothing, except ``CommitUnknown``, which says that reopening will tell. What is committed depends on the rows
alone: equal rows have equal digests and equal files. A file is checked whenever it is read, or reused under its name.

What the rows mean, and what is in ``facts`` beyond the cut, is not known here.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from connectors import chunks, fs
from connectors.ahead import made_ahead
from connectors.changes import Changes, Delta, Parts, Piece, apply, nothing, prepare
from connectors.copies import mend_copy
from connectors.generation import Generation, Version, failed, put_aside, reached, show, stage
from connectors.manifest import (
    BUILDING,
    LIVE,
    ROWS,
    Chunk,
    Cut,
    Manifest,
    Table,
    TableSpec,
    plain_facts,
    render_schema,
    to_bytes,
)
from connectors.reading import read_chunk
from schemas.canonical import check_type
from schemas.errors import (
    CommitUnknown,
    DefinitionChanged,
    StoreError,
    StoreLocked,
    Superseded,
    UsageError,
)

BUILDERS = 2
"""Threads that make and sort changes, and that encode and compress chunks, beside one for each table that merges them."""

AHEAD = 4
"""Chunks of a table being built at once: bounds memory."""

LOOKS_OUTWAITED, LOOK_S = 5, 0.01
"""How often, and with how many seconds between, a lock is tried before it counts as taken."""

PARTS_AHEAD = 2
"""Parts of the changes of a table being made at once, likewise."""

SMALL_PARTS = 4
"""Changes of so many parts are small: their tables are made beside each other, as one alone does not keep all builders busy. With more,
one does, and several at once would only take more memory."""

Built = tuple[Chunk, bytes | None]
"""A chunk and the bytes of its file; None where that is there already."""


def open_writer(
    store: Path, view: str, version: int, tables: Sequence[TableSpec], *, building: bool = False, resume: bool = False
) -> Writer:
    """Lock a generation of a view and read where it stands.

    The live generation, made when there is none; ``building``: a new one beside it, for a rebuild, or with ``resume``
    the newest unfinished one that nobody holds, if there is one. Finishes what a crash interrupted.

    Raises ``StoreLocked`` (another writer has it), ``StoreDamaged``, ``DefinitionChanged`` (other tables are there),
    ``StoreError`` (the disk failed).
    """
    _check_specs(tables)
    home = Version.of(store, view, version)
    try:
        _check_not_retired(home)
        fs.make_dir(home.data)
        mend_copy(home)
        with fs.locked(home.lock):
            _check_not_retired(home)  # it may have been since
            generation, lock = _acquire(home, building, resume)
            try:
                return Writer(view, generation, tables, lock)
            except BaseException:
                os.close(lock)
                raise
    except OSError as error:
        raise failed("a view cannot be opened to write it", home, error) from error


def _check_not_retired(home: Version) -> None:
    if home.retired.exists():
        view = home.path.parent.name
        msg = f"version {home.number} of view {view!r} was retired"
        do = f"give the projection another version; or remove what is left of this one:  refold retire {view}@{home.number} --grace 0"
        raise UsageError(msg, where=str(home.path), do=do)


def _check_specs(tables: Sequence[TableSpec]) -> None:
    assert len({spec.name for spec in tables}) == len(tables), "no two tables of one name"
    if ROWS not in {spec.name for spec in tables}:
        msg = f"a view has a table {ROWS!r}: the one that readers see"
        raise UsageError(msg)
    for field in (field for spec in tables for field in spec.schema):
        check_type(field.type)


def _acquire(home: Version, building: bool, resume: bool) -> tuple[Generation, int]:
    if building:
        unfinished = [g for g in home.generations() if not g.is_live() and _began_as(g) == BUILDING] if resume else []
        found = next(((g, lock) for g in unfinished if (lock := fs.lock(g.lock, wait=False)) is not None), None)
        if found and not found[0].is_superseded():
            return found
        if found:
            os.close(found[1])
        return _locked(home.create(BUILDING))
    # A generation without a manifest that began as live belongs to a writer before its first commit.
    fresh = next((g for g in home.generations() if _began_as(g) == LIVE and not g.sequence()), None)
    return _locked(home.live() or fresh or home.create(LIVE))


def _began_as(generation: Generation) -> str:
    return generation.began_as() if generation.lock.exists() else ""


def _locked(generation: Generation) -> tuple[Generation, int]:
    lock = next((lock for lock in _attempts(generation) if lock is not None), None)
    if lock is None:
        msg = "another process writes this view"
        raise StoreLocked(msg, where=str(generation.path), do="stop the other run, or let it do the work")
    return generation, lock


def _attempts(generation: Generation) -> Iterator[int | None]:
    """Whoever only looks whether somebody writes (``connectors.activity``) has the lock for an instant: that is waited out."""
    for _ in range(LOOKS_OUTWAITED):
        yield fs.lock(generation.lock, wait=False)
        threading.Event().wait(LOOK_S)
    yield fs.lock(generation.lock, wait=False)


class Writer:
    """Commits to one generation; made by ``open_writer``. One thread uses it at a time; close it, or use ``with``."""

    def __init__(self, view: str, generation: Generation, tables: Sequence[TableSpec], lock: int) -> None:
        # The version's lock is held by open_writer meanwhile.
        self.view = view
        self.generation = generation
        self._specs = {spec.name: spec for spec in tables}
        self._lock: int | None = lock
        self._unusable: str | None = None
        generation.settle()
        self.manifest: Manifest | None = generation.newest()
        self._check_definition()
        self._tidy()
        if self.manifest is not None and self.manifest.role == LIVE:
            show(generation, self.manifest)
        self.role = self.manifest.role if self.manifest else generation.began_as()

    def read(self, table: str) -> pa.Table:
        """All rows of a table as of the last commit, in order of primary key; none before the first.

        Raises ``StoreDamaged`` naming a file that is not what was written.
        """
        spec = self._specs[table]
        empty = spec.schema.remove_metadata().empty_table()
        return pa.concat_tables([empty, *(self._load(spec, chunk) for chunk in self._chunks(spec))])

    def commit(self, changes: Mapping[str, Changes | Parts], facts: Mapping[str, Any]) -> Manifest:
        """Apply changes to tables (one not named stays as it is) and commit the result as the next snapshot.

        ``facts``: JSON values kept in the manifest; ``facts["cut"]`` is the cut, ``{category: [next offset, ...]}``.

        Raises, with nothing changed: ``UsageError`` (rows or facts are not what they should be), ``StoreDamaged`` (a
        missing file, or a chunk that a change falls into), ``Superseded`` (a rebuild took over: reopen),
        ``StoreLocked`` (somebody ignored the lock), ``StoreError`` (the disk failed). ``CommitUnknown``: it failed when
        it may have been done.
        """
        self._check_usable()
        assert "cut" in facts and set(changes) <= set(self._specs), "changes name tables of this writer, facts a cut"
        with ThreadPoolExecutor(BUILDERS) as pool, ThreadPoolExecutor(len(self._specs)) as beside:
            return self._commit(changes, facts, pool, beside if _is_small(changes) else None)

    def _commit(
        self, changes: Mapping[str, Changes | Parts], facts: Mapping[str, Any], pool: Executor, beside: Executor | None
    ) -> Manifest:
        deltas = {name: _prepared(self._specs[name], change, pool) for name, change in changes.items()}
        try:
            with fs.locked(self.generation.version.files_lock, shared=True):
                tables = self._changed(deltas, pool, beside)
                fs.fsync_dir(self.generation.version.data)
                return self._publish(self._next(self.role, facts, tables))
        except OSError as error:
            raise failed("a commit failed; nothing was changed", self.generation.version, error) from error

    def take_over(self, *, from_another_log: bool = False) -> Cut | None:
        """Make a building generation the live one, in one atomic step: never to an older cut.

        ``from_another_log``: the live generation was folded from a log that is no more (a topic made again, other
        partitions), so that its cut says nothing of this one.

        None: done. Otherwise the live generation's cut, which this one has not reached: fold on to it and call again.
        (Should the live generation's newest manifest be damaged, the newest one that can be read stands for it.)
        Raises as ``commit`` does.
        """
        self._check_usable()
        assert self.manifest is not None and self.role == BUILDING, "a rebuild that has committed takes over, once"
        version = self.generation.version
        with fs.locked(version.lock):
            live = version.live()
            newest = live.newest_readable() if live else None
            if newest is not None and not from_another_log and not reached(self.manifest.cut, newest.cut):
                return newest.cut
            try:
                self._publish_locked(self._next(LIVE, self.manifest.facts, self.manifest.tables))
            except OSError as error:
                raise failed("taking over failed; nothing was changed", version, error) from error
        self.role = LIVE
        return None

    def close(self) -> None:
        """Give up the lock. What was not committed is gone."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- opening

    def _check_definition(self) -> None:
        for name, table in (self.manifest.tables if self.manifest else {}).items():
            if name not in self._specs or not table.is_of(self._specs[name]):
                msg = f"view {self.view!r}: its table {name!r} has another shape than the one to be written"
                where = str(self.generation.path)
                raise DefinitionChanged(msg, where=where, do="give the projection a new version, or rebuild the view")

    def _tidy(self) -> None:
        """Put away what a crash or damage left beside the newest manifest: nothing of it was ever visible."""
        newest = self.manifest.seq if self.manifest else 0
        for seq in self.generation.sequence():
            if seq > newest:
                put_aside(self.generation.manifest_path(seq))
        for unfinished in self.generation.manifests.glob(f".*{fs.TEMPORARY}"):
            fs.unlink(unfinished)

    # -- one commit, from rows to files

    def _chunks(self, spec: TableSpec) -> tuple[Chunk, ...]:
        table = self.manifest.tables.get(spec.name) if self.manifest else None
        return table.chunks if table else ()

    def _changed(
        self, deltas: Mapping[str, Iterable[Delta]], pool: Executor, beside: Executor | None
    ) -> dict[str, Table]:
        """The tables after their changes, with every new file on the disk (the directory is not synced yet)."""
        made: dict[str, list[Chunk]] = {name: [] for name in self._specs}
        going = {name: self._change(spec, deltas.get(name, ()), pool) for name, spec in self._specs.items()}
        if beside is not None:
            going = {name: made_ahead(built, beside) for name, built in going.items()}
        while going:  # in turns, so that no table waits for what another one holds
            for name in list(going):
                built = next(going[name], None)
                if built is None:
                    del going[name]
                else:
                    made[name].append(self._written(built))
        return {
            name: Table(render_schema(spec.schema), spec.primary_key, spec.chunk_rows, tuple(made[name]))
            for name, spec in self._specs.items()
        }

    def _change(self, spec: TableSpec, deltas: Iterable[Delta], pool: Executor) -> Iterator[Built]:
        """The chunks of a table after its changes; one without rows where there are none."""
        rest = (delta for delta in deltas if len(delta.keys))
        first, made = next(rest, None), self._chunks(spec)
        parts: Iterator[Chunk | Piece] = iter(made)
        if first is not None:
            parts = apply(spec, made, chain([first], rest), lambda chunk: self._load(spec, chunk))
        is_empty = True
        for built in _build(parts, pool):
            is_empty = False
            yield built
        if is_empty:
            yield from _build(iter([nothing(spec)]), pool)

    def _written(self, built: Built) -> Chunk:
        """All files are written here, by the thread that commits: so a commit is the same steps in the same order each time."""
        chunk, data = built
        if data is None:
            return chunk
        path = self.generation.version.data / chunk.file
        if path.exists():
            if fs.read_file(path) == data:
                return chunk
            put_aside(path)
        fs.write_file(path, data, sync_dir=False)
        return chunk

    def _load(self, spec: TableSpec, chunk: Chunk) -> pa.Table:
        return read_chunk(self.generation.version.data, chunk, spec.schema.remove_metadata())

    # -- one commit, from files to manifest

    def _next(self, role: str, facts: Mapping[str, Any], tables: dict[str, Table]) -> Manifest:
        before = self.manifest.seq if self.manifest else None
        number = self.generation.version.number
        return Manifest(self.view, number, (before or 0) + 1, before, role, plain_facts(facts), tables)

    def _publish(self, manifest: Manifest) -> Manifest:
        with fs.locked(self.generation.version.lock):
            return self._publish_locked(manifest)

    def _publish_locked(self, manifest: Manifest) -> Manifest:
        """The commit point and what readers see of it, under the version's lock."""
        if self.generation.is_superseded():
            self._unusable = "a rebuild took over"
            msg = "a rebuild took over this view; what was not committed is dropped"
            raise Superseded(msg, where=str(self.generation.path), do="reopen the view and go on from its cut")
        path = self.generation.manifest_path(manifest.seq)
        staged = stage(self.generation, manifest) if manifest.role == LIVE else None
        temporary = fs.write_temporary(path, to_bytes(manifest))
        self._unusable = "the outcome of its last commit is unknown"
        try:
            self._link(temporary, path)
            if staged is not None:
                show(self.generation, manifest, staged)
        except OSError as error:
            msg = "a commit may or may not have happened"
            raise CommitUnknown(msg, where=str(path), why=str(error), do="reopen the view to see") from error
        self.manifest, self._unusable = manifest, None
        return manifest

    def _link(self, temporary: Path, path: Path) -> None:
        try:
            fs.link(temporary, path)
        except FileExistsError as error:
            msg = "another process writes this view, in spite of its lock"
            do = "keep the store on a file system with working locks, and start one run only"
            raise StoreLocked(msg, where=str(path), do=do) from error
        fs.unlink(temporary)

    def _check_usable(self) -> None:
        if self._lock is None or self._unusable:
            msg = f"this writer is of no more use: {self._unusable or 'it was closed'}"
            raise StoreError(msg, where=str(self.generation.path), do="open another one")


def _build(parts: Iterator[Chunk | Piece], pool: Executor) -> Iterator[Built]:
    """Chunks in order: kept ones as they are, those of pieces built in threads."""
    pending: deque[Chunk | Future[tuple[Chunk, bytes]]] = deque()
    for part in parts:
        pending.append(part if isinstance(part, Chunk) else pool.submit(chunks.build, part.rows, part.keys))
        while len(pending) > AHEAD:
            yield _built(pending.popleft())
    while pending:
        yield _built(pending.popleft())


def _built(part: Chunk | Future[tuple[Chunk, bytes]]) -> Built:
    return (part, None) if isinstance(part, Chunk) else part.result()


def _is_small(changes: Mapping[str, Changes | Parts]) -> bool:
    return all(isinstance(change, Changes) or len(change.makers) <= SMALL_PARTS for change in changes.values())


def _prepared(spec: TableSpec, changes: Changes | Parts, pool: Executor) -> Iterable[Delta]:
    """Deltas that follow each other; those of parts are made while they are taken, a few ahead."""
    return prepare(spec, changes) if isinstance(changes, Changes) else _prepared_parts(spec, changes, pool)


def _prepared_parts(spec: TableSpec, parts: Parts, pool: Executor) -> Iterator[Delta]:
    pending: deque[Future[list[Delta]]] = deque()
    for make in parts.makers:
        pending.append(pool.submit(lambda make: prepare(spec, make()), make))
        if len(pending) > PARTS_AHEAD:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()
