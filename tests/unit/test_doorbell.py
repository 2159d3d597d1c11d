"""The doorbell merges rings, hurries for who waits, and outlives a broker that fails."""

import queue
import time
from datetime import timedelta

from ingest.backlog import FlushPolicy
from ingest.doorbell import Doorbell

Ring = tuple[str, int]


class Broker:
    """Takes rings; refuses the first ones if it is told to."""

    def __init__(self, *, refusals: int = 0) -> None:
        self.rings: queue.Queue[Ring] = queue.Queue()
        self.refusals = refusals

    def send(self, tenant_id: str, wanted: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionError
        self.rings.put((tenant_id, wanted))

    def next(self) -> Ring:
        return self.rings.get(timeout=5)


def doorbell(broker: Broker, *, interval: float = 0.2, size_bytes: int = 1_000) -> Doorbell:
    return Doorbell(send=broker.send, policy=FlushPolicy(interval=timedelta(seconds=interval), size_bytes=size_bytes))


def test_writes_of_a_tenant_ring_once_when_the_first_is_due() -> None:
    broker = Broker()
    bell = doorbell(broker)
    began = time.monotonic()
    for _ in range(5):
        bell.accepted(tenant_id="t", size_bytes=10)
    assert broker.next() == ("t", 0)
    assert time.monotonic() - began >= 0.2
    assert broker.rings.empty()


def test_writes_that_fill_a_flush_ring_at_once() -> None:
    broker = Broker()
    bell = doorbell(broker, interval=60)
    bell.accepted(tenant_id="t", size_bytes=999)
    bell.accepted(tenant_id="t", size_bytes=1)
    assert broker.next() == ("t", 0)


def test_who_waits_hurries_what_was_due_later_and_the_greatest_token_is_asked_for() -> None:
    broker = Broker()
    bell = doorbell(broker, interval=60)
    bell.accepted(tenant_id="t", size_bytes=10)
    bell.awaited(tenant_id="t", token=7)
    assert broker.next() == ("t", 7)


def test_an_earlier_tenant_is_not_kept_waiting_by_a_later_one() -> None:
    broker = Broker()
    bell = doorbell(broker, interval=60)
    bell.accepted(tenant_id="patient", size_bytes=10)
    bell.awaited(tenant_id="hurried", token=1)
    assert broker.next() == ("hurried", 1)
    assert broker.rings.empty()


def test_a_broker_that_fails_does_not_silence_the_next_ring() -> None:
    broker = Broker(refusals=1)
    bell = doorbell(broker)
    bell.awaited(tenant_id="t", token=1)
    deadline = time.monotonic() + 5
    while broker.refusals and time.monotonic() < deadline:
        time.sleep(0.01)
    bell.awaited(tenant_id="t", token=2)
    assert broker.next() == ("t", 2)
