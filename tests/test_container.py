"""The image, as far as it can be seen without Docker: it has what the package is made of, and its user is not root."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTRUCTIONS = re.findall(
    r"^([A-Z]+) ((?:.*\\\n)*.*)$", re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()), re.M
)


def test_it_is_built_from_all_that_the_package_is_made_of_and_nothing_else() -> None:
    needed = {"pyproject.toml", PROJECT["project"]["readme"], "LICENSE", *PROJECT["tool"]["setuptools"]["packages"]}
    copied = {source for name, rest in INSTRUCTIONS if name == "COPY" for source in rest.split()[:-1]}
    seen = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == seen == needed and all((ROOT / source).exists() for source in needed)


def test_its_python_is_one_that_refold_runs_on() -> None:
    (base,) = [rest for name, rest in INSTRUCTIONS if name == "FROM"]
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.13"
    assert re.match(r"python:3\.1[12]-", base)


def test_commands_run_as_a_user_that_is_not_root_and_the_image_has_been_tried() -> None:
    names = [name for name, _ in INSTRUCTIONS]
    assert names.count("USER") == 1 and dict(INSTRUCTIONS)["USER"] == "refold"
    after = INSTRUCTIONS[names.index("USER") + 1 :]
    assert any(name == "RUN" and "refold demo" in rest for name, rest in after)
    assert json.loads(dict(after)["ENTRYPOINT"]) == ["refold"]
    assert "EXPOSE" not in names, "refold listens on no port"
