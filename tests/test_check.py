"""``refold check``: everything that is wrong is found, whatever is wrong before it, and each thing at the line where it was written."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pipelines import Said, finish, here
from pipelines import command as command_line

HEAD = """\
from __future__ import annotations
import datetime as dt
import polars as pl
from flows import Projection, State, agg, in_order, interval_join, python_fold, session, stream, tumbling
from schemas import Category, Event
"""
THINGS = """
class Came(Event):
    place: str
    size: float | None = None
class Went(Event):
    where: str | None = None
    good: bool | None = None
things = Category("things", [Came, Went])
"""
NUMBERS = itertools.count()


@dataclass
class Desk:
    """A directory with modules in it, whose names nobody had before."""

    place: Path

    def write(self, text: str, name: str | None = None, head: str = HEAD + THINGS) -> str:
        name = name or f"checked_{next(NUMBERS)}"
        (self.place / f"{name}.py").write_text(head + dedent(text))
        return name

    def line(self, name: str, words: str) -> int:
        """The one line of a module that begins with these words, or, if none does, holds them."""
        lines = (self.place / f"{name}.py").read_text().splitlines()
        begins = [number for number, line in enumerate(lines, 1) if line.startswith(words)]
        (found,) = begins or [number for number, line in enumerate(lines, 1) if words in line]
        return found

    def check(self, *modules: str) -> tuple[int, list[dict[str, Any]]]:
        flags = [flag for module in modules for flag in ("--flows", module)]
        said = here("check", "--json", *flags)
        facts = json.loads(said.out)
        assert (said.code, said.err) == (0 if facts["ok"] else 2, "")
        assert facts["ok"] == all(finding["level"] == "warning" for finding in facts["findings"])
        return said.code, facts["findings"]

    def text(self, *modules: str) -> Said:
        return here("check", *(flag for module in modules for flag in ("--flows", module)))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("REFOLD_FLOWS", raising=False)
    before = set(sys.modules)
    yield Desk(tmp_path)
    for name in set(sys.modules) - before:
        if name.startswith("checked_"):
            del sys.modules[name]


def test_what_comes_with_refold_is_well_defined(desk: Desk) -> None:
    said = desk.text()
    assert (said.code, said.out) == (0, "3 projections in 1 module: 0 errors, 0 warnings\n")


def test_good_modules_are_good(desk: Desk) -> None:
    name = desk.write("""
        one = Projection(name="one", category=things, key=["place"], columns={"n": agg.count()})
        renamed = one
        two = one.over(things)
        two.name = "two"
    """)
    again = desk.write(f"from {name} import one, two, things\n", head="")
    assert desk.check(name, again) == (0, [])
    assert "5 projections in 3 modules" in desk.text(name, again).out


# -- errors

BAD: dict[str, tuple[str, str, str]] = {
    # words of the line that is named; what is said; what is to be done
    'bad = Projection(name="bad", category=things, key=["plaice"], columns={"n": agg.count()})': (
        "bad = Projection(", "no event has a field `plaice`", "did you mean `place`?",
    ),
    'bad = Projection(\n    name="bad", category=things, columns={\n        "n": agg.quantile("size", 7),\n    },\n)': (
        "agg.quantile", "the 7 quantile", "give a number from 0 to 1",
    ),
    'bad = Projection(name="bad", category=things, key=["place"], columns={"n": agg.sum(pl.col("size").cum_sum())})': (
        "bad = Projection(", "`CumSum`", "allowed are abs",
    ),
    'bad = Projection(name="bad", category=things, window=tumbling(dt.timedelta(0)), columns={"n": agg.count()})': (
        "bad = Projection(", "a window of size 0:00:00", "give a positive timedelta",
    ),
    'bad = Projection(name="Bad", category=things, key=["place"], columns={"n": agg.count()})': (
        "bad = Projection(", "the name `Bad` version 1", "lower-case",
    ),
    "def make(n):\n    return Projection(name=n, category=things, columns={})\nbad = make('bad')": (
        "    return Projection(name=n", "no columns", "give at least one",
    ),
    "class Odd(Event):\n    parts: list[str]": ("class Odd(Event)", "field `parts` has type", "use one of str"),
    "class S(State):\n    n: int\ndef step(state, event):\n    return S(dt.datetime.now().year)\n"
    'bad = Projection(name="bad", category=things, key=["place"], fold=python_fold(S, step))': (
        "bad = Projection(", "now", "",
    ),
    "import polaris": ("import polaris", "ModuleNotFoundError: No module named 'polaris'", "install it, or correct the name"),
    'bad = pl.col("size").strip_nonsense()': ("bad = pl.col(", "AttributeError", "correct the module"),
    "x = {}\nx['a']": ("x['a']", "KeyError: 'a'", "correct the module"),
    "import sys\nsys.exit(3)": ("sys.exit(3)", "SystemExit: 3", "correct the module"),
    "def broken(:": ("def broken(:", "SyntaxError: invalid syntax", "correct the module"),
    "if True:\nx = 1": ("x = 1", "IndentationError: expected an indented block", "correct the module"),
}  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=lambda text: text.splitlines()[-1][:40])
def test_an_error_is_told_with_its_line_and_what_to_do(desk: Desk, text: str) -> None:
    words, what, do = BAD[text]
    name = desk.write(text)
    code, (finding,) = desk.check(name)
    assert code == 2
    assert (finding["file"], finding["line"]) == (f"{name}.py", desk.line(name, words))
    assert what in finding["what"]
    assert do in (finding["do"] or "")
    said = desk.text(name).out
    assert f"{name}.py:{finding['line']}: error: " in said
    assert said.endswith(": 1 error, 0 warnings\n")


def test_everything_that_is_wrong_is_told_at_once(desk: Desk) -> None:
    """Of one module all bad projections, and the modules after it; not what fails only for want of what failed."""
    first = desk.write("""
        one = Projection(name="one", category=things, key=["plaice"], columns={"n": agg.count()})
        two = Projection(name="two", category=things, key=["place"], columns={"n": agg.sum("sise")})
        good = Projection(name="good", category=things, key=["place"], columns={"n": agg.count()})
        both = [one, two]
        for each in both:
            print(each.title)
        last = Projection(name="last", version=0, category=things, key=["place"], columns={"n": agg.count()})
    """)
    second = desk.write("x = 1 +")
    third = desk.write('three = Projection(name="three", category=things, key=[], columns={"n": agg.count()})')
    code, findings = desk.check(first, second, third)
    assert code == 2
    places = [(first, "one = "), (first, "two = "), (first, "last = "), (second, "x = 1 +"), (third, "three = ")]
    assert [(f["file"], f["line"]) for f in findings] == [(f"{m}.py", desk.line(m, words)) for m, words in places]
    assert [f["where"] for f in findings[:3]] == [f"projection {title}" for title in ("one@1", "two@1", "last@0")]


@pytest.mark.parametrize("text", ['broken = Category("broken", [])', "broken = (", "broken = 1 / 0", "return broken"])
def test_one_error_met_from_two_modules_is_told_once(desk: Desk, text: str) -> None:
    bad = desk.write(text)
    users = [desk.write(f"from {bad} import broken\n", head="") for _ in range(2)]
    code, (finding,) = desk.check(*users, bad)
    assert (code, finding["file"], finding["line"]) == (2, f"{bad}.py", desk.line(bad, text))


def test_a_module_that_is_not_there(desk: Desk) -> None:
    code, (finding,) = desk.check("checked_nowhere")
    assert (code, finding["file"]) == (2, None)
    assert (finding["what"], finding["do"]) == (
        "there is no module `checked_nowhere`",
        "check --flows and REFOLD_FLOWS",
    )


def test_modules_of_the_environment_are_checked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_FLOWS", desk.write('c = Category("c", [])'))
    assert desk.check()[0] == 2


def test_two_projections_of_one_name(desk: Desk) -> None:
    text = 'mine = Projection(name="mine", category=things, key=["place"], columns={"n": agg.count()})'
    first, second = desk.write(text), desk.write(text)
    _, findings = desk.check(first, second)
    twice = findings[0]
    assert twice["what"] == "two projections are called mine@1"
    assert (twice["file"], twice["why"]) == (f"{second}.py", f"the other is {first}.py:{desk.line(first, 'mine = ')}")


def test_two_declarations_of_one_category(desk: Desk) -> None:
    first = desk.write('a = Projection(name="a", category=things, key=["place"], columns={"n": agg.count()})')
    second = desk.write('b = Projection(name="b", category=things, key=["place"], columns={"n": agg.count()})')
    code, (finding,) = desk.check(first, second)
    assert (code, finding["what"], finding["where"]) == (2, "category `things` is declared twice", "projection b@1")


# -- warnings

OTHERS = """
class Bid(Event):
    place: str
others = Category("others", [Bid])
def joined(lower, upper):
    right = stream(others, prefix="o_")
    return interval_join(stream(things, Came), right, on={"place": "place"}, lower=lower, upper=upper)
hour = dt.timedelta(hours=1)
"""
RISKY: dict[str, list[str]] = {
    'source=joined(None, hour), select=["place"]': ["the events of `others` are kept for ever"],
    'source=joined("event_time", hour), select=["place"]': ["the events of `others` are kept for ever"],
    'source=joined(-hour, None), select=["place"]': ["the events of `things` are kept for ever"],
    'source=joined(None, None), select=["place"]': ["the events of `things` are", "the events of `others` are"],
    'source=joined(-hour, hour), select=["place"]': [],
    'source=joined(-hour, "event_time"), select=["place"]': [],
    'category=things, events=[Came], key=["size"], columns={"n": agg.count()}': ["the key column `size` is double"],
    'category=things, events=[Came], key={"k": pl.col("size").round(0).cast(pl.Int64, strict=False)}, '
    'columns={"n": agg.count()}': [],
    'category=things, events=[Came], key=["place"], columns={"n": agg.count_distinct("size")}': [
        "the column `n` keeps every different value for ever"
    ],
    'category=things, events=[Came], key=["place"], window=tumbling(hour), columns={"n": agg.count_distinct("size")}': [],
    'category=things, events=[Went], key=["where"], columns={"n": agg.count_distinct("good")}': [],
    'category=things, events=[Came], key=["place"], columns={"n": agg.collect("size", limit=3)}': [],
    'category=things, key={"who": "subject"}, columns={"n": agg.sum("size")}': ["no field of event type Went is read"],
    'category=things, key={"who": "subject"}, derive={"s": pl.col("size") * 2}, columns={"n": agg.sum("s")}': [
        "no field of event type Went is read"
    ],
    'category=things, key={"who": "subject"}, columns={"n": agg.sum("size"), "m": agg.count()}': [],
    'category=things, key={"who": "subject"}, columns={"n": agg.sum("size"), "m": agg.last("event_type")}': [],
    'category=things, key={"who": "subject"}, derive={"t": pl.col("event_time")}, '
    'columns={"n": agg.sum("size"), "m": agg.last("t")}': [],
    'category=things, key={"who": "subject"}, columns={"n": agg.sum("size"), "m": agg.last("good")}': [],
    'category=things, events=[Came], key={"who": "subject"}, columns={"n": agg.sum("size")}': [],
}


@pytest.mark.parametrize("definition", RISKY)
def test_what_is_lawful_and_may_hurt_is_a_warning(desk: Desk, definition: str) -> None:
    name = desk.write(f'{OTHERS}\nrisky = Projection(name="risky", {definition})\n')
    code, findings = desk.check(name)
    assert code == 0
    assert len(findings) == len(RISKY[definition])
    for finding, words in zip(findings, RISKY[definition], strict=True):
        assert words in finding["what"]
        assert finding["do"]
        assert (finding["level"], finding["where"]) == ("warning", "projection risky@1")
        assert (finding["file"], finding["line"]) == (f"{name}.py", desk.line(name, "risky = "))
    said = here("explain", "risky", "--flows", name)
    assert said.out.count("WARNING") == len(findings), "explain says the same"


def test_two_versions_of_one_definition(desk: Desk) -> None:
    name = desk.write("""
        old = Projection(name="kept", version=1, category=things, key=["place"], columns={"n": agg.count()})
        new = Projection(name="kept", version=2, category=things, key=["place"], columns={"n": agg.count()})
        other = Projection(name="kept", version=3, category=things, key=["place"], columns={"m": agg.count()})
        same = Projection(name="same", version=2, category=things, key=["place"], columns={"n": agg.count()})
    """)
    code, (finding,) = desk.check(name)
    assert (code, finding["level"], finding["line"]) == (0, "warning", desk.line(name, "new = "))
    assert "kept@1 and kept@2 have one definition" in finding["what"]


def test_a_module_without_projections(desk: Desk) -> None:
    name = desk.write("")
    code, (finding,) = desk.check(name)
    assert (code, finding["level"], finding["what"]) == (0, "warning", f"module `{name}` holds no projection")


def test_what_a_module_prints_is_no_part_of_the_answer(desk: Desk) -> None:
    name = desk.write("""
        print("hello")
        loud = Projection(name="loud", category=things, key=["place"], columns={"n": agg.count()})
    """)
    said = here("check", "--json", "--flows", name)
    assert (json.loads(said.out)["ok"], said.err) == (True, "hello\n")


# -- as a process


def test_the_command_ends_with_2_and_prints_no_traceback(desk: Desk) -> None:
    name = desk.write("""
        class Bad(Event):
            parts: set[int]
        lost = Projection(name="lost", category=Category("c", [Bad]), key=["x"], columns={"n": agg.count()})
    """)
    said = finish(command_line("check", "--flows", name), cwd=desk.place, PYTHONPATH=str(Path(__file__).parent.parent))
    assert said.code == 2, said.err
    assert said.err == ""
    assert said.out.splitlines()[0].startswith(
        f"{name}.py:{desk.line(name, 'class Bad')}: error: event type Bad: field `parts`"
    )
    assert "Traceback" not in said.out
    assert said.out.endswith("3 projections in 2 modules: 1 error, 0 warnings\n")
