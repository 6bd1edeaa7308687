"""What several commands share: options with one wording, views by name, JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from connectors.points import view_name

if TYPE_CHECKING:
    from flows.projection import Projection

__all__ = ["options", "picked", "print_json", "view_name"]

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
        "archive": click.option(
            "--archive",
            metavar="DIR",
            callback=_archive,
            expose_value=False,
            help="Read history from an archive (see `refold archive`), and from the log what comes after (REFOLD_ARCHIVE).",
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
            help="Seconds between commits, at least.  [default: 1; 5 with --until, and then more seldom]",
        ),
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = every[name](command)
        return command

    return decorate


def _archive(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value:
        os.environ["REFOLD_ARCHIVE"] = value  # where a log is opened by its URL: also in the processes of a cluster


def _debug(_: click.Context, __: click.Parameter, value: bool) -> None:
    if value:
        os.environ["REFOLD_DEBUG"] = "1"


def picked(names: tuple[str, ...], modules: tuple[str, ...]) -> list[Projection]:
    from flows.discover import pick, projections

    return pick(names, projections(modules))


def print_json(facts: Any) -> None:
    click.echo(json.dumps(facts, indent=2, default=str))
