"""kafka-python's connections, as a reader of whole streams wants them: large reads, few copies, and refused credentials told at once.

Uses what the library keeps to itself; the narrow range of versions in pyproject.toml is for that.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaTCPTransport

from connectors.kafka_errors import CREDENTIALS

RECEIVE_BYTES_MAX = 1 << 18
LARGE_BYTES = 1 << 16
"""What is read of a response in one go, from here on, is not copied."""


class Client(KafkaNetClient):  # type: ignore[misc]
    """For ``kafka_client``, the setting of the library's consumer and admin client."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(net=(net := NetworkSelector(**settings)), manager=_Manager(net, **settings), **settings)


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Tells refused credentials at once; the library's own would go on connecting until its time is up."""

    _refused: Exception | None = None

    def get_connection(self, node_id: Any, **options: Any) -> Any:
        if self._refused is not None:
            raise self._refused
        connection = super().get_connection(node_id, **options)
        if not connection.init_future.is_done:
            connection.init_future.add_callback(lambda _: _spare_copies(connection))
            connection.init_future.add_errback(self._note)
        return connection

    def _note(self, error: Exception) -> None:
        if isinstance(error, CREDENTIALS):
            self._refused = error

    async def _build_transport(self, *where: Any, **options: Any) -> Any:
        transport = await super()._build_transport(*where, **options)
        if type(transport) is KafkaTCPTransport:
            transport._sock_recv = partial(_receive, transport._sock)
        return transport


def _receive(connected: socket.socket) -> tuple[bytes, Exception | None]:
    """What has come, or why nothing will. The library's own reads 4 KiB at a time, and loses last words before a hang-up."""
    try:
        data = connected.recv(RECEIVE_BYTES_MAX)
    except (BlockingIOError, InterruptedError):
        return b"", None
    except OSError as error:
        return b"", errors.KafkaConnectionError(error)
    return data, None if data else errors.KafkaConnectionError("socket disconnected")


def _spare_copies(connection: Any) -> None:
    parser = connection.parser
    decode = parser._process_response
    parser._process_response = lambda received: decode(Response(received))


class Response:
    """The bytes of a response, read piece by piece. The library's own copies all that is left twice, into memory that is fresh each
    time, and with the interpreter's lock held: a seventh of the time of a replay."""

    def __init__(self, received: bytearray) -> None:
        self._whole, self._at = memoryview(received), 0

    def read(self, count: int | None = None) -> bytes | memoryview:
        end = len(self._whole) if count is None else min(self._at + count, len(self._whole))
        found, self._at = self._whole[self._at : end], end
        return found if len(found) >= LARGE_BYTES else bytes(found)

    def seek(self, at: int) -> None:
        self._at = at

    def tell(self) -> int:
        return self._at
