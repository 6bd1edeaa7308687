"""Addresses, time-outs, TLS and SASL: what is asked for is used, what is wrong is named, no value is ever told."""

from __future__ import annotations

import re

import pytest
from broker.kafka import Broker
from broker.topics import numbered, read, table, values

from connectors.broker_config import addresses, security, timeout_seconds
from connectors.log import open_log
from schemas.errors import LogError, UsageError


@pytest.mark.broker
def test_credentials_are_used_and_never_told(sasl_broker: Broker, monkeypatch, capfd, caplog):
    caplog.set_level(0)
    monkeypatch.setenv("REFOLD_BROKER_TIMEOUT", "5")
    for key, value in (
        ("SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("SASL_MECHANISM", "PLAIN"),
        ("SASL_PLAIN_USERNAME", "reader"),
    ):
        monkeypatch.setenv(f"REFOLD_KAFKA_{key}", value)
    monkeypatch.setenv("REFOLD_KAFKA_SASL_PLAIN_PASSWORD", "open-sesame")
    with open_log(f"redpanda://{sasl_broker.sasl_address}") as log:
        assert log.append_batch("flights", table(numbered(3), partition=0)) == (3, 0, 0, 0)
        assert values(read(log, "flights")) == numbered(3)
    monkeypatch.setenv("REFOLD_KAFKA_SASL_PLAIN_PASSWORD", "hunter2")
    with open_log(f"redpanda://{sasl_broker.sasl_address}") as log, pytest.raises(LogError) as raised:
        log.describe("flights")
    assert "credentials" in str(raised.value)
    told = str(raised.value) + repr(raised.value) + repr(log) + caplog.text + "".join(capfd.readouterr())
    assert "hunter2" not in told and "open-sesame" not in told


def test_settings_come_from_a_file_and_the_environment_wins(tmp_path):
    path = tmp_path / "broker.properties"
    path.write_text("# the broker\nsasl_mechanism = PLAIN\n\nsasl_plain_password=a=b\n")
    chosen = security({"REFOLD_KAFKA_CONFIG": str(path), "REFOLD_KAFKA_SASL_MECHANISM": "SCRAM-SHA-256", "HOME": "/"})
    assert chosen == {"sasl_mechanism": "SCRAM-SHA-256", "sasl_plain_password": "a=b"}
    assert "a=b" not in repr(chosen)


@pytest.mark.parametrize(
    "text", ["sasl_plain_pasword=hunter2", "hunter2", "ssl_cafile=/hunter2/not/there"], ids=["key", "line", "file"]
)
def test_a_wrong_setting_is_named_but_not_its_value(tmp_path, text):
    path = tmp_path / "broker.properties"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        security({"REFOLD_KAFKA_CONFIG": str(path)})
    assert "hunter2" not in str(raised.value)
    with pytest.raises(UsageError, match="pasword"):
        security({"REFOLD_KAFKA_SASL_PLAIN_PASWORD": "hunter2"})


def test_addresses_are_hosts_and_ports_alone():
    assert addresses("one,two:19092/") == ["one:9092", "two:19092"]
    assert addresses("[::1]") == ["[::1]:9092"]
    for wrong in ("", "one,,two", "one:port", "user:hunter2@one:9092", "one:9092/path"):
        with pytest.raises(UsageError) as raised:
            addresses(wrong)
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("text", ["soon", "0", "nan", "-3"])
def test_a_time_out_is_a_number_of_seconds(text):
    with pytest.raises(UsageError, match=re.escape("REFOLD_BROKER_TIMEOUT")):
        timeout_seconds({"REFOLD_BROKER_TIMEOUT": text})
