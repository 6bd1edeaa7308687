"""Python folds: what a definition is refused for, what makes it another one, and what becomes of each event."""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
import enum
import functools
import importlib.util
import io
import itertools
import os
import random
import re
import sys
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import click
import polars as pl
import pytest
from python_folds import Order, OrderForgotten, OrderPaid, OrderPlaced, advance, order_states, orders

from connectors import open_log, open_view
from connectors.view import View
from flows import Projection, State, agg, python_fold, run, tumbling
from flows.code_text import code_text
from flows.committer import Pace
from schemas import Category, Event
from schemas.errors import DataError, ImpureFold, UsageError

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
LIMIT = 10
KNOWN = types.MappingProxyType({"a": 1})
LETTERS = re.compile("[a-z]+")
seen: list[str] = []
push = seen.append
counter = itertools.count()
now = dt.datetime.now
draw = random.random


class Kind(enum.Enum):
    GOOD = "good"


class Number(State):
    n: int


class Unwritten(State):
    n: int
    known = {}  # noqa: RUF012 - that is what is wrong


# -- the definition


def with_clock(state: Any, event: Any) -> Any:
    return Number(now(dt.UTC).year)


def with_clock_of_an_event(state: Any, event: Any) -> Any:
    return Number(event.event_time.now().year)


def with_date(state: Any, event: Any) -> Any:
    return Number(dt.date.today().year)  # noqa: DTZ011


def with_chance(state: Any, event: Any) -> Any:
    return Number(int(draw()))


def with_identity(state: Any, event: Any) -> Any:
    return Number(uuid.uuid4().int)


def with_environment(state: Any, event: Any) -> Any:
    return Number(len(os.environ))


def with_file(state: Any, event: Any) -> Any:
    return Number(len(open("/etc/hosts").read()))  # noqa: PTH123


def with_other_file(state: Any, event: Any) -> Any:
    return Number(len(io.open("/etc/hosts").read()))  # noqa: UP020


def with_hash(state: Any, event: Any) -> Any:
    return Number(hash(event.items))


def with_import(state: Any, event: Any) -> Any:
    import math

    return Number(math.floor(1.5))


def with_list(state: Any, event: Any) -> Any:
    seen.append(event.items)
    return Number(len(seen))


def with_method(state: Any, event: Any) -> Any:
    push(event.items)
    return state


def with_counter(state: Any, event: Any) -> Any:
    return Number(next(counter))


def with_global(state: Any, event: Any) -> Any:
    global LIMIT
    LIMIT += 1
    return Number(LIMIT)


def with_attribute(state: Any, event: Any) -> Any:
    Number.most = event.items  # type: ignore[attr-defined]
    return state


def with_default(state: Any, event: Any, known: set[str] = set()) -> Any:  # noqa: B006
    return state


@functools.wraps(with_date)
def decorated(*given: Any) -> Any:
    return given


def with_what_comes_later(state: Any, event: Any) -> Any:
    return later(state)  # type: ignore[name-defined]  # noqa: F821


def with_decorated(state: Any, event: Any) -> Any:
    return decorated(state)


def with_helper(state: Any, event: Any) -> Any:
    return Number(helped())


def helped() -> int:
    return with_date(None, None).n


def with_class(state: Any, event: Any) -> Any:
    return Unwritten(1)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (with_clock, "`now` is not the same"),
        (with_clock_of_an_event, "`event.event_time.now` reads a clock"),
        (with_date, "`dt.date.today` "),
        (with_chance, "`draw` is not the same"),
        (with_identity, "`uuid.uuid4` is not"),
        (with_environment, "`os.environ` is not"),
        (with_file, "`open` is not"),
        (with_other_file, "`io.open` is not"),
        (with_hash, "`hash` is not"),
        (with_import, "imports while it runs"),
        (with_list, "`seen` is a list, which can change"),
        (with_method, "`push` is a list, which can change"),
        (with_counter, "`counter` is a count, which can change"),
        (with_global, "assigns to `LIMIT`"),
        (with_attribute, "changes `Number`"),
        (with_default, "`with_default.default 0` is a set"),
        (with_what_comes_later, "`later` is not there yet"),
        (with_decorated, "wrapped by a decorator"),
        (with_helper, "in `with_date` `dt.date.today`"),
        (with_class, "`Unwritten.known` is a dict"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_the_same_for_every_run_is_refused_before_it_runs(function: Any, what: str) -> None:
    with pytest.raises(ImpureFold) as error:
        python_fold(Number, function)
    assert what in error.value.what
    assert error.value.do


def test_a_closure_over_what_can_change_is_refused() -> None:
    def made(over: Any) -> Callable[[Any, Any], Any]:
        def fold(state: Number | None, event: Any) -> Number:
            return Number(over[0])

        return fold

    def counted() -> Callable[[Any, Any], Any]:
        total = 0

        def fold(state: Number | None, event: Any) -> Number:
            nonlocal total
            total += 1
            return Number(total)

        return fold

    python_fold(Number, made((1, 2)))
    with pytest.raises(ImpureFold, match="`over` is a list"):
        python_fold(Number, made([1, 2]))
    with pytest.raises(ImpureFold, match="assigns to `total`"):
        python_fold(Number, counted())
    codes = [python_fold(Number, made(over)).definition() for over in ((1, 2), (1, 3), (1, 2))]
    assert codes[0] == codes[2] != codes[1]


def allowed(state: Number | None, event: Any) -> Number | None:
    total = sum(len(word) for word in LETTERS.findall(event.items))

    def more(by: int) -> None:
        nonlocal total
        total += by

    more(KNOWN.get("a", 0))
    if Kind("good") is Kind.GOOD and event.event_time > START + dt.timedelta(days=total, microseconds=LIMIT):
        return None
    return Number(total)


def test_what_cannot_change_may_be_used() -> None:
    fold = python_fold(Number, allowed)
    assert fold.touched == {"items", "event_time"}
    uses = fold.code["allowed"]["uses"]
    assert uses["LIMIT"] == "int 10"
    assert uses["KNOWN.get"] == "mapping(str 'a': int 1)"
    assert uses["dt.timedelta"] == "datetime.timedelta"


def good(state: Number | None, event: Any) -> Number | None:
    return state


def misspelled(state: Number | None, event: Any) -> Number | None:
    return Number(event.itms)


def misnamed(order: Order | None, event: Any) -> Order | None:
    if order is not None:
        order.payed = 1.0  # type: ignore[attr-defined]
    return order


def alone(state: Any) -> Any:
    return state


def yielding(state: Any, event: Any) -> Any:
    yield state


class Listing(State):
    items: list[str]


@dataclasses.dataclass
class Prepared:
    n: int

    def __post_init__(self) -> None:
        self.n += 1


def unfound() -> Any:
    space: dict[str, Any] = {}
    exec("def fold(state, event):\n    return state", space)
    return space["fold"]


@pytest.mark.parametrize(
    ("state", "function", "more", "what"),
    [
        (Number, misspelled, {}, "`event.itms` is asked for"),
        (Order, advance, {"reads": ["items"]}, "`event.amount` is asked for"),
        (Order, misnamed, {}, "`order.payed` is no field"),
        (Number, alone, {}, "two arguments"),
        (Number, yielding, {}, "plain function"),
        (Number, lambda state, event: state, {}, "not defined by a statement"),
        (Number, unfound(), {}, "source of `fold` cannot be found"),
        (Number, len, {}, "plain function"),
        (Number, good, {"on_error": "ignore"}, "on_error='ignore'"),
        (Listing, good, {}, "`items` has type list[str]"),
        (Prepared, good, {}, "its fields alone"),
        (dict, good, {}, "a class with typed fields"),
        (Number, good, {"reads": ["price"]}, "no event has a field `price`"),
    ],
)
def test_a_mistake_is_named(state: Any, function: Any, more: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError) as error:
        Projection(name="v", category=orders, key={"k": "subject"}, fold=python_fold(state, function, **more))
    assert what in error.value.what
    assert error.value.do


@pytest.mark.parametrize(
    "change",
    [
        {"columns": {"n": agg.count()}},
        {"window": tumbling(dt.timedelta(1))},
        {"key": ()},
        {"key": {"status": "subject"}},
    ],
    ids=str,
)
def test_a_fold_takes_no_columns_no_window_and_a_key(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Projection(
            **{"name": "v", "category": orders, "key": {"k": "subject"}, "fold": python_fold(Order, advance), **change}
        )


# -- its identity

MODULE = '''
import enum

from flows import Projection, State, python_fold
from schemas import Category, Event

class Sold(Event):
    amount: float

class Total(State):
    sum: float = 0.0

RATE = 2.0
TIMES = 3
PLUS = 1

class Sign(enum.Enum):
    POSITIVE = PLUS

def rated(amount, times=TIMES):
    return amount * RATE * times * Sign.POSITIVE.value

def add(total, event):
    """Says nothing."""
    if total is None:
        total = Total()
    total.sum += rated(event.amount)
    return total

view = Projection(name="totals", category=Category("sales", [Sold]), key={"who": "subject"}, fold=python_fold(Total, add))
'''


def fingerprint(tmp_path: Path, text: str) -> str:
    """Of the view in a module of this text, in a file of its own."""
    path = tmp_path / f"module_{len(list(tmp_path.iterdir()))}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("some_module", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"some_module": module}):
        spec.loader.exec_module(module)
    assert isinstance(module.view, Projection)
    return module.view.fingerprint


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"""Says nothing."""', '"""Says something."""', True),
        ("    return total", "\n    # at last\n    return   (total)", True),
        ("def add(total, event):", "def add(total: Total | None, event: object) -> Total | None:", True),
        ("from flows import", "import math\nfrom flows import", True),
        ("total.sum += rated(event.amount)", "total.sum -= rated(event.amount)", False),
        ("RATE = 2.0", "RATE = 2.5", False),
        ("RATE = 2.0", "RATE = 2", False),
        ("amount * RATE", "RATE * amount", False),
        ("TIMES = 3", "TIMES = 4", False),
        ("PLUS = 1", "PLUS = 2", False),
        ("sum: float = 0.0", "sum: float = -0.0", False),
        ("sum: float", "sum: float | None", False),
        ("python_fold(Total, add)", 'python_fold(Total, add, on_error="stop")', False),
    ],
)
def test_another_meaning_is_another_view(tmp_path: Path, old: str, new: str, same: bool) -> None:
    assert MODULE.count(old) == 1
    assert (fingerprint(tmp_path, MODULE) == fingerprint(tmp_path, MODULE.replace(old, new))) == same


def test_the_fingerprint_is_of_our_own_text(tmp_path: Path) -> None:
    """Recorded, on 3.11 and 3.12: another Python must not change it, or every view would ask to be rebuilt."""
    assert fingerprint(tmp_path, MODULE) == "6402d21520a861a4ced5173f0ef83326"
    assert order_states.fingerprint == "b703eacd7931606f6624f7ac4ff24b0a"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            'f"{x:>{w}}"',
            "(JoinedStr values=[(FormattedValue conversion=-1 format_spec=(JoinedStr values=[(Constant str '>') (FormattedValue "
            "conversion=-1 value=(Name id='w'))]) value=(Name id='x'))])",
        ),
        ("x.y or 'é'", "(BoolOp op=(Or) values=[(Attribute attr='y' value=(Name id='x')) (Constant str '\\xe9')])"),
        ("u'a' + 1", "(BinOp left=(Constant str 'a') op=(Add) right=(Constant int 1))"),
    ],
)
def test_code_has_a_canonical_text(code: str, text: str) -> None:
    assert code_text(ast.parse(code, mode="eval").body) == text


# -- what becomes of events


def event(kind: type[Event], subject: str | None, minute: int, **data: Any) -> Event:
    return kind(subject=subject, time=START + dt.timedelta(minutes=minute), **data)


EVENTS = [
    event(OrderPlaced, "a", 0, items="x"),
    event(OrderPaid, "a", 1, amount=1.5),
    event(OrderPaid, "b", 2, amount=1.0),  # refused: nobody placed it
    event(OrderPlaced, "c", 3, items="é"),
    event(OrderPaid, "c", 4, amount=-5.0),  # refused after the state was changed
    event(OrderPaid, "c", 5, amount=2.0),
    event(OrderPlaced, "d", 6, items="y"),
    event(OrderForgotten, "d", 7),
]


def folded(place: Path, view: Projection, *parts: list[Event], **log: Any) -> View:
    """The view after a run for each part of the events."""
    for part in parts:
        with open_log(str(place / "log")) as opened:
            opened.append(view.category, part, **log)
        run([view], log=str(place / "log"), store=place / "store", until="end", pace=Pace(allow_dead_letters=True))
    return open_view(place / "store", view.name)


def rows(view: View) -> dict[str, dict[str, Any]]:
    return {row.pop("order"): row for row in view.scan().collect().to_dicts()}


def counts(view: View) -> dict[str, int]:
    partitions = view.manifest.facts["log"][orders.name]["partitions"]
    return {name: total for name in partitions[0]["counts"] if (total := sum(p["counts"][name] for p in partitions))}


def test_events_take_their_entities_on(tmp_path: Path) -> None:
    view = folded(tmp_path, order_states, EVENTS)
    since = {name: START + dt.timedelta(minutes=minute) for name, minute in (("a", 0), ("c", 3))}
    assert rows(view) == {
        "a": {"items": "x", "status": "paid", "paid": 1.5, "since": since["a"]},
        "c": {"items": "é", "status": "paid", "paid": 2.0, "since": since["c"]},
    }
    assert counts(view) == {"read": 8, "folded": 6, "dead_letters": 2}
    letters = view.dead_letters().collect().sort("reason")
    assert letters["reason"].to_list() == [
        "ArithmeticError: less than nothing was paid",
        "LookupError: nobody placed b",
    ]
    assert b'"amount":-5.0' in letters["value"][0]


def test_a_row_goes_when_its_entity_goes_and_comes_back_with_it(tmp_path: Path) -> None:
    parts = [EVENTS, [event(OrderForgotten, "a", 10)], [event(OrderPlaced, "d", 11, items="again")]]
    assert rows(folded(tmp_path, order_states, *parts[:2])).keys() == {"c"}
    view = folded(tmp_path, order_states, parts[2])
    assert rows(view).keys() == {"c", "d"}
    at_once = folded(tmp_path / "at_once", order_states, [one for part in parts for one in part])
    tables = (view.manifest.tables, at_once.manifest.tables)
    assert {name: table.digest for name, table in tables[0].items()} == {
        name: table.digest for name, table in tables[1].items()
    }


def test_a_refused_event_leaves_no_trace_but_its_dead_letter(tmp_path: Path) -> None:
    """Of an entity that no event has made nothing is kept: another partition may have it."""
    view = folded(tmp_path, order_states, EVENTS[2:3])
    assert counts(view) == {"read": 1, "dead_letters": 1}
    assert {name: table.rows for name, table in view.manifest.tables.items()} == {
        "rows": 0,
        "partials": 0,
        "late": 0,
        "dead_letters": 1,
    }


def test_entities_that_come_after_a_refused_one_are_numbered_as_if_it_had_not_been(tmp_path: Path) -> None:
    """The fold has a number for it, the view has not: both know the others all the same, now and in the next run."""
    placed = [event(OrderPlaced, f"s{number}", number, items="x") for number in range(20)]
    paid = [event(OrderPaid, f"s{number}", 30 + number, amount=1.0) for number in range(20)]
    view = folded(tmp_path, order_states, [*EVENTS[2:3], *placed], paid)
    assert {order: row["status"] for order, row in rows(view).items()} == {f"s{number}": "paid" for number in range(20)}


def test_a_fold_that_must_not_fail_stops_and_names_the_place(tmp_path: Path) -> None:
    strict = Projection(
        name="strict", category=orders, key={"order": "subject"}, fold=python_fold(Order, advance, on_error="stop")
    )
    with pytest.raises(DataError) as error:
        folded(tmp_path, strict, EVENTS[:3])
    assert "LookupError: nobody placed b" in error.value.what
    assert re.fullmatch(r"orders/\d at offset \d", error.value.where or "")
    assert "dead_letter" in (error.value.do or "")
    assert isinstance(error.value.__cause__, LookupError)


def test_an_entity_in_two_partitions_is_an_error(tmp_path: Path) -> None:
    view = Projection(name="by_items", category=orders, key={"what": "items"}, fold=python_fold(Order, advance))
    same = [event(OrderPlaced, f"s{number}", number, items="same") for number in range(20)]
    with pytest.raises(DataError, match="in several partitions") as error:
        folded(tmp_path, view, same)
    assert "what='same' in orders/0 and orders/1" in (error.value.where or "")
    assert "subject" in (error.value.do or "")


def test_also_one_that_was_deleted_in_the_other(tmp_path: Path) -> None:
    """Else it would depend on the moment of a commit whether it is an error."""
    view = Projection(name="by_type", category=orders, key={"k": pl.lit("all")}, fold=python_fold(Order, advance))
    events = [event(OrderPlaced, "p", 0, items="x"), event(OrderForgotten, "p", 1)]
    folded(tmp_path, view, events)
    others = [event(OrderPlaced, f"s{number}", number, items="same") for number in range(20)]
    with pytest.raises(DataError, match="in several partitions"):
        folded(tmp_path, view, others)


class Anything(Event):
    said: str


class Answer(State):
    number: int = 0
    share: float = 0.0
    text: str = ""
    flag: bool = False
    day: dt.date = dt.date(1970, 1, 1)
    at: dt.datetime = START
    maybe: int | None = None


anything = Category("anything", [Anything])
WRONG: types.MappingProxyType[str, tuple[str, Any]] = types.MappingProxyType(
    {
        "a bool for an int": ("number", True),
        "too large": ("number", 2**63),
        "a float for an int": ("number", 1.0),
        "a text for a float": ("share", "1"),
        "an int too large for a float": ("share", 10**400),
        "half a character": ("text", "\ud800"),
        "None": ("text", None),
        "an int for a bool": ("flag", 1),
        "an instant for a day": ("day", START),
        "a day for an instant": ("at", dt.date(2020, 1, 1)),
        "naive": ("at", dt.datetime(2020, 1, 1)),
        "a text for an int or None": ("maybe", "1"),
        "no field": ("more", 1),
    }
)
RIGHT: types.MappingProxyType[str, tuple[str, Any]] = types.MappingProxyType(
    {
        "least": ("number", -(2**63)),
        "an int for a float": ("share", 3),
        "minus zero": ("share", -0.0),
        "infinite": ("share", float("inf")),
        "elsewhere": ("at", dt.datetime(2020, 1, 1, 5, tzinfo=dt.timezone(dt.timedelta(hours=5), "there"))),
        "first": ("at", dt.datetime(1, 1, 1, tzinfo=dt.UTC)),
        "last": ("day", dt.date(9999, 12, 31)),
        "nothing": ("maybe", None),
        "something": ("maybe", 0),
        "a text": ("text", "é\x00\U0001f600"),
    }
)


def answered(answer: Answer | None, event: Anything) -> Answer | None:
    if event.said == "another thing":
        return 7  # type: ignore[return-value]
    answer = Answer(maybe=5)
    name, value = WRONG[event.said] if event.said in WRONG else RIGHT[event.said]
    setattr(answer, name, value)
    return answer


def test_what_a_fold_returns_is_checked_and_kept_as_it_is(tmp_path: Path) -> None:
    view = Projection(name="answers", category=anything, key={"k": "subject"}, fold=python_fold(Answer, answered))
    said = [*WRONG, *RIGHT, "another thing"]
    events = [event(Anything, word, minute, said=word) for minute, word in enumerate(said)]
    found = folded(tmp_path, view, events)
    kept = {row["k"]: row for row in found.scan().collect().to_dicts()}
    assert kept.keys() == RIGHT.keys()
    for word, (name, value) in RIGHT.items():
        want = float(value) if name == "share" else value
        assert repr(kept[word][name]) == repr(want) or kept[word][name] == want != 0.0, word
    reasons = found.dead_letters().collect()["reason"].to_list()
    assert len(reasons) == len(WRONG) + 1
    assert "TypeError: field `number` became a bool, not int64" in reasons
    assert "OverflowError: field `number` became an int beyond 64 bits, not int64" in reasons
    assert "ValueError: field `at` became a datetime without a time zone, not timestamp[us, tz=UTC]" in reasons
    assert "TypeError: the fold returned a int, not Answer or None" in reasons
    assert "TypeError: the state was given attributes that are no fields of it: more" in reasons


def reaching_out(state: Number | None, event: Any) -> Number:
    try:
        with click.open_file(event.items) as file:
            return Number(len(file.read()))
    except Exception:
        return Number(0)


def test_a_file_is_refused_whoever_opens_it_and_whoever_swallows_that(tmp_path: Path) -> None:
    view = Projection(
        name="reaching", category=orders, key={"order": "subject"}, fold=python_fold(Number, reaching_out)
    )
    there = tmp_path / "there"
    there.write_text("text")
    with pytest.raises(ImpureFold, match="reach out of the process"):
        folded(tmp_path, view, [event(OrderPlaced, "a", 0, items=str(there))])
    assert reaching_out(None, OrderPlaced(subject="a", time=START, items=str(there))) == Number(4), (
        "nothing stays behind"
    )


def addressed(state: Number | None, event: Any) -> Number:
    raise ValueError(repr(object()))


def test_a_reason_is_the_same_in_every_run(tmp_path: Path) -> None:
    view = Projection(name="addressed", category=orders, key={"k": "subject"}, fold=python_fold(Number, addressed))
    (reason,) = folded(tmp_path, view, EVENTS[:1]).dead_letters().collect()["reason"].to_list()
    assert reason == "ValueError: <object object at 0x…>"
