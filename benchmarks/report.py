"""The table of a run as text, and into docs/numbers.md.

    python -m benchmarks.report [RESULT.json] [--write]

The newest result in build/bench unless one is named. --write puts it between the lines ``<!-- bench -->`` and ``<!-- /bench -->`` of
README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "bench"
NUMBERS = ROOT / "docs/numbers.md"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
MIB = 1 << 20
HEAD = ["", "events/s", "events", "seconds", "CPU s", "peak MiB", "cores free", "fixed work", "fresh GiB", ""]
NEW_VIEW = {"refold": "the broker", "archive-cold": "the embedded log, first time", "archive-warm": "the same, again"}
BESIDE = {"bytewax": "the Bytewax flow", "loop": "the loop", "fetch": "fetching alone"}

Facts = dict[str, Any]


def main() -> int:
    asked = _arguments()
    results = sorted(RESULTS.glob("[0-9]*.json"))
    if not (asked.result or results):
        print(f"error: no result in {RESULTS.relative_to(ROOT)}\n  do      make bench", file=sys.stderr)
        return 2
    text = render(json.loads((asked.result or results[-1]).read_text()))
    if not asked.write:
        print(text)
        return 0
    return _write(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Show the table of a run.")
    parser.add_argument("result", nargs="?", type=Path, metavar="RESULT.json", help="default: the newest")
    parser.add_argument("--write", action="store_true", help="put it into docs/numbers.md")
    return parser.parse_args()


def _write(text: str) -> int:
    page = NUMBERS.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        print(
            f"error: docs/numbers.md has no place for the table\n  do      add the lines {BEGIN} and {END}",
            file=sys.stderr,
        )
        return 2
    between = re.compile(re.escape(BEGIN) + r".*" + re.escape(END), re.S)
    NUMBERS.write_text(between.sub(lambda _: f"{BEGIN}\n{text}\n{END}", page))
    return 0


def render(table: Facts) -> str:
    """Markdown: the circumstances, a line a row, what follows from several rows, what was checked."""
    rows = table["rows"]
    lines = [_cells(row) for row in rows]
    parts = [
        "\n".join(_circumstances(table)),
        _markdown([HEAD, *lines]),
        _ratios(table["ratios"]),
        _new_view(rows),
        _clocks(rows),
    ]
    return "\n\n".join(part for part in [*parts, _checked(table["checks"])] if part)


def line(row: Facts) -> str:
    """One row for a terminal, as soon as it is there."""
    _, rate, events, seconds, cpu, peak, free, work, fresh, rest = _cells(row)
    return (
        f"{row['row']:<14}{rate:>14} events/s {events:>12} in {seconds:>7} s  cpu {cpu:>7} s  peak {peak:>7} MiB  "
        f"free {free} cores  work {work} s  fresh GiB {fresh} s  {rest}"
    )


def _cells(row: Facts) -> list[str]:
    is_rate = row["row"] not in ("start", "get")
    return [
        row["title"],
        f"{row['events_per_second']:,.0f}" if is_rate else "",
        f"{row['events']:,}",
        f"{row['seconds']:.2f}",
        f"{row['cpu_seconds']:.1f}",
        f"{row['peak_bytes'] / MIB:,.0f}",
        f"{row['cores_free']:.1f}",
        f"{row['fixed_work_seconds']:.2f}",
        f"{row['fresh_memory_seconds']:.1f}",
        ", ".join(_remarks(row)),
    ]


def _remarks(row: Facts) -> list[str]:
    found, details = [], row["details"]
    if compiled := row["compiled_kernels"]:
        found.append(f"{compiled} kernels compiled within")
    if "p50_ms" in details:
        found.append("delay p50 {p50_ms:.0f} ms, p99 {p99_ms:.0f} ms, max {max_ms:.0f} ms".format(**details))
    if "get_p50_ms" in details:
        found.append("one takes p50 {get_p50_ms:.1f} ms, p99 {get_p99_ms:.1f} ms".format(**details))
    if lost := row["events"] - row["counted"]:
        found.append(f"{lost / row['events']:.0%} lost as late")
    if "rows" in details:
        found.append(f"{details['rows']:,} rows")
    if details.get("open_rows"):
        found.append(f"{details['open_rows']:,} not final")
    if "commits" in details:
        found.append(f"{details['commits']} commits")
    if row["digest"]:
        found.append(f"digest {row['digest'][:12]}")
    return found


def _circumstances(table: Facts) -> list[str]:
    machine, versions = table["machine"], dict(table["versions"])
    memory = machine["memory_bytes"] / (MIB << 10)
    python = f"Python {versions.pop('python')}"
    return [
        f"{table['date'][:10]}, {table['events']:,} orders, broker {table['broker']}; {machine['cores']} cores ({machine['cpu']}, "
        f"{machine['architecture']}), {memory:.0f} GiB;",
        f"{python}, {', '.join(f'{name} {number}' for name, number in versions.items())}; refold {table['revision']}.",
    ]


def _markdown(lines: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(cells) + " |" for cells in lines]
    rule = "|---|" + "---:|" * (len(HEAD) - 2) + "---|"
    return "\n".join([head, rule, *body])


def ratios(rows: list[Facts]) -> dict[str, Facts]:
    """How many times as fast as the rows beside it refold from the broker was in the same run, by their names: by the clock
    (``seconds``), and an event's CPU time (``cpu``), which the neighbours of the machine disturb less."""
    by_name = {row["row"]: row for row in rows}
    mine = by_name.get("refold")
    beside = [by_name[name] for name in BESIDE if name in by_name]
    return {
        row["row"]: {"seconds": _ratio(mine, row, "seconds"), "cpu": _ratio(mine, row, "cpu_seconds")}
        for row in beside
        if mine
    }


def _ratio(mine: Facts, other: Facts, cost: str) -> float:
    return float((mine["events"] / mine[cost]) / (other["events"] / other[cost]))


def _ratios(found: dict[str, Facts]) -> str:
    parts = [f"{of['seconds']:.2g} times {BESIDE[name]} ({of['cpu']:.2g} times by CPU)" for name, of in found.items()]
    return f"Events a second of refold from the broker: {', '.join(parts)}." if parts else ""


def _new_view(rows: list[Facts]) -> str:
    """Whole processes: spawn to exit, imports, commits and the check of the total included."""
    whole = [row for row in rows if row["row"] in NEW_VIEW]
    if not whole:
        return ""
    found, events = [f"{row['wall_seconds']:.1f} s from {NEW_VIEW[row['row']]}" for row in whole], whole[0]["events"]
    return f"A new view of {events:,} events, from the start of the process to its exit: {', '.join(found)}."


def _clocks(rows: list[Facts]) -> str:
    """The clock of each row, rows with the same one together."""
    clocks: dict[str, list[str]] = {}
    for row in rows:
        clocks.setdefault(row["clock"], []).append(row["title"])
    return "\n".join(f"- {'; '.join(titles)}: the clock runs {clock}." for clock, titles in clocks.items())


def _checked(checks: list[Facts]) -> str:
    failed = [check["what"] for check in checks if not check["ok"]]
    if failed:
        return "FAILED: " + "; ".join(failed)
    totals = sum(check["kind"] == "total" for check in checks)
    others = [check["what"] for check in checks if check["kind"] != "total"]
    return "; ".join([f"Checked: every total is exactly that of its input ({totals} rows)", *others]) + "."


if __name__ == "__main__":
    sys.exit(main())
