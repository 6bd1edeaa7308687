"""A guess at the envelope of records that nobody has described: where type, time, subject, id and data of an event are.

A guess says how sure it is: the share of the records looked at that would be events under it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flows.naming import class_name, quoted
from flows.shapes import Member, Path
from schemas.envelope import RECORD_KEY, RECORD_TIME, Envelope, cloudevents, constant, plain

TYPE_NAMES = ("type", "event_type", "eventtype", "event", "kind", "name", "action", "evt", "event_name")
TIME_NAMES = (
    "time",
    "timestamp",
    "ts",
    "at",
    "event_time",
    "eventtime",
    "occurred_at",
    "occurredat",
    "created_at",
    "createdat",
    "when",
    "date",
)
ID_NAMES = ("id", "event_id", "eventid", "uuid", "guid", "message_id")
DATA_NAMES = ("data", "payload", "body", "attributes", "properties", "fields")
TYPES_MAX = 60
MOST = 0.95


@dataclass(frozen=True, slots=True)
class Guess:
    """``said``: how one would write the envelope in Python. ``sure``: from 0 to 1."""

    envelope: Envelope
    said: str
    sure: float
    type_path: Path | None
    data: Path


def guess_envelope(found: Mapping[Path, Member], records: int, keys: int, category: str) -> Guess:
    """``found``: members of ``records`` records, of which ``keys`` have a key."""
    if (
        all(found.get((name,), Member()).valued >= MOST * records for name in ("specversion", "type", "time"))
        and records
    ):
        sure = min(found[("type",)].share("text"), found[("time",)].share("instant", "milliseconds"))
        return Guess(cloudevents(), "cloudevents()", sure, ("type",), ("data",))
    time, type_, id_ = _time(found, records), _type(found, records), _id(found, records)
    data = _data(found, records, [path for path in (time, type_, id_) if path])
    name = class_name(category)
    subject = None if keys >= MOST * records else _subject(found, records)
    said = {
        "type": f"constant({quoted(name)})" if type_ is None else _quoted(type_),
        "time": "RECORD_TIME" if time is None else _quoted(time),
        "subject": "RECORD_KEY" if subject is None else _quoted(subject),
        **({"id": _quoted(id_)} if id_ else {}),
        **({"data": _quoted(data)} if data else {}),
    }
    envelope = plain(
        type=constant(name) if type_ is None else ".".join(type_),
        time=RECORD_TIME if time is None else ".".join(time),
        subject=RECORD_KEY if subject is None else ".".join(subject),
        id=".".join(id_) if id_ else None,
        data=".".join(data),
    )
    shares = [1.0]
    shares += [found[type_].valued * found[type_].share("text", "instant", "date") / records] if type_ else []
    shares += [found[time].valued * found[time].share("instant", "milliseconds") / records] if time else []
    written = ", ".join(f"{part}={text}" for part, text in said.items())
    return Guess(envelope, f"plain({written})", min(shares), type_, data)


def _quoted(path: Path | None) -> str:
    return quoted(".".join(path or ()))


def _pick(found: Mapping[Path, Member], names: Sequence[str], fits: Callable[[Member], bool]) -> Path | None:
    """Of the members that fit: the one with the best name, the outermost first."""
    fitting = [path for path, member in found.items() if fits(member) and all("." not in name for name in path)]
    ranked = [(_rank_of(path, names), len(path), at, path) for at, path in enumerate(fitting)]
    return min(ranked, default=(0, 0, 0, None))[3]


def _rank(name: str, names: Sequence[str]) -> int:
    plain_name = name.lower().replace("-", "_").lstrip("_@$")
    if plain_name in names:
        return names.index(plain_name)
    ends = [at for at, known in enumerate(names) if len(known) > 2 and plain_name.endswith(known)]
    return len(names) + ends[0] if ends else 10 * len(names)


def _rank_of(path: Path, names: Sequence[str]) -> int:
    """By its own name, or else by that of the object that it is in: ``evt.what``."""
    above = [5 * len(names) + _rank(name, names) for name in path[:-1] if _rank(name, names) < len(names)]
    return min(_rank(path[-1], names), *above, 10 * len(names))


def _named(path: Path | None, names: Sequence[str]) -> Path | None:
    return path if path is not None and _rank_of(path, names) < 10 * len(names) else None


def _time(found: Mapping[Path, Member], records: int) -> Path | None:
    return _pick(
        found, TIME_NAMES, lambda one: one.valued >= MOST * records and one.share("instant", "milliseconds") >= MOST
    )


def _type(found: Mapping[Path, Member], records: int) -> Path | None:
    def fits(one: Member) -> bool:
        few = 0 < len(one.values) <= min(TYPES_MAX, max(records // 10, 1))
        return one.valued >= MOST * records and one.share("text") >= MOST and few

    return _named(_pick(found, TYPE_NAMES, fits), TYPE_NAMES)


def _id(found: Mapping[Path, Member], records: int) -> Path | None:
    def fits(one: Member) -> bool:
        differ = one.has_many_values or len(one.values) >= 0.9 * one.valued
        return one.valued >= MOST * records and one.share("text") >= MOST and differ

    path = _pick(found, ID_NAMES, fits)
    return path if path is not None and _rank_of(path, ID_NAMES) < len(ID_NAMES) else None


def _subject(found: Mapping[Path, Member], records: int) -> Path | None:
    def fits(one: Member) -> bool:
        return one.valued >= MOST * records and one.share("text") >= MOST and len(one.values) > 1

    names = ("subject", "entity", "entity_id", "aggregate_id", "key", "_id", "id", "ref")
    return _named(_pick(found, names, fits), names)


def _data(found: Mapping[Path, Member], records: int, taken: Sequence[Path]) -> Path:
    """The object that holds the fields: one of the usual names; else the record itself."""
    objects = [path for path, one in found.items() if len(path) == 1 and one.kinds["object"] >= MOST * records]
    named = [path for path in objects if path[0].lower() in DATA_NAMES and path not in taken]
    return named[0] if named else ()
