"""What is broken on purpose: one line each, and the tests that must notice (see tests/sabotage.py).

A text to replace stands exactly once in its file. A change after which nothing can differ is no sabotage: judging
lateness by the watermark *after* the record, for example, is the same rule, since no event is late by its own time.
"""

from __future__ import annotations

from dataclasses import dataclass

GOLDEN = "tests/test_golden.py"
AGGREGATIONS = "tests/test_aggregations.py"


@dataclass(frozen=True)
class Sabotage:
    """``tests``: arguments for pytest."""

    name: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def folds(*words: str) -> tuple[str, ...]:
    """The golden folds whose file or name holds one of these words."""
    return (GOLDEN, "-k", f"test_every_fold and ({' or '.join(words)})")


RECORDS = (f"{GOLDEN}::test_every_record_alone", f"{GOLDEN}::test_every_record_among_the_others")
SABOTAGES = [
    # -- watermarks and lateness
    Sabotage(
        "wall-clock",
        "the watermark follows the wall clock",
        "flows/pipeline.py",
        "marks, after = watermarks_before(decoded.event_time, timed, watermark)",
        'after = __import__("time").time_ns() // 1000; marks = np.full(len(timed), after)',
        folds("late"),
    ),
    Sabotage(
        "own-types",
        "only types that somebody asked for move the watermark",
        "flows/pipeline.py",
        "timed = (decoded.fate == LIVE) | (decoded.fate == MARKER)",
        "timed = ((decoded.fate == LIVE) & (decoded.type_code >= 0)) | (decoded.fate == MARKER)",
        folds("late"),
    ),
    Sabotage(
        "markers-ignored",
        "progress markers do not move the watermark",
        "flows/pipeline.py",
        "timed = (decoded.fate == LIVE) | (decoded.fate == MARKER)",
        "timed = (decoded.fate == LIVE) & (decoded.fate != MARKER)",
        folds("late"),
    ),
    Sabotage(
        "late-by-one",
        "a record is late only beyond the edge, not at it",
        "flows/verdicts.py",
        "marks[i] >= ends[i] + grace",
        "marks[i] > ends[i] + grace",
        folds("late"),
    ),
    Sabotage(
        "no-lateness",
        "the allowed lateness is not allowed",
        "flows/verdicts.py",
        "grace = self._projection.allowed_lateness_us",
        "grace = 0",
        folds("late"),
    ),
    Sabotage(
        "max-ahead",
        "an event of the year 2999 moves the watermark",
        "schemas/decode.py",
        "ahead = has_time & (timestamps >= 0) &",
        "ahead = has_time & (timestamps < -1) &",
        RECORDS,
    ),
    Sabotage(
        "timestamp-overflow",
        "a record's timestamp overflows when it becomes microseconds",
        "schemas/decode.py",
        'np.minimum(np.asarray(records.column("timestamp")), LAST_US // 1000 + 1)',
        'np.asarray(records.column("timestamp"))',
        RECORDS,
    ),
    # -- finality
    Sabotage(
        "end-is-an-event",
        "the end of the input makes every row final",
        "flows/committer.py",
        "self._ended.add((delta.category, delta.partition))",
        "self._ended.add((delta.category, delta.partition)); "
        "self.merge.progress[(delta.category, delta.partition)].watermark = 10**17",
        ("tests/test_acceptance.py::test_a_view_is_what_polars_computes_from_the_same_facts",),
    ),
    Sabotage(
        "final-by-one",
        "a row at the edge is not final",
        "flows/merge.py",
        "if until is None else ends <= until",
        "if until is None else ends < until",
        folds("final"),
    ),
    Sabotage(
        "fastest-decides",
        "the fastest partition decides what is final",
        "flows/merge.py",
        "lowest = min(facts.watermark for facts in self.progress.values())",
        "lowest = max(facts.watermark for facts in self.progress.values())",
        folds("final"),
    ),
    Sabotage(
        "closed-too-early",
        "open windows are forgotten before the allowed lateness has passed",
        "flows/fold.py",
        "self.progress.watermark - self.projection.held_us",
        "self.progress.watermark",
        folds("late", "final"),
    ),
    # -- windows
    Sabotage(
        "hops-by-window",
        "rows are folded into hopping windows one window after the other",
        "flows/hops.py",
        "return _spread(pairs, open_, np.cumsum(most) - most, ids)",
        "found = _spread(pairs, open_, np.cumsum(most) - most, ids); "
        "order = np.argsort(newest[found[1]], kind='stable'); return found[0][order], found[1][order]",
        folds("hopping"),
    ),
    Sabotage(
        "hops-all-or-none",
        "an event that is late for one of its windows is folded into that all the same",
        "flows/hops.py",
        "if marks[i] >= first + size + lateness:",
        "if marks[i] >= newest[i] + size + lateness:",
        folds("hopping"),
    ),
    Sabotage(
        "second-midnight",
        "a day with two midnights begins with the second",
        "flows/calendars.py",
        "return midnight_us - early",
        "return midnight_us - late",
        ("tests/test_windows.py::test_what_clocks_do",),
    ),
    Sabotage(
        "rules-forgotten",
        "the definition of a calendar view does not say what the zone's clocks do",
        "flows/calendars.py",
        '"zone": self.zone, "rules": rules_digest(self.zone)}',
        '"zone": self.zone, "rules": ""}',
        ("tests/test_windows.py", "-k", "rules"),
    ),
    Sabotage(
        "touching-unites",
        "a session that begins when another ends is one with it",
        "flows/session_merge.py",
        "start[i] >= ends[count - 1]",
        "start[i] > ends[count - 1]",
        folds("sessions"),
    ),
    Sabotage(
        "session-final-when-late",
        "a session is final as soon as its own events would be late",
        "flows/windows.py",
        "return self.gap_us",
        "return 0",
        folds("sessions"),
    ),
    Sabotage(
        "bridges-flattened",
        "bridges upon bridges are made at once",
        "flows/sessions.py",
        "level[before] = max(level[before], level[at]) + 1",
        "level[before] = 1",
        ("tests/test_sessions.py::test_bridges_upon_bridges",),
    ),
    Sabotage(
        "old-sessions-stay",
        "the row of a session that became part of another stays in the view",
        "flows/session_merge.py",
        "keys = pa.concat_arrays([*removed, ",
        "keys = pa.concat_arrays([NO_GROUPS, ",
        folds("sessions"),
    ),
    # -- sums, extremes, first and last
    Sabotage(
        "float-by-slice",
        "floats are summed by NumPy within a slice, then added",
        "flows/accumulators.py",
        'kernels.sum_floats(ids, ok, numbers_of(values, np.float64), state["n"], state["total"])',
        "ok = ok if len(ok) else ids >= 0\n"
        '        for g in np.unique(ids[ok]): state["total"][g] += numbers_of(values, np.float64)[ok & (ids == g)].sum(); '
        'state["n"][g] += int((ok & (ids == g)).sum())',
        folds("sums"),
    ),
    Sabotage(
        "float-in-order-of-arrival",
        "partials are merged in the order in which they came",
        "flows/merge.py",
        "self._partials[place].put(delta.groups, delta.ids)",
        "self._partials[place] = self._partials.pop(place); self._partials[place].put(delta.groups, delta.ids)",
        folds("groups"),
    ),
    Sabotage(
        "float-from-zero",
        "a float sum begins with an invented zero",
        "flows/kernels.py",
        "total[g] = values[i] if n[g] == 0 else total[g] + values[i]",
        "total[g] = total[g] + values[i]",
        folds("sums"),
    ),
    Sabotage(
        "absent-is-zero",
        "a partition without a value adds zero",
        "flows/accumulators.py",
        'np.where(other["n"] == 0, into["total"], np.where(into["n"] == 0, other["total"], both))',
        "both",
        folds("sums"),
    ),
    Sabotage(
        "int-wraps",
        "a sum beyond int64 wraps around",
        "flows/accumulators.py",
        "if not fits.all():",
        "if not fits.size:",
        folds("sums"),
    ),
    Sabotage(
        "by-arrival",
        "`last` is the last that came",
        "flows/kernels.py",
        "if n[g] == 0 or (time[i] >= when[g] if last else time[i] < when[g]):",
        "if n[g] == 0 or last:",
        folds("groups"),
    ),
    Sabotage(
        "last-of-equals",
        "of events at one time, `last` takes the first",
        "flows/kernels.py",
        "if n[g] == 0 or (time[i] >= when[g] if last else time[i] < when[g]):",
        "if n[g] == 0 or (time[i] > when[g] if last else time[i] < when[g]):",
        ("tests/test_nexmark.py", "-k", "q18"),
    ),
    Sabotage(
        "zeros-are-equal",
        "the order of floats does not tell -0.0 from 0.0",
        "flows/accumulators.py",
        "bits = np.where(np.isnan(floats), CANONICAL_NAN, floats.view(np.int64))",
        "bits = np.where(np.isnan(floats), CANONICAL_NAN, (floats + 0.0).view(np.int64))",
        folds("sums"),
    ),
    # -- groups and records
    Sabotage(
        "null-key",
        "a key that is missing is taken for an empty one",
        "flows/fold.py",
        'keys = [values[f"key:{name}"] for name in self.projection.key]',
        'keys = [values[f"key:{name}"].fill_null("") for name in self.projection.key]',
        folds("groups"),
    ),
    Sabotage(
        "dead-for-all",
        "a bad field makes the record dead for everybody",
        "schemas/decode.py",
        "result.invalid[column] = parsed.invalid[path] & has_field",
        "result.invalid[column] = parsed.invalid[path] & has_field; result.fate[result.invalid[column]] = DEAD",
        folds("late"),
    ),
    Sabotage(
        "bulk-without-counting",
        "a bulk parse is accepted without counting its rows",
        "schemas/json_columns.py",
        "if table is not None and table.num_rows == len(rows):",
        "if table is not None:",
        RECORDS,
    ),
    Sabotage(
        "bad-utf8",
        "bad bytes in a text are let through",
        "schemas/json_columns.py",
        "array.validate(full=True)",
        "array.validate(full=False)",
        RECORDS,
    ),
    Sabotage(
        "nan-accepted",
        "NaN and infinities are values",
        "schemas/json_columns.py",
        "bad = np.asarray(pc.fill_null(pc.invert(pc.is_finite(array)), False))",
        "bad = np.zeros(len(array), np.bool_)",
        RECORDS,
    ),
    # -- the table
    Sabotage(
        "chunk-by-count",
        "a chunk ends after so many rows, so that one new row moves all later ends",
        "connectors/chunks.py",
        "return (hash_binary(keys, SEED) & np.uint64(chunk_rows - 1)) == 0",
        "return np.arange(1, len(keys) + 1) % chunk_rows == 0",
        ("tests/test_chunks.py",),
    ),
    Sabotage(
        "chunk-ends-with-commit",
        "a chunk ends where the commit that changed it left it",
        "connectors/changes.py",
        "whole, carry = _cut(spec, carry, changed)",
        "whole, carry = [changed], None",
        ("tests/test_table.py::test_equal_rows_are_equal_files_whatever_the_way_there",),
    ),
    Sabotage(
        "no-fsync",
        "files get their names before they are on the disk",
        "connectors/fs.py",
        '    _step("fsync", path)\n    os.fsync(fd)\n',
        "    return\n",
        ("tests/test_power_loss.py::test_commits",),
    ),
    Sabotage(
        "no-fsync-of-directories",
        "names are not made durable",
        "connectors/fs.py",
        '    _step("fsync_dir", path)\n',
        "    return\n",
        ("tests/test_power_loss.py::test_commits",),
    ),
    Sabotage(
        "rename-for-link",
        "a manifest replaces one that is there already",
        "connectors/table.py",
        "fs.link(temporary, path)",
        "fs.rename(temporary, path)",
        ("tests/test_fences.py",),
    ),
    Sabotage(
        "unchecked-file",
        "a damaged file of a view is read",
        "connectors/chunks.py",
        "if file_name(data) != chunk.file:",
        "if not data:",
        ("tests/test_table_crashes.py::test_a_damaged_chunk_is_named_when_it_is_read",),
    ),
    # -- the log
    Sabotage(
        "jump-over-a-hole",
        "reading goes on behind a hole in the log",
        "connectors/continuity.py",
        "if batch.base_offset > expected:",
        "if batch.base_offset < 0:",
        ("tests/test_continuity.py",),
    ),
    Sabotage(
        "offset-reset",
        "a position that the broker has lost is reset to what is left",
        "connectors/redpanda.py",
        'auto_offset_reset="none"',
        'auto_offset_reset="earliest"',
        ("tests/test_redpanda_losses.py::test_deleted_records_are_a_gap_for_those_who_still_need_them",),
    ),
    Sabotage(
        "aborted-read",
        "records of aborted transactions are read",
        "connectors/redpanda.py",
        "return bool(self._is_batch_aborted(header))",
        "return False",
        ("tests/test_redpanda.py::test_aborted_records_are_left_out_and_committed_ones_are_not",),
    ),
    Sabotage(
        "batch-checksum",
        "checksums of record batches are not compared",
        "connectors/record_batch.py",
        "if crc32c(batch[CHECKED_AT:]) != header.checksum:",
        "if header.checksum < 0:",
        ("tests/test_record_batch.py::test_edited_bytes_without_a_new_checksum_are_refused",),
    ),
    Sabotage(
        "frame-checksum",
        "checksums of the embedded log's frames are not compared",
        "connectors/tail.py",
        "if crc32c(payload, crc32c(_CHECKED.pack(length, offsets, first))) != checksum:",
        "if offsets < 0:",
        ("tests/test_local_log.py::test_a_flipped_bit_in_a_tail_is_found_and_nothing_is_cut",),
    ),
    Sabotage(
        "identity",
        "a stream made again under its name is taken for the old one",
        "flows/facts.py",
        "if info.identity != standing.identities[name]:",
        "if not info.identity:",
        ("tests/test_fences.py",),
    ),
    Sabotage(
        "last-record",
        "the last folded record is not compared on start",
        "flows/facts.py",
        "if records.num_rows and int(record_hashes(records)[0]) != facts.last_hash:",
        "if records.num_rows < 0:",
        ("tests/test_bad_input.py::test_a_log_that_was_rewritten_stops_a_run",),
    ),
    # -- the fast ways
    Sabotage(
        "members-twice",
        "the scanner takes records that have a member twice",
        "schemas/scan_kernels.py",
        "        if seen & bit:\n",
        "        if seen & bit & 0:\n",
        RECORDS,
    ),
    Sabotage(
        "ties",
        "long decimals half-way between two floats are rounded down",
        "schemas/value_kernels.py",
        "if low > half or (low == half and (rest != 0 or mantissa & ONE)):",
        "if low > half or (low == half and rest != 0):",
        ("tests/test_scanner.py::test_division_at_ties",),
    ),
    Sabotage(
        "column-checksum",
        "checksums of derived columns are not compared",
        "connectors/columns.py",
        "if len(stream) != size or crc32c(stream) != sum_:",
        "if len(stream) != size:",
        ("tests/test_derived.py",),
    ),
    Sabotage(
        "column-segment",
        "derived columns of another segment are used",
        "connectors/columns.py",
        'if found["segment"] != checksum or len(found["groups"]) != groups:',
        'if len(found["groups"]) != groups:',
        ("tests/test_derived.py",),
    ),
    Sabotage(
        "overlap",
        "an archive and a log that was rewritten are read as one",
        "connectors/overlap.py",
        "if found.get(partition, known if theirs.compacted else None) != known:",
        "if partition < 0:",
        ("tests/test_hybrid.py::test_two_streams_of_one_name_are_not_read_as_one",),
    ),
    # -- aggregations that keep more than a number
    Sabotage(
        "ties-backwards",
        "of equals in two partitions the later one comes first",
        "flows/ranked.py",
        'entries.joined(into["entries"], other["entries"]',
        'entries.joined(other["entries"], into["entries"]',
        folds("aggregations"),
    ),
    Sabotage(
        "as-they-come",
        "collect takes values as they are read, not by event time",
        "flows/ranked.py",
        "_with_time(_nothing(len(values)), time, False)",
        "_with_time(_nothing(len(values)), np.zeros_like(time), False)",
        folds("aggregations"),
    ),
    Sabotage(
        "distinct-twice",
        "a value in two partitions is counted twice",
        "flows/ranked.py",
        "class CountDistinct(Entries):\n    unique = True",
        "class CountDistinct(Entries):\n    unique = False",
        folds("aggregations"),
    ),
    Sabotage(
        "no-carry",
        "the sum of squares loses what carries over between partitions",
        "flows/variances.py",
        "whole = half + carry",
        "whole = half + carry * 0",
        (f"{AGGREGATIONS}::test_a_variance_of_whole_numbers_is_the_exact_one",),
    ),
    Sabotage(
        "wrapping-money",
        "a sum of decimals forgets its third word",
        "flows/decimals.py",
        "high[g] += over - np.int64(values[i, 1] >> np.uint64(63))",
        "high[g] += 0 * over",
        (AGGREGATIONS, "-k", "decimals"),
    ),
    Sabotage(
        "wide-bucket",
        "a value on the border of two buckets goes into the upper one",
        "flows/sketches.py",
        'np.searchsorted(table, sizes, side="left")',
        'np.searchsorted(table, sizes, side="right")',
        (AGGREGATIONS, "-k", "buckets"),
    ),
    Sabotage(
        "failing-batch",
        "arithmetic with decimals is allowed",
        "flows/decimal_rules.py",
        'if kind == "BinaryExpr" and body["op"] in COMPUTES',
        'if kind == "BinaryExpr" and body["op"] in ()',
        ("tests/test_projection.py",),
    ),
    # -- Python folds
    Sabotage(
        "fold-deletes",
        "the row of an entity that is no more stays",
        "flows/finishing.py",
        "there, folded = truth(contiguous(folded.column(PRESENT))), folded.drop_columns([PRESENT])",
        "folded = folded.drop_columns([PRESENT])",
        ("tests/test_python_folds.py::test_a_row_goes_when_its_entity_goes_and_comes_back_with_it",),
    ),
    Sabotage(
        "fold-two-partitions",
        "an entity of a Python fold may be in two partitions",
        "flows/one_partition.py",
        "if not len(twice):",
        "if True:",
        ("tests/test_python_folds.py", "-k", "partition or deleted"),
    ),
    Sabotage(
        "fold-marks-refused",
        "an event that a fold refused leaves a partial of its entity",
        "flows/fold.py",
        "self._mark_changed(without_rows(ids, refused))",
        "self._mark_changed(ids)",
        ("tests/test_python_folds.py::test_a_refused_event_leaves_no_trace_but_its_dead_letter",),
    ),
    Sabotage(
        "fold-zones",
        "an instant of a state keeps the time zone that the fold gave it",
        "flows/returned.py",
        "return EPOCH + (value - EPOCH)",
        "return value",
        ("tests/test_law.py", "-k", "python_fold"),
    ),
    Sabotage(
        "fold-same-process",
        "a Python fold is verified with the hashes it was folded with",
        "flows/verification.py",
        "if projection.fold and (why := elsewhere(projection, manifest, place, how)):",
        "if how.notes and (why := elsewhere(projection, manifest, place, how)):",
        ("tests/test_python_fold_verify.py", "-k", "unordered"),
    ),
]
