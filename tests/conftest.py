"""The broker that tests of connectors/redpanda.py talk to: a real one, or the test is skipped with the reason.

``REFOLD_TEST_BROKERS`` names one that runs already (host:port); otherwise Apache Kafka is started once a session.
``REFOLD_REQUIRE_BROKER=1`` turns "skipped" into "failed", for machines that must have one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from broker.kafka import Broker, BrokerUnavailable


def _started(users: dict[str, str] | None = None) -> Broker:
    broker = Broker(users=users)
    try:
        return broker.start()
    except BrokerUnavailable as reason:
        broker.discard()
        if os.environ.get("REFOLD_REQUIRE_BROKER") == "1":
            pytest.fail(f"a broker is required: {reason}")
        pytest.skip(f"no broker: {reason}")


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """``host:port`` of a broker shared by the whole session; make topics of your own."""
    if running := os.environ.get("REFOLD_TEST_BROKERS"):
        yield running
        return
    started = _started()
    yield started.address
    started.discard()


@pytest.fixture
def broker_process() -> Iterator[Broker]:
    """A broker of the test's own, to stop, kill and start again."""
    started = _started()
    yield started
    started.discard()


@pytest.fixture
def sasl_broker() -> Iterator[Broker]:
    """A broker whose ``sasl_address`` knows one user: ``reader``, password ``open-sesame``."""
    started = _started({"reader": "open-sesame"})
    yield started
    started.discard()
