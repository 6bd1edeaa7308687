"""What a user does wrong, and what a log does to a user: exit code, what, where, what to do, and an unharmed store.

2    the call or the definition is wrong
3    the log or the store failed
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pipelines
import pytest
from kafka import KafkaAdminClient, TopicPartition
from pipelines import NAMES, Said, append, appends, contents, events, flights_log, here

from connectors import open_log, open_view
from connectors.table import open_writer
from connectors.view import list_views
from flows import run
from flows.flights import aircraft
from flows.merge import table_specs

NO_BROKER = "redpanda://127.0.0.1:1"
Topic = Callable[..., str]


def refused(said: Said, code: int, *words: str) -> None:
    """The error says what, and what to do; never a traceback."""
    assert said.code == code, said
    assert "Traceback" not in said.err
    assert "error: " in said.err
    assert "\n  do      " in said.err
    for word in words:
        assert word in said.err, said.err


def written(store: Path) -> list[str]:
    return [view.name for view in list_views(store)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


# -- the call


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("run departure_by_hour", 2, ["no projection `departure_by_hour`", "did you mean departures_by_hour?"]),
        ("run aircraft@7", 2, ["no projection `aircraft@7`", "aircraft@1"]),
        ("run aircraft --flows no_such_module", 2, ["no module `no_such_module`", "--flows"]),
        ("run aircraft --log no/such/log", 3, ["there is no log", "no/such/log"]),
        ("run aircraft --log ftp://example", 2, ["ftp://", "redpanda://"]),
        (f"run aircraft --log {NO_BROKER}", 3, ["does not answer", NO_BROKER]),
        (f"rebuild aircraft --log {NO_BROKER}", 3, ["does not answer", NO_BROKER]),
        ("rebuild aircraft --log no/such/log", 3, ["there is no log", "no/such/log"]),
        ("verify aircraft", 3, ["never been committed", "refold run aircraft"]),
        ("status nothing", 3, ["there is no store", "refold run"]),
        ("path nothing", 3, ["there is no store", "refold run"]),
        ("path nothing@new", 2, ["`new` is no version"]),
        ("query FROM_nothing", 3, ["there is no store", "refold run"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_call_says_what_and_what_to_do(call: str, code: int, words: list[str], store: Path) -> None:
    said = here(*call.split(), REFOLD_STORE=str(store), REFOLD_LOG=flights_log(), REFOLD_BROKER_TIMEOUT="1")
    refused(said, code, *words)
    assert written(store) == []


@pytest.mark.broker
def test_an_unknown_topic_of_a_broker_is_named(broker: str, store: Path, own_flows: Callable[..., str]) -> None:
    module = own_flows(category="refold-no-such-topic")
    said = here("run", "mine", "--flows", module, "--log", f"redpanda://{broker}", "--store", store)
    assert said.code == 3
    assert "no category refold-no-such-topic" in said.err
    assert f"\n  where   redpanda://{broker}" in said.err
    assert written(store) == []


# -- the definition

MODULE = """
from datetime import timedelta
import polars as pl
from flows import Projection, agg, tumbling
from schemas import Category
from schemas.flights import FlightDeparted, flights

mine = Projection(
    name="mine", version={version}, category=Category("{category}", flights.events), events=[FlightDeparted],
    key=["{key}"], window=tumbling(timedelta(hours=1)), allowed_lateness=timedelta(minutes={lateness}),
    columns={{"departures": agg.count(), "mean_delay": agg.mean("delay_minutes")}},
)
"""


@pytest.fixture
def own_flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a module with the projection `mine` and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    names = iter(f"{tmp_path.name}_{number}" for number in range(100))

    def write(*, key: str = "origin", lateness: int = 30, version: int = 1, category: str = "flights") -> str:
        name = next(names)
        (tmp_path / f"{name}.py").write_text(
            textwrap.dedent(MODULE).format(key=key, lateness=lateness, version=version, category=category)
        )
        return name

    return write


def test_a_projection_of_a_field_that_no_event_has_gets_a_hint(store: Path, own_flows: Callable[..., str]) -> None:
    said = here("run", "mine", "--flows", own_flows(key="orign"), "--log", flights_log(), "--store", store)
    refused(said, 2, "no event has a field `orign`", "did you mean `origin`?", "mine@1")


def test_a_changed_definition_under_the_same_version_is_shown(store: Path, own_flows: Callable[..., str]) -> None:
    places = ("--log", flights_log(), "--store", store, "--until", "end")
    assert here("run", "mine", "--flows", own_flows(), *places).code == 0
    before = contents(store)
    said = here("run", "mine", "--flows", own_flows(lateness=45), *places)
    refused(said, 2, "mine@1 has changed", '- "allowed_lateness_us": 1800000000', '+ "allowed_lateness_us": 2700000000')
    refused(said, 2, "version=2")
    assert contents(store) == before


def test_version_2_lives_beside_version_1_which_goes_on_serving(store: Path, own_flows: Callable[..., str]) -> None:
    places = ("--log", flights_log(), "--store", store, "--until", "end")
    assert here("run", "mine", "--flows", own_flows(), *places).code == 0
    serving = open_view(store, "mine")
    assert here("run", "mine", "--flows", own_flows(version=2, key="carrier"), *places).code == 0
    assert open_view(store, "mine").digest == serving.digest
    assert open_view(store, "mine", 2).schema.names[2] == "carrier"


# -- the store


def test_a_store_that_another_process_writes_is_left_alone(store: Path) -> None:
    assert here("run", "aircraft", "--log", flights_log(), "--store", store, "--until", "end").code == 0
    before = contents(store)
    with open_writer(store, "aircraft", 1, table_specs(aircraft)):
        said = here("run", "aircraft", "--log", flights_log(), "--store", store, "--until", "end")
    refused(said, 3, "another process writes this view", "aircraft")
    assert contents(store) == before


@pytest.mark.parametrize("command", ["run", "verify"])
def test_a_view_of_other_semantics_asks_for_a_rebuild(
    command: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ("--log", flights_log(), "--store", store)
    with monkeypatch.context() as older:
        older.setattr("flows.facts.SEMANTICS", 0)
        assert here("run", "aircraft", *places, "--until", "end").code == 0
    before = contents(store)
    more = ["--until", "end"] if command == "run" else []
    refused(here(command, "aircraft", *places, *more), 3, "semantics 0", "refold rebuild aircraft")
    assert contents(store) == before
    assert here("rebuild", "aircraft", *places).code == 0
    assert here("verify", "aircraft", *places).code == 0


# -- the log has lost its beginning


@pytest.fixture
def segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log whose partitions have three segments each."""
    monkeypatch.setattr("connectors.local_writer.TAIL_RECORDS", 100)
    third = events().num_rows // 3
    for first in (0, third, 2 * third):
        append(str(tmp_path / "log"), events().slice(first, third))
    return tmp_path / "log"


def lose_segment(log: Path, number: int) -> int:
    """Remove a segment of partition 1; returns one more than the first offset that is gone."""
    segment = sorted((log / "flights" / "1").glob("*.parquet"))[number]
    segment.unlink()
    return int(segment.stem) + 1


def is_hopeful(said: Said) -> bool:
    return said.code == 0 and "HOPEFUL" in said.out


def test_a_rebuild_from_a_log_without_its_beginning_is_refused(segmented: Path, store: Path) -> None:
    places = ("--log", segmented, "--store", store)
    assert here("run", "aircraft", *places, "--until", "end").code == 0
    lose_segment(segmented, 0)
    before = contents(store)
    refused(here("rebuild", "aircraft", *places), 3, "flights/1 starts at offset", "--origin earliest")
    assert {name: contents(store)[name] for name in before} == before
    assert here("run", "aircraft", *places, "--until", "end").code == 0, "the view itself goes on"
    assert here("rebuild", "aircraft", *places, "--origin", "earliest").code == 0
    assert is_hopeful(here("status", *places))
    assert here("verify", "aircraft", *places).code == 0


def test_a_first_run_of_a_log_without_its_beginning_is_refused(segmented: Path, store: Path) -> None:
    lose_segment(segmented, 0)
    places = ("--log", segmented, "--store", store, "--until", "end")
    refused(here("run", "aircraft", *places), 3, "the first events of `flights` are gone", "--origin earliest")
    assert written(store) == []
    assert is_hopeful(here("run", "aircraft", *places, "--origin", "earliest"))


def test_a_view_that_retention_has_passed_does_not_jump(segmented: Path, store: Path) -> None:
    run([aircraft], log=str(segmented), store=store, until={"flights": [10, 10, 10, 10]})
    before = contents(store)
    lose_segment(segmented, 0)
    said = here("run", "aircraft", "--log", segmented, "--store", store, "--until", "end")
    refused(said, 3, "lost events that view aircraft@1 still needs", "flights/1 starts at offset", "events missing")
    refused(said, 3, "refold rebuild aircraft")
    assert contents(store) == before


def test_a_hole_in_the_middle_of_a_log_stops_a_run_before_it(segmented: Path, store: Path) -> None:
    hole = lose_segment(segmented, 1)
    said = here("run", "aircraft", "--log", segmented, "--store", store, "--until", "end")
    refused(said, 3, "events are missing from the log", "flights/1, offsets")
    assert all(open_view(store, name).cut["flights"][1] < hole for name in written(store))


# -- the log is another one


def test_a_category_that_was_made_again_is_another_stream(tmp_path: Path, store: Path) -> None:
    log = pipelines.own_log(tmp_path)
    places = ("--log", log, "--store", store)
    assert here("run", "aircraft", *places, "--until", "end").code == 0
    before = contents(store)
    shutil.rmtree(Path(log) / "flights")
    append(log, events())
    refused(
        here("run", "aircraft", *places, "--until", "end"), 3, "deleted and created again", "refold rebuild aircraft@1"
    )
    answer = here("verify", "aircraft", *places)
    assert answer.code == 1
    assert "LOG CHANGED" in answer.out and "deleted and created again" in answer.out
    assert "refold rebuild aircraft@1" in answer.out
    assert contents(store) == before
    assert here("rebuild", "aircraft", *places).code == 0
    assert open_view(store, "aircraft").digest == pipelines.digests_of_all()["aircraft"]


def test_a_log_that_is_shorter_than_the_view_stops_a_run(tmp_path: Path, store: Path) -> None:
    log, older = pipelines.own_log(tmp_path), tmp_path / "copy"
    shutil.copytree(log, older)
    append(log, events().slice(0, 1000))
    assert here("run", "aircraft", "--log", log, "--store", store, "--until", "end").code == 0
    before = contents(store)
    said = here("run", "aircraft", "--log", older, "--store", store, "--until", "end")
    refused(said, 3, "the log is shorter", "flights/0 ends at offset", "refold rebuild aircraft@1")
    assert contents(store) == before


def test_a_log_that_was_rewritten_stops_a_run(tmp_path: Path, store: Path) -> None:
    log = pipelines.own_log(tmp_path)
    other = shutil.copytree(log, tmp_path / "other")
    append(log, appends([b"{}"] * 40))
    append(str(other), appends([b"[]"] * 40))
    assert here("run", "aircraft", "--log", log, "--store", store, "--until", "end").code == 0
    before = contents(store)
    said = here("run", "aircraft", "--log", other, "--store", store, "--until", "end")
    refused(said, 3, "the log was rewritten", "at offset", "refold rebuild aircraft@1")
    assert contents(store) == before


@pytest.mark.broker
def test_partitions_that_were_added_ask_for_a_rebuild(
    broker: str, topic: Topic, admin: KafkaAdminClient, store: Path, own_flows: Callable[..., str]
) -> None:
    name = topic(2)
    places = ("--flows", own_flows(category=name), "--log", f"redpanda://{broker}", "--store", store)
    append(f"redpanda://{broker}", events().slice(0, 2000), name)
    assert here("run", "mine", *places, "--until", "end").code == 0
    before = contents(store)
    admin.create_partitions({name: 3})
    pipelines.until(lambda: partitions(broker, name) == 3)
    refused(
        here("run", "mine", *places, "--until", "end"), 3, "had 2 partitions and has 3 now", "refold rebuild mine@1"
    )
    assert contents(store) == before
    assert here("rebuild", "mine", *places).code == 0
    assert len(open_view(store, "mine").cut[name]) == 3


def partitions(broker: str, name: str) -> int:
    with open_log(f"redpanda://{broker}") as log:
        return log.describe(name).partitions


@pytest.mark.broker
def test_a_topic_whose_first_records_were_deleted(
    broker: str, topic: Topic, admin: KafkaAdminClient, store: Path, own_flows: Callable[..., str]
) -> None:
    name = topic(2)
    places = ("--flows", own_flows(category=name), "--log", f"redpanda://{broker}", "--store", store)
    append(f"redpanda://{broker}", events().slice(0, 2000), name)
    assert here("run", "mine", *places, "--until", "end").code == 0
    before = contents(store)
    admin.delete_records({TopicPartition(name, 1): 50})
    refused(
        here("rebuild", "mine", *places), 3, f"{name}/1 starts at offset 50", "50 events missing", "--origin earliest"
    )
    assert {path: contents(store)[path] for path in before} == before
    assert here("rebuild", "mine", *places, "--origin", "earliest").code == 0
    assert is_hopeful(here("status", *places[2:]))


@pytest.mark.broker
def test_a_topic_that_was_deleted_and_created_again(
    broker: str, topic: Topic, admin: KafkaAdminClient, store: Path, own_flows: Callable[..., str]
) -> None:
    name = topic(2)
    places = ("--flows", own_flows(category=name), "--log", f"redpanda://{broker}", "--store", store, "--until", "end")
    append(f"redpanda://{broker}", events().slice(0, 2000), name)
    assert here("run", "mine", *places).code == 0
    before = contents(store)
    admin.delete_topics([name])
    pipelines.until(lambda: name not in admin.list_topics())
    admin.create_topics({name: {"num_partitions": 2}}, wait_for_metadata=True)
    append(f"redpanda://{broker}", events().slice(0, 2000), name)
    refused(here("run", "mine", *places), 3, "deleted and created again", "refold rebuild mine@1")
    assert contents(store) == before


# -- the events are not what they should be


def test_a_topic_of_quite_another_shape_stops_before_any_commit(tmp_path: Path, store: Path) -> None:
    log = str(tmp_path / "log")
    append(log, appends([b'{"order": 1}'] * 300))
    append(log, events().slice(0, 200))
    places = ("--log", log, "--store", store, "--until", "end")
    refused(here("run", *NAMES, *places), 3, "300 of the first 500 records", "--allow-dead-letters")
    assert written(store) == []
    assert here("run", *NAMES, *places, "--allow-dead-letters").code == 0
    assert open_view(store, "aircraft").dead_letters().collect().height == 300


def test_a_few_bad_records_are_no_reason_to_stop(tmp_path: Path, store: Path) -> None:
    log = str(tmp_path / "log")
    append(log, events().slice(0, 200))
    append(log, appends([b"oops"] * 50))
    assert here("run", "aircraft", "--log", log, "--store", store, "--until", "end").code == 0
