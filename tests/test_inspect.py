"""``refold inspect``: what is in a topic that somebody else writes, and the code to fold it."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaProducer
from pipelines import flights_log, here

from connectors import open_log, open_view
from connectors.log import APPENDS
from flows import Projection, agg, run
from flows.guessing import guess_envelope
from flows.inspected import facts, lines, python
from flows.inspecting import LATENESS_US, inspect
from flows.naming import class_name, class_names, field_names
from flows.shapes import kind_of, leaves, members
from schemas import RECORD_KEY, RECORD_TIME, Category
from schemas.errors import UnknownCategory
from schemas.flights import flights

MS = 1_704_067_200_000


def log_of(place: Path, records: list[Any], *, keys: bool = True, partitions: int = 1, name: str = "things") -> str:
    log = str(place / "log")
    count = len(records)
    values = [
        None if record is None else record if isinstance(record, bytes) else json.dumps(record).encode()
        for record in records
    ]
    columns = [
        pa.array([b"k%d" % (i % 7) if keys else None for i in range(count)], pa.binary()),
        pa.array(values, pa.binary()),
        pa.array([MS + i for i in range(count)], pa.int64()),
        pa.array([i % partitions for i in range(count)], pa.int32()),
    ]
    with open_log(log) as opened:
        opened.create(name, partitions)
        opened.append_batch(name, pa.table(columns, schema=APPENDS))
    return log


def module_of(code: str, name: str) -> dict[str, Any]:
    """A pasted module: classes look their module up by name."""
    module = type(sys)(name)
    sys.modules[name] = module
    exec(code, module.__dict__)
    return module.__dict__


def test_cloudevents_are_known_and_the_classes_are_those_of_the_code() -> None:
    with open_log(str(flights_log())) as log:
        found = inspect(log, "flights", records=None)
    assert found.read == found.total and (found.guess.said, found.guess.sure) == ("cloudevents()", 1.0)
    assert {shape.name for shape in found.types} == {event.type_name for event in flights.events}
    made = module_of(python(found), "inspected_flights")["flights"]
    assert isinstance(made, Category) and made.envelope == flights.envelope
    for event in made.events:
        (ours,) = [one for one in flights.events if one.type_name == event.type_name]
        known = {field.name: field.type for field in ours.fields}
        assert all(known[field.name] == field.type or str(known[field.name]) == "double" for field in event.fields)


ODD = [
    {
        "evt": {"what": "Order-Placed" if i % 3 else "order.cancelled", "uuid": f"u{i // 2 if i < 4 else i}"},
        "ts": MS + 1000 * (i - (50 if i % 10 == 0 else 0)),
        "payload": {
            "custRef": f"c{i % 5}",
            "unit-price": i / 4,
            "qty": i,
            "class": "A",
            "vip": i % 2 == 0 if i % 4 else None,
            "tags": [],
            "fields": i % 3,
            "address": {"city": "Å", "geo": {"lat": 1.5, "lon": None}} if i % 2 else None,
            "counts": {f"sku-{i}": 1},
        },
    }
    for i in range(400)
]


def test_odd_names_are_found_and_what_an_event_class_calls_them_is_said(tmp_path: Path) -> None:
    with open_log(log_of(tmp_path, ODD, keys=False, partitions=2)) as log:
        found = inspect(log, "things")
    assert (
        found.guess.said
        == 'plain(type="evt.what", time="ts", subject="payload.custRef", id="evt.uuid", data="payload")'
    )
    assert found.guess.data == ("payload",) and found.guess.sure == 1.0
    text = "\n".join(lines(found))
    assert "(in Python: unit_price)" in text and "(not one type that an event class can have)" in text
    assert "400 records have none" in text
    code = python(found)
    left_out = [line.split("'")[1] for line in code.splitlines() if "is left out" in line]
    assert left_out == ["tags", "address.geo.lon", "counts"] * 2
    made = module_of(code, "inspected_odd")["things"]
    assert {event.type_name for event in made.events} == {"Order-Placed", "order.cancelled"}
    assert {event.__name__ for event in made.events} == {"OrderPlaced", "OrderCancelled"}
    placed = next(event for event in made.events if event.__name__ == "OrderPlaced")
    assert {field.name: (field.path, field.nullable) for field in placed.fields} == {
        "unit_price": (("unit-price",), False),
        "qty": (("qty",), False),
        "class_": (("class",), False),
        "fields_": (("fields",), False),
        "vip": (("vip",), True),
        "address_city": (("address", "city"), True),
        "address_geo_lat": (("address", "geo", "lat"), True),
    }
    view = Projection(
        name="odd",
        category=made,
        key=["address_city"],
        columns={"n": agg.count(), "price": agg.sum("unit_price"), "classes": agg.count(where=pl.col("class_") == "A")},
    )
    run([view], log=str(tmp_path / "log"), store=str(tmp_path / "store"), until="end")
    rows = open_view(tmp_path / "store", "odd").scan().collect().sort("address_city").to_dicts()
    assert rows == [
        {"address_city": None, "n": 200, "price": sum(i / 4 for i in range(0, 400, 2)), "classes": 200},
        {"address_city": "Å", "n": 200, "price": sum(i / 4 for i in range(1, 400, 2)), "classes": 200},
    ]


def test_an_object_whose_members_come_and_go_is_a_map() -> None:
    records = [
        {"own": {f"f{i}": 1 for i in range(20)}, "tags": {f"t{n % 20}": 1}, "few": {f"x{n % 5}": 1}} for n in range(40)
    ]
    found = {".".join(path) for path in leaves(members(records))}
    assert found == {*(f"own.f{i}" for i in range(20)), "tags", *(f"few.x{i}" for i in range(5))}


def test_no_two_members_and_no_two_types_have_one_name_in_python() -> None:
    told = members([{"a-b": 1, "a.b": 2, "a_b": 3, "9": 4, "_": 5, "class": 6, "å-b": 7, "a": {"b": 8}, "fields": 9}])
    names = field_names(leaves(told))
    assert [*names.values()] == ["a_b_2", "a_b_3", "a_b", "field_9", "field", "class_", "å_b", "a_b_4", "fields_"]
    assert class_names(["a-b", "aB", "a.b", "Event", "AB_2"]) == {
        "a-b": "AB",
        "aB": "AB_2",
        "a.b": "AB_3",
        "Event": "EventEvent",
        "AB_2": "AB2",
    }


def test_where_nothing_is_said_of_type_and_time_it_is_the_records(tmp_path: Path) -> None:
    with open_log(log_of(tmp_path, [{"level": i * 0.5} for i in range(50)], name="water-levels")) as log:
        found = inspect(log, "water-levels")
    assert found.guess.said == 'plain(type=constant("WaterLevels"), time=RECORD_TIME, subject=RECORD_KEY)'
    assert (found.guess.envelope.time, found.guess.envelope.subject) == (RECORD_TIME, RECORD_KEY)
    made = module_of(python(found), "inspected_levels")["water_levels"]
    assert [field.name for field in made.events[0].fields] == ["level"]


def test_what_is_no_event_is_counted(tmp_path: Path) -> None:
    records = [None, b"no json", b"[1]", *({"type": "A", "at": "2024-01-01T00:00:00Z", "x": i} for i in range(30))]
    with open_log(log_of(tmp_path, records)) as log:
        found = inspect(log, "things")
    assert (found.read, found.tombstones, found.bad) == (33, 1, 2)
    assert found.guess.envelope.type == ("type",) and found.types[0].records == 30


def test_an_empty_topic_is_no_error(tmp_path: Path) -> None:
    with open_log(log_of(tmp_path, [])) as log:
        found = inspect(log, "things")
    assert (found.read, found.types, found.times_us) == (0, (), None)
    assert list(lines(found))
    assert module_of(python(found), "inspected_empty")["things"]


def test_a_rare_type_has_its_fields_all_the_same(tmp_path: Path) -> None:
    common = [{"type": "Common", "at": "2024-01-01T00:00:00Z", "a": 1}] * 20_000
    rare = [{"type": "Rare", "at": "2024-01-01T00:00:00Z", "b": "x"}]
    with open_log(log_of(tmp_path, [*common[:7001], *rare, *common[7001:]])) as log:
        found = inspect(log, "things", records=None)
    assert {shape.name: (shape.records, list(shape.fields)) for shape in found.types} == {
        "Common": (20_000, [("a",)]),
        "Rare": (1, [("b",)]),
    }


@given(st.lists(st.integers(0, 2 * 86_400), min_size=1, max_size=60), st.integers(1, 3))
@settings(max_examples=15)
def test_lateness_is_counted_as_one_would_by_hand(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[int], partitions: int
) -> None:
    records = [{"type": "A", "ts": MS + 1000 * at} for at in seconds]
    with open_log(log_of(tmp_path_factory.mktemp("late"), records, partitions=partitions)) as log:
        found = inspect(log, "things")
    for name, allowed in LATENESS_US.items():
        lost = 0
        for partition in range(partitions):
            own = seconds[partition::partitions]
            lost += sum(max(own[:i], default=at) - at > allowed / 1e6 for i, at in enumerate(own))
        assert found.late[name] == lost
    assert found.times_us == ((MS // 1000 + min(seconds)) * 10**6, (MS // 1000 + max(seconds)) * 10**6)


def test_ids_that_are_there_twice_are_counted(tmp_path: Path) -> None:
    records = [{"type": "A", "ts": MS + i, "event_id": f"e{i}"} for i in range(100)]
    with open_log(log_of(tmp_path, [*records, records[3], records[4]])) as log:
        assert inspect(log, "things").repeated_ids == 2


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (True, "bool"),
        (1, "int"),
        (MS, "milliseconds"),
        (1.5, "float"),
        ("x", "text"),
        ("2024-01-01T00:00:00Z", "instant"),
        ("2024-13-01T00:00:00Z", "text"),
        ("2024-01-01T00:00:00", "text"),
        ("2024-01-01", "date"),
        ("2024-02-31", "text"),
        ([], "list"),
        ({}, "object"),
    ],
)
def test_values_have_kinds(value: Any, kind: str) -> None:
    assert kind_of(value) == kind


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("order.placed-v2", "OrderPlacedV2"),
        ("9lives", "Event9lives"),
        ("", "Nameless"),
        ("event", "EventEvent"),
        ("A", "A"),
    ],
)
def test_types_become_names_of_classes(text: str, name: str) -> None:
    assert class_name(text) == name


def test_a_guess_prefers_the_usual_names() -> None:
    at = "2024-01-01T00:00:00Z"
    records = [{"created": at, "timestamp": at, "status": "a", "event": "b", "subject": f"s{i}"} for i in range(50)]
    guess = guess_envelope(members(records), 50, 0, "c")
    assert (guess.envelope.time, guess.envelope.type, guess.envelope.subject) == (
        ("timestamp",),
        ("event",),
        ("subject",),
    )


@pytest.mark.broker
def test_from_somebody_elses_topic_to_a_view_of_ones_own(
    broker: str, topic: Callable[..., str], tmp_path: Path
) -> None:
    """Written by another program in plain JSON with odd names; the pasted code folds all of it."""
    name = topic(3)
    producer = KafkaProducer(bootstrap_servers=broker)
    for record in ODD:
        producer.send(name, json.dumps(record).encode(), key=record["payload"]["custRef"].encode())  # type: ignore[index]
    producer.close()
    asked = ("inspect", name, "--log", f"redpanda://{broker}")
    said = here(*asked)
    assert said.code == 0 and f"{name}  400 records in 3 partitions" in said.out
    told = json.loads(here(*asked, "--json").out)
    assert told["total"] == 400 and told["envelope"]["sure"] == 1.0
    made = module_of(here(*asked, "--python").out, "inspected_theirs")
    (category,) = [value for value in made.values() if isinstance(value, Category)]
    columns = {"n": agg.count(), "qty": agg.sum("qty")}
    view = Projection(name="theirs", category=category, key={"customer": "subject"}, columns=columns)
    run([view], log=f"redpanda://{broker}", store=tmp_path / "store", until="end", workers=1)
    opened = open_view(tmp_path / "store", "theirs")
    rows = opened.scan().collect()
    assert rows["n"].to_list() == [80] * 5 and rows["qty"].sum() == sum(range(400))
    assert opened.dead_letters().collect().is_empty()


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    log = log_of(tmp_path, [{"a": 1}])
    assert here("inspect", "thing", "--log", log).code == 3
    assert here("inspect", "things", "--all", "--sample", "3", "--log", log).code == 2
    assert (
        "--all reads everything"
        in here("inspect", "things", "--sample", "1", "--log", log_of(tmp_path / "two", [{"a": 1}] * 9)).out
    )
    with open_log(log) as opened, pytest.raises(UnknownCategory):
        inspect(opened, "nothing")
    with open_log(log) as opened:
        assert json.loads(json.dumps(facts(inspect(opened, "things"))))["types"][0]["fields"]["a"]["python"] == "int"
    assert dt.datetime.fromtimestamp(MS / 1000, dt.UTC).year == 2024
