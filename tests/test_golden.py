"""The golden corpus (``golden/``): every odd record and fold has the outcome that its file says.

To look at what has changed: ``python -m tests.golden_corpus --show``. An outcome that changes is a change of meaning.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import golden_corpus as corpus
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.decode import LIVE

RECORDS = {path.stem: corpus.read(path) for path in corpus.RECORD_FILES}
FOLDS = {path.stem: corpus.read(path) for path in corpus.FOLD_FILES}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about what a crash leaves."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def exact(outcome: Any) -> str:
    """As text, so that -0.0 is not 0.0, 1 is not 1.0 and True is not 1."""
    return json.dumps(outcome, sort_keys=True, indent=1)


def named(files: dict[str, Any]) -> list[Any]:
    return [pytest.param(case, id=f"{stem}: {case['name']}") for stem, file in files.items() for case in file["cases"]]


def test_the_corpus_is_there() -> None:
    """A file that is not found would be checked by nobody."""
    assert {"shape", "members", "numbers", "texts", "times", "bare", "nested"} <= RECORDS.keys()
    assert {"sums", "late", "final", "groups"} <= FOLDS.keys()
    assert sum(len(file["cases"]) for file in RECORDS.values()) >= 300
    assert sum(len(file["cases"]) for file in FOLDS.values()) >= 60
    for file in [*RECORDS.values(), *FOLDS.values()]:
        names = [case["name"] for case in file["cases"]]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", [*corpus.RECORD_FILES, *corpus.FOLD_FILES], ids=lambda path: path.stem)
def test_files_are_laid_out_as_they_would_be_written(path: Path) -> None:
    """So that what ``--write`` changes is what has changed."""
    assert path.read_text() == corpus.text(corpus.read(path))


@pytest.mark.parametrize("stem", RECORDS)
def test_every_record_alone(stem: str) -> None:
    file = RECORDS[stem]
    reading = corpus.decoder(corpus.CATEGORIES[file["category"]])
    for case in file["cases"]:
        found = corpus.record_outcome(reading.decode(corpus.records_of([case])), 0)
        assert exact(found) == exact(case["expect"]), case["name"]


@settings(max_examples=12, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("stem", RECORDS)
def test_every_record_among_the_others(stem: str, data: st.DataObject) -> None:
    """In any order and company, for a decoder of all types and for one that reads a single type in one pass."""
    file = RECORDS[stem]
    category = corpus.CATEGORIES[file["category"]]
    cases = data.draw(st.lists(st.sampled_from(file["cases"]), min_size=1, max_size=40))
    records = corpus.records_of(cases)
    everything, narrow = (
        corpus.decoder(category).decode(records),
        corpus.decoder(category, corpus.Measured).decode(records),
    )
    for row, case in enumerate(cases):
        expected = case["expect"]
        assert exact(corpus.record_outcome(everything, row)) == exact(expected), case["name"]
        if expected.get("type") == "Labelled":
            expected = {"fate": "other type", "time": expected["time"]}
            assert everything.fate[row] == LIVE
        assert exact(corpus.record_outcome(narrow, row)) == exact(expected), case["name"]


@pytest.mark.parametrize("case", named(FOLDS))
def test_every_fold_at_once(case: dict[str, Any]) -> None:
    assert exact(corpus.fold_outcome(case)) == exact(case["expect"])
    if len(case["log"]) > 1:
        assert exact(corpus.fold_outcome(case, corpus.BACKWARDS)) == exact(case["expect"])


@pytest.mark.parametrize("case", named(FOLDS))
def test_every_fold_record_by_record(case: dict[str, Any]) -> None:
    """The last partition first, with a commit and a fresh start after each record: the same tables, the same digests."""
    expected = case.get("expect_slowly", case["expect"])
    assert exact(corpus.fold_outcome(case, corpus.SLOWLY)) == exact(expected)
    assert "expect_slowly" not in case or "error" in expected
