"""The command line as a shell and a script meet it: help, output that parses, exit codes, quick starts."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import polars as pl
import pytest
from pipelines import NAMES, ROOT, VIEWS, Said, command, digests_of_all, events, finish, flights_log, here

from connectors import open_view
from flows import run
from flows.cli import main

COMMANDS = sorted(main.commands)
HEAVY = ("numba", "polars", "pyarrow", "bytewax", "kafka", "rich", "numpy")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """All views of the whole log, for reading only."""
    with tempfile.TemporaryDirectory(prefix="refold-test-store-") as directory:
        run(VIEWS, log=flights_log(), store=directory, until="end")
        yield directory


def ask(store: str, *arguments: str) -> Said:
    return here(*arguments, REFOLD_STORE=store, REFOLD_LOG=flights_log())


# -- help


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself_and_all_its_options(name: str, flag: str) -> None:
    said = here(name, flag)
    assert said.code == 0
    assert (main.commands[name].help or "no help").split()[0] in said.out
    for option in main.commands[name].params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, f"{name} {option.name} has no help"
            assert option.opts[0] in said.out


def test_refold_alone_shows_the_commands_that_matter() -> None:
    said = here()
    assert said.code == 0
    for name in ("demo", "run", "query", "status", "verify", "rebuild"):
        assert f"refold {name}" in said.out
    assert "REFOLD_LOG" in said.out


def test_the_version_is_told() -> None:
    said = here("--version")
    assert said.code == 0
    assert said.out.split()[-1].count(".") == 2


@pytest.mark.parametrize("call", ["nonsense", "run", "run aircraft --workers 0", "run aircraft --until later", "query"])
def test_a_call_that_cannot_be_understood_is_answered_with_where_to_look(call: str) -> None:
    said = here(*call.split())
    assert said.code == 2
    assert said.err.startswith("error: ") and "--help" in said.err


# -- query

TOP = "SELECT origin, sum(departures) AS n FROM departures_by_hour GROUP BY origin ORDER BY n DESC"


def expected(store: str) -> list[tuple[str, int]]:
    frame = open_view(store, "departures_by_hour").scan().group_by("origin").agg(n=pl.col("departures").sum())
    return frame.sort("n", descending=True).collect().rows()


def test_a_query_prints_a_table(store: str) -> None:
    said = ask(store, "query", TOP)
    assert said.code == 0
    for origin, n in expected(store):
        assert any(origin in line and str(n) in line for line in said.out.splitlines())
    assert "3 rows" in said.out


def test_a_query_prints_csv(store: str) -> None:
    said = ask(store, "query", TOP, "--format", "csv")
    header, *rows = csv.reader(io.StringIO(said.out))
    assert header == ["origin", "n"]
    assert [(origin, int(n)) for origin, n in rows] == expected(store)


@pytest.mark.parametrize("flag", [["--json"], ["--format", "json"]])
def test_a_query_prints_json(store: str, flag: list[str]) -> None:
    found = json.loads(ask(store, "query", TOP, *flag).out)
    assert [(row["origin"], row["n"]) for row in found] == expected(store)


def test_a_query_writes_parquet_into_a_pipe(store: str) -> None:
    done = subprocess.run(command("query", TOP, "--store", store, "--format", "parquet"), cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(io.BytesIO(done.stdout)).rows() == expected(store)


def test_a_query_may_begin_with_from(store: str) -> None:
    assert len(json.loads(ask(store, "query", "FROM aircraft LIMIT 5", "--json").out)) == 5


def test_a_query_joins_views(store: str) -> None:
    sql = "SELECT count(*) AS n FROM aircraft a JOIN departures_by_hour d ON a.carrier = d.carrier"
    assert json.loads(ask(store, "query", sql, "--json").out)[0]["n"] > 0


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("FROM passengers", ["names no view", "aircraft, arrivals_by_day, departures_by_hour"]),
        ("SELECT wings FROM aircraft", ['unable to find column "wings"', "refold views"]),
        ("SELECT FROM WHERE aircraft", ["cannot be run", "refold views"]),
    ],
)
def test_a_query_that_cannot_be_run_says_why_in_a_few_lines(store: str, sql: str, words: list[str]) -> None:
    said = ask(store, "query", sql)
    assert said.code == 2
    assert said.out == ""
    assert all(word in said.err for word in words), said.err
    assert len(said.err.splitlines()) <= 5


# -- facts for scripts


def test_views_as_json(store: str) -> None:
    found = {view["view"]: view for view in json.loads(ask(store, "views", "--json").out)}
    assert set(found) == set(NAMES)
    assert {name: view["digest"] for name, view in found.items()} == digests_of_all()
    for name, view in found.items():
        assert view["rows"] == open_view(store, name).scan().collect().height
        assert list(view["columns"]) == open_view(store, name).schema.names


def test_views_as_text_names_every_column(store: str) -> None:
    out = ask(store, "views").out
    assert all(column in out for name in NAMES for column in open_view(store, name).schema.names)


def test_status_as_json_gives_lag_and_finality_per_partition(store: str) -> None:
    (found,) = json.loads(ask(store, "status", "departures_by_hour", "--json").out)
    assert sum(place["next_offset"] for place in found["partitions"]) == events().num_rows
    assert [place["lag_records"] for place in found["partitions"]] == [0, 0, 0, 0]
    assert [place["partition"] for place in found["partitions"] if place["holds_finality_back"]] == [2]
    assert found["cut"] == open_view(store, "departures_by_hour").cut


def test_status_as_text_says_how_far_behind(store: str) -> None:
    out = ask(store, "status").out
    assert len(re.findall(r" 0 events +0 s ", out)) == 4 * len(NAMES)
    assert "holds finality back" in out


def test_an_empty_store_says_how_to_begin(tmp_path: Path) -> None:
    for name in ("views", "status"):
        said = ask(str(tmp_path), name)
        assert said.code == 0
        assert "refold run VIEW" in said.out
        assert json.loads(ask(str(tmp_path), name, "--json").out) == []


def test_path_prints_a_directory_that_anything_can_read(store: str) -> None:
    directory = ask(store, "path", "aircraft").out.strip()
    assert pl.read_parquet(f"{directory}/*.parquet").height == open_view(store, "aircraft").scan().collect().height
    told = json.loads(ask(store, "path", "aircraft@1", "--json").out)
    assert (told["path"], told["digest"]) == (directory, digests_of_all()["aircraft"])


def test_verify_and_rebuild_as_json(tmp_path: Path) -> None:
    places = ("--log", flights_log(), "--store", tmp_path, "--json")
    run(VIEWS, log=flights_log(), store=tmp_path, until="end")
    verified = json.loads(here("verify", "aircraft", *places).out)
    assert verified["ok"] is True
    assert verified["digest"] == verified["refolded"] == digests_of_all()["aircraft"]
    rebuilt = json.loads(here("rebuild", "aircraft", *places).out)
    assert rebuilt["digest"] == rebuilt["before"] == digests_of_all()["aircraft"]


def test_verify_of_a_damaged_view_answers_no(tmp_path: Path) -> None:
    run(VIEWS, log=flights_log(), store=tmp_path, until="end")
    view = open_view(tmp_path, "aircraft")
    file = view.generation.version.data / view.manifest.tables["rows"].chunks[0].file
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    said = here("verify", "aircraft", "--log", flights_log(), "--store", tmp_path)
    assert said.code == 1
    assert f"DAMAGED  data/{file.name}" in said.out
    assert "refold repair aircraft" in said.out
    assert "rebuilt == live" in here("rebuild", "aircraft", "--log", flights_log(), "--store", tmp_path).out


def test_facts_go_to_standard_output_and_progress_to_the_other(tmp_path: Path) -> None:
    places = ("--log", flights_log(), "--store", tmp_path, "--until", "end")
    said = here("run", *NAMES, *places)
    assert [line.split()[0] for line in said.out.splitlines()] == NAMES
    assert "18,259 of 18,259 events" in said.err
    assert here("run", *NAMES, *places, "--quiet") == Said(0, "", "")


# -- the environment


def test_a_file_env_is_read_and_the_environment_wins(store: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f'# places\nREFOLD_STORE="{store}"\nexport REFOLD_LOG={flights_log()}\nOTHER=1\n')
    assert len(json.loads(finish(command("status", "--json"), cwd=tmp_path).out)) == len(NAMES)
    assert json.loads(finish(command("views", "--json"), cwd=tmp_path, REFOLD_STORE=str(tmp_path)).out) == []


def test_debug_gives_the_traceback(tmp_path: Path) -> None:
    said = finish(command("path", "nothing", "--store", tmp_path, "--debug"))
    assert said.code != 0
    assert "Traceback" in said.err
    assert "UnknownView" in said.err


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, flows.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert finish([sys.executable, "-c", code]).out.strip() == "[]"


def test_a_query_imports_no_engine_and_no_client(store: str) -> None:
    code = (
        "import sys; from flows.cli import main;"
        f"main.main(['query', 'FROM aircraft LIMIT 1', '--store', {store!r}], standalone_mode=False);"
        "print([name for name in ('numba', 'bytewax', 'kafka') if name in sys.modules])"
    )
    assert finish([sys.executable, "-c", code]).out.splitlines()[-1] == "[]"


def test_a_small_demo_keeps_its_promise(tmp_path: Path) -> None:
    said = here("demo", "--days", "3", "--dir", tmp_path / "demo")
    assert said.code == 0, said
    assert "rebuilt == live" in said.out
    assert "DAMAGED" in said.out
