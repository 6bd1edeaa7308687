"""What all tests share: no deadlines for Hypothesis (a first call compiles its kernels), and a broker.

The broker is a real one, or the test is skipped with the reason.
``REFOLD_TEST_BROKERS`` names one that runs already (host:port); otherwise Apache Kafka is started once a session.
``REFOLD_REQUIRE_BROKER=1`` turns "skipped" into "failed", for machines that must have one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest
from broker.kafka import Broker, BrokerUnavailable
from hypothesis import settings
from kafka import KafkaAdminClient

from connectors import copies, generation
from connectors.redpanda import RedpandaLog

settings.register_profile("refold", deadline=None)
settings.load_profile("refold")

_numbers = itertools.count(1)


LONGEST = (
    "readme",
    "broker_kills",
    "story",
    "law",
    "redpanda_losses",
    "power_loss",
    "fold",
    "local_log",
    "crash",
    "cluster",
)
"""Files of a few tests that take long: begun first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(autouse=True, scope="session")
def copies_pass_for_originals() -> Iterator[None]:
    """Many tests lay a store out again elsewhere, as what it was; it must not pass for a backup (tests/test_backup.py has those)."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (generation, copies):
            patch.setattr(module, "place_of", lambda _: b"here\n")
        yield


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


@pytest.fixture(scope="module")
def broker_log(broker: str) -> Iterator[RedpandaLog]:
    """The log in the shared broker."""
    with RedpandaLog(broker) as opened:
        yield opened


@pytest.fixture(scope="module")
def admin(broker: str) -> Iterator[KafkaAdminClient]:
    """Kafka's own administration of the shared broker."""
    client = KafkaAdminClient(bootstrap_servers=broker)
    yield client
    client.close()


@pytest.fixture
def new_name(admin: KafkaAdminClient) -> Iterator[Callable[[], str]]:
    """Names that nobody else has; topics made under them are deleted in the end."""
    given: list[str] = []

    def name() -> str:
        given.append(f"refold-test-{os.getpid()}-{next(_numbers)}")
        return given[-1]

    yield name
    admin.delete_topics(given, raise_errors=False)


@pytest.fixture
def topic(admin: KafkaAdminClient, new_name: Callable[[], str]) -> Callable[..., str]:
    """Makes a topic: ``topic(partitions, **options)``, with ``_`` for ``.`` in the settings."""

    def make(partitions: int = 1, **options: object) -> str:
        name = new_name()
        configs = {key.replace("_", "."): str(value) for key, value in options.items()}
        admin.create_topics({name: {"num_partitions": partitions, "configs": configs}}, wait_for_metadata=True)
        return name

    return make
