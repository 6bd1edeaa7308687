"""One Apache Kafka broker (KRaft, one node) on the loopback address, for tests, benchmarks and demonstrations.

``Broker`` starts, stops, kills and restarts it on the same data and the same ports. The jars come from Maven
Central by the coordinates in ``pom.xml``, copied once into ``build/broker`` (or ``REFOLD_BROKER_JARS``).

    python -m tests.broker.kafka [--port 9092]     runs one in the foreground and prints its address

It promises: nothing listens beyond 127.0.0.1; the process ends with the one that started it; a broker that
``start`` returned from answers requests. It knows nothing of refold.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT_JARS = HERE.parent.parent / "build" / "broker" / "jars"
CLUSTER_ID = "cmVmb2xkLXRlc3QtMDAwMQ"
START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 30.0

SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{sasl_listener}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{sasl_listener}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
log.cleaner.backoff.ms=200
log.cleaner.dedupe.buffer.size=4194304
log.initial.task.delay.ms=200
num.network.threads=2
num.io.threads=2
"""

SASL_SETTINGS = """\
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required{users};
"""


class BrokerUnavailable(Exception):
    """No broker can be had here; the text says why."""


def jars() -> Path:
    """The directory with the broker's jars, copied from Maven Central when it is not there yet."""
    directory = Path(os.environ.get("REFOLD_BROKER_JARS", DEFAULT_JARS))
    if not any(directory.glob("kafka_*.jar")):
        _copy_jars(directory)
    return directory


def _copy_jars(directory: Path) -> None:
    if shutil.which("mvn") is None:
        msg = f"no broker jars in {directory}, and no mvn to copy them with"
        raise BrokerUnavailable(msg)
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={directory}"]
    done = subprocess.run(["mvn", "-q", "-B", "-f", HERE / "pom.xml", *goal], capture_output=True, text=True)
    if done.returncode:
        msg = f"mvn could not copy the broker's jars: {done.stdout[-500:]}"
        raise BrokerUnavailable(msg)


def free_ports(count: int) -> list[int]:
    """Ports that nobody on the loopback address listens on; all are held until all are known."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


class Broker:
    """One broker process. ``directory`` keeps settings, data and ``broker.log``; a temporary one unless given.

    With ``users`` (name and password) there is a second listener, ``sasl_address``, that asks for them (SASL PLAIN).
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        directory: str | Path | None = None,
        heap_mib: int = 512,
        users: Mapping[str, str] | None = None,
    ) -> None:
        self._temporary = directory is None
        self.directory = Path(directory or tempfile.mkdtemp(prefix="refold-broker-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        spare, self._controller_port, self._sasl_port = free_ports(3)
        self.port = port or spare
        self._users = dict(users or {})
        self._heap_mib = heap_mib
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def sasl_address(self) -> str:
        return f"127.0.0.1:{self._sasl_port}"

    @property
    def log(self) -> Path:
        return self.directory / "broker.log"

    def start(self) -> Broker:
        """Start, on the data of the last time if there is any, and return when the broker answers."""
        assert self._process is None, "the broker runs already"
        self._format_once()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._settings)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_parent,
            )
        self._wait_until_ready()
        return self

    def stop(self) -> None:
        """Shut down in order (SIGTERM), by force when that takes too long."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._reap()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL). The data stay; ``start`` recovers them."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def discard(self) -> None:
        """Kill it and remove its data (those of a directory that was given stay)."""
        self.kill()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _settings(self) -> Path:
        return self.directory / "server.properties"

    def _format_once(self) -> None:
        data = self.directory / "data"
        self._settings.write_text(self._settings_text(data))
        if (data / "meta.properties").exists():
            return
        tool = self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._settings))
        done = subprocess.run(tool, capture_output=True, text=True)
        if done.returncode:
            msg = f"the broker's storage could not be formatted: {(done.stdout + done.stderr)[-500:]}"
            raise BrokerUnavailable(msg)

    def _settings_text(self, data: Path) -> str:
        listener = f",SASL_PLAINTEXT://{self.sasl_address}" if self._users else ""
        text = SETTINGS.format(port=self.port, controller_port=self._controller_port, sasl_listener=listener, data=data)
        users = "".join(f' user_{name}="{password}"' for name, password in self._users.items())
        return text + (SASL_SETTINGS.format(users=users) if users else "")

    def _java(self, main: str, *arguments: str) -> list[str]:
        if shutil.which("java") is None:
            msg = "no java to run a broker with"
            raise BrokerUnavailable(msg)
        options = [f"-Xmx{self._heap_mib}m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        return ["java", *options, "-cp", str(jars() / "*"), main, *arguments]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not answers(self.address):
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-500:]
                self.kill()
                msg = f"the broker {'ended' if ended else 'did not answer'} while starting: {tail}"
                raise BrokerUnavailable(msg)
            time.sleep(0.1)  # between two questions, not instead of one

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._process = None


def answers(address: str) -> bool:
    """Whether a broker at ``address`` gives metadata that name a live controller."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
        admin = KafkaAdminClient(bootstrap_servers=address, request_timeout_ms=5000, bootstrap_timeout_ms=5000)
    except (OSError, KafkaError):
        return False
    try:
        return bool(admin.describe_cluster().get("brokers"))
    except KafkaError:
        return False
    finally:
        admin.close()


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.broker.kafka", description="Run one Kafka broker.")
    parser.add_argument("--port", type=int, help="where to listen on 127.0.0.1 (default: any free port)")
    parser.add_argument("--directory", help="where to keep its data (default: a temporary directory)")
    chosen = parser.parse_args()
    broker = Broker(port=chosen.port, directory=chosen.directory)
    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(ending, signal.default_int_handler)
    try:
        broker.start()
        print(broker.address, flush=True)
        signal.pause()
    except KeyboardInterrupt:
        broker.stop()
    finally:
        broker.discard()


if __name__ == "__main__":
    main()
