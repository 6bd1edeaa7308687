"""How to reach a broker: addresses, time-out, TLS and SASL, from the environment or a file.

``REFOLD_KAFKA_<KEY>`` for each of ``KEYS``, or ``key=value`` lines in the file named by ``REFOLD_KAFKA_CONFIG``
(the environment wins). ``REFOLD_BROKER_TIMEOUT``: seconds to wait for an answer.

Promises: a key that is not known is a ``UsageError``; a value never appears in an error, a repr or a log line.
Must not know: the client library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from schemas.errors import UsageError

KEYS = (
    "security_protocol",
    "ssl_cafile",
    "ssl_certfile",
    "ssl_keyfile",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
)
_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
_PREFIX = "REFOLD_KAFKA_"
_CONFIG = "REFOLD_KAFKA_CONFIG"
_TIMEOUT = "REFOLD_BROKER_TIMEOUT"
_TIMEOUT_SECONDS = 10.0
DEFAULT_PORT = 9092


class Secret(str):
    """A setting's value. It is the text itself to whoever uses it, and says nothing when printed inside something."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def security(environment: Mapping[str, str] = os.environ) -> dict[str, Secret]:
    """The settings of ``KEYS`` that were given. Raises ``UsageError`` for a key that is none, or a missing file."""
    path = environment.get(_CONFIG)
    chosen = dict(_from_file(Path(path))) if path else {}
    chosen |= dict(_from_environment(environment))
    for key in _FILES:
        if key in chosen and not Path(chosen[key]).is_file():
            msg = f"the file that {key} names is not there"
            raise UsageError(msg, where=f"{_PREFIX}{key.upper()} or {key} in {_CONFIG}")
    return {key: Secret(value) for key, value in chosen.items()}


def timeout_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """How long to wait for an answer of the broker (at least 1 second). Raises ``UsageError``."""
    text = environment.get(_TIMEOUT)
    try:
        seconds = float(text) if text else _TIMEOUT_SECONDS
    except ValueError:
        seconds = 0.0
    if not 1.0 <= seconds <= 3600.0:
        msg = f"{_TIMEOUT} is not a number of seconds from 1 to 3600"
        raise UsageError(msg)
    return seconds


def addresses(servers: str) -> list[str]:
    """``host:port`` of each server in ``host[:port],...``. Raises ``UsageError``."""
    chosen = [_address(text.strip()) for text in servers.rstrip("/").split(",")]
    if not all(chosen):
        msg = "the address of the log names no broker"
        raise UsageError(msg, do="write redpanda://host:9092")
    return chosen


def _address(text: str) -> str:
    if "@" in text or "/" in text:
        msg = "the address of the log is host:port alone, without user, password or path"
        raise UsageError(msg, do=f"give credentials in {_PREFIX}SASL_PLAIN_USERNAME and {_PREFIX}SASL_PLAIN_PASSWORD")
    _, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):  # no port, or an IPv6 address without one
        return f"{text}:{DEFAULT_PORT}" if text else ""
    if not port.isdigit() or not 0 < int(port) < 65536:
        msg = f"not a port number: {port}"
        raise UsageError(msg, where=text, do="write redpanda://host:9092")
    return text


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in environment.items():
        if name.startswith(_PREFIX) and name != _CONFIG:
            yield _known(name.removeprefix(_PREFIX).lower(), name), value


def _from_file(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        msg = f"the file that {_CONFIG} names cannot be read"
        raise UsageError(msg, where=str(path)) from error
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            key, equals, value = line.partition("=")
            if not equals:
                msg = "a line is not key=value"
                raise UsageError(msg, where=f"{path}, line {number}")
            yield _known(key.strip(), f"{path}, line {number}"), value.strip()


def _known(key: str, where: str) -> str:
    if key not in KEYS:
        msg = f"an unknown setting of the broker: {key}"
        raise UsageError(msg, where=where, do=f"known are {', '.join(KEYS)}")
    return key
