"""What kafka-python's errors mean to a user of ours.

Promises: no text of the library reaches a user, for it may hold settings: only the name of its error is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import errors

from connectors.broker_reader import PositionLost
from schemas.errors import LogError, LogUnreachable, RefoldError, UsageError


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Errors of the library become ours, but for the few that a caller here tells apart."""
    try:
        yield
    except (errors.OffsetOutOfRangeError, errors.LogTruncationError) as error:
        raise PositionLost(type(error).__name__) from error
    except (RefoldError, errors.TopicAlreadyExistsError, errors.InvalidTopicError):
        raise
    except (errors.KafkaError, OSError) as error:
        raise translation(error, url) from error


CREDENTIALS = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)
SILENCE = (errors.RetriableError, errors.UnknownBrokerIdError, OSError)
_SIZE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_MEANINGS: tuple[tuple[Any, type[RefoldError], str, str | None], ...] = (
    (errors.KafkaConfigurationError, UsageError, "the broker's settings do not fit", "check REFOLD_KAFKA_*"),
    (CREDENTIALS, LogError, "the broker refused the credentials", "check REFOLD_KAFKA_SASL_*"),
    (errors.AuthorizationError, LogError, "the broker does not allow this", "ask for the right to do it"),
    (_SIZE, LogError, "an event is too large for the broker", "raise max.message.bytes of the topic"),
    (SILENCE, LogUnreachable, "the broker does not answer", "see whether it runs, then try again"),
    (Exception, LogError, "the broker answered with an error", None),
)


def translation(error: Exception, url: str) -> RefoldError:
    """The error that a user sees for one of the library's, whose own texts may hold settings: only its name is told."""
    kind, what, do = next((kind, what, do) for known, kind, what, do in _MEANINGS if isinstance(error, known))
    return kind(what, where=url, why=type(error).__name__, do=do)
