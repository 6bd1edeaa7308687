"""Aggregations: the examples of their documentation, and that each is what it says however its events come."""

from __future__ import annotations

import doctest

import one_row

from flows import agg


def test_the_examples_are_true() -> None:
    shown = {"fold": one_row.fold}
    found = doctest.testmod(agg, extraglobs=shown, optionflags=doctest.ELLIPSIS, verbose=False)
    assert found.failed == 0
    assert found.attempted >= 11
