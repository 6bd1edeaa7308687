"""Why a broker does not answer, as far as a connection tells."""

from __future__ import annotations

import socket
from collections.abc import Sequence

TRY_S = 1.0


def why_silent(addresses: Sequence[str], if_heard: str) -> str:
    """In words, for each address (``host:port``). ``if_heard``: of one that takes connections."""
    found = {address: _try(address) or if_heard for address in addresses}
    if len({*found.values()}) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{address}: {why}" for address, why in found.items())


def _try(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), TRY_S).close()
    except socket.gaierror:
        return "there is no host of this name"
    except ConnectionRefusedError:
        return "nothing listens there (connection refused)"
    except OSError as error:
        return str(error.strerror or error)
    return None
