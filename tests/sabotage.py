"""Sabotage: break the engine on purpose, one line at a time, and see that some test notices.

    python -m tests.sabotage                 all of them: exit code 1 when one is not noticed
    python -m tests.sabotage late-by-one     one of them (or several, by name)
    python -m tests.sabotage --list          what there is

Each sabotage (tests/sabotages.py) replaces a text that stands exactly once in one file of the product, in a copy of the
tree, and runs a few tests that must fail there. First those tests must pass in a copy that nobody touched. A text that
is no longer there stops everything: move the sabotage along with the code. One whose tests are all skipped was not noticed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.sabotages import SABOTAGES, Sabotage

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".venv", "build", "data", ".git", ".hypothesis", ".pytest_cache", ".mypy_cache", ".ruff_cache", "*.egg-info"
)
SECONDS = 240
"""A sabotage may make a test hang: that is noticed, too."""


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the tree, with the caches of compiled code: what nobody touched need not be compiled again."""
    with tempfile.TemporaryDirectory(prefix="refold-sabotage-") as place:
        yield Path(shutil.copytree(ROOT, Path(place) / "tree", ignore=LEFT_OUT, symlinks=True))


def variables(tree: Path) -> dict[str, str]:
    known = {
        "REFOLD_CACHE": str(ROOT / "data" / "cache"),
        "REFOLD_BROKER_JARS": str(ROOT / "build" / "broker" / "jars"),
        **os.environ,
    }
    # A compiled file is known by its time and size, which a sabotage may leave alike: none is written.
    return {**known, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}


def tests_in(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of pytest in a tree; a code of its own (124) where it hangs."""
    plain = ["-p", "no:cacheprovider", "--hypothesis-seed=0", "--color=no"]
    command = [sys.executable, "-m", "pytest", "-x", "-q", *plain, *tests]
    try:
        done = subprocess.run(command, cwd=tree, env=variables(tree), capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return 124, "FAILED (it hangs)"
    return done.returncode, done.stdout + done.stderr


def check_imports(tree: Path) -> None:
    """The copy must be what is tested, not the tree that is installed."""
    ask = "import connectors, flows, schemas; print(connectors.__file__, flows.__file__, schemas.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=tree, env=variables(tree), capture_output=True, text=True, check=True
    )
    strangers = [path for path in done.stdout.split() if not Path(path).is_relative_to(tree)]
    if strangers or not done.stdout.split():
        sys.exit(f"the copy is not what would be tested: {strangers}")


def sabotaged(tree: Path, sabotage: Sabotage) -> None:
    path = tree / sabotage.file
    text = path.read_text()
    if text.count(sabotage.old) != 1:
        sys.exit(
            f"{sabotage.name}: stands {text.count(sabotage.old)} times in {sabotage.file}, not once:\n{sabotage.old}"
        )
    path.write_text(text.replace(sabotage.old, sabotage.new))


def who_noticed(sabotage: Sabotage) -> str | None:
    with copied() as tree:
        sabotaged(tree, sabotage)
        code, said = tests_in(tree, sabotage.tests)
    if code == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", said, re.MULTILINE)
    if failed is None:
        sys.exit(f"{sabotage.name}: pytest ended with {code}, and no test failed:\n{said[-2000:]}")
    return failed[1]


def check_sound(sabotages: Sequence[Sabotage]) -> None:
    """All the tests pass where nothing was touched (in one go), and every text to replace is there."""
    with copied() as tree:
        check_imports(tree)
        for sabotage in sabotages:
            path = tree / sabotage.file
            text = path.read_text()
            sabotaged(tree, sabotage)
            path.write_text(text)
        files = dict.fromkeys(test for sabotage in sabotages for test in sabotage.tests[: _options_at(sabotage)])
        code, said = tests_in(tree, list(files))
        if code:
            sys.exit(f"the tests do not pass as it is:\n{said[-3000:]}")


def _options_at(sabotage: Sabotage) -> int:
    return sabotage.tests.index("-k") if "-k" in sabotage.tests else len(sabotage.tests)


def main(arguments: Sequence[str]) -> int:
    known = {sabotage.name: sabotage for sabotage in SABOTAGES}
    if list(arguments) == ["--list"]:
        print("\n".join(f"{sabotage.name:<26} {sabotage.what}" for sabotage in SABOTAGES))
        return 0
    if strangers := [name for name in arguments if name not in known]:
        print(f"no such sabotage: {', '.join(strangers)} (--list shows them)", file=sys.stderr)
        return 2
    chosen = [known[name] for name in arguments] or SABOTAGES
    check_sound(chosen)
    missed = 0
    for sabotage in chosen:
        noticed = who_noticed(sabotage)
        missed += noticed is None
        print(f"{sabotage.name:<26} {'NOT NOTICED' if noticed is None else f'noticed by {noticed}'}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
