"""Options that several commands share, in one place and with one wording."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options(*names: str) -> Decorator:
    """The shared options of these names, in this order."""
    every = {
        "log": click.option(
            "--log",
            metavar="URL",
            envvar="REFOLD_LOG",
            default="data/log",
            show_default=True,
            help="redpanda://host:9092, or the directory of an embedded log.",
        ),
        "store": click.option(
            "--store",
            metavar="DIR",
            envvar="REFOLD_STORE",
            default="data/store",
            show_default=True,
            help="Directory of the views.",
        ),
        "flows": click.option(
            "--flows",
            "modules",
            metavar="MODULE",
            multiple=True,
            help="Module with projections of your own, beside the package `flows` (may be repeated; REFOLD_FLOWS).",
        ),
        "json": click.option("--json", "as_json", is_flag=True, help="Print facts as JSON."),
        "workers": click.option(
            "--workers",
            type=click.IntRange(1, 64),
            show_default="one a core, at most 4",
            help="Worker threads of this process.",
        ),
        "quiet": click.option("--quiet", is_flag=True, help="No progress on standard error."),
        "debug": click.option(
            "--debug", is_flag=True, callback=_debug, expose_value=False, help="Tracebacks for errors."
        ),
        "origin": click.option(
            "--origin",
            type=click.Choice(["earliest"]),
            help="Begin with what is left of a log whose start is gone; the view is then hopeful.",
        ),
        "dead": click.option(
            "--allow-dead-letters", is_flag=True, help="Go on even if most records of a category cannot be decoded."
        ),
        "interval": click.option(
            "--commit-interval",
            type=click.FloatRange(min=0.0),
            default=1.0,
            show_default=True,
            help="Seconds between commits.",
        ),
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = every[name](command)
        return command

    return decorate


def _debug(_: click.Context, __: click.Parameter, value: bool) -> None:
    if value:
        os.environ["REFOLD_DEBUG"] = "1"
