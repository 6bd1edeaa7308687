"""What must be true of a run of the benchmark, whatever the rates: totals are those of the input, digests agree."""

from __future__ import annotations

from typing import Any

from benchmarks.rows import SAME_DIGEST

RELATIVE_ERROR_MAX = 1e-9

Rows = list[dict[str, Any]]
Check = dict[str, Any]


def checks(rows: Rows, events: int, amounts: dict[str, float]) -> list[Check]:
    """``[{"kind": "total" or "digest", "what": in words, "ok": bool}, ...]``. ``amounts``: the sum of each input."""
    exact = [row for row in rows if row["is_exact"]]
    found = [_total(row, events, amounts.get(row["input"])) for row in exact]
    for names in SAME_DIGEST:
        digests = {row["row"]: row["digest"] for row in rows if row["row"] in names}
        if len(digests) > 1:
            same = len(set(digests.values())) == 1
            found.append({"kind": "digest", "what": f"one digest from {', '.join(digests)}", "ok": same})
    return found


def _total(row: dict[str, Any], events: int, amount: float | None) -> Check:
    """Rows of an input must have all of it; the others say themselves how much there was."""
    expected = events if row["input"] else row["events"]
    what, ok = f"{row['row']}: {row['counted']:,} of {expected:,} events", row["counted"] == row["events"] == expected
    if amount is not None and row["amount"] is not None:
        what += f", amount {row['amount']:,.2f} of {amount:,.2f}"
        ok = ok and abs(row["amount"] / amount - 1) < RELATIVE_ERROR_MAX
    return {"kind": "total", "what": what, "ok": ok}
