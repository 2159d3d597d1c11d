"""What waits in the broker. Read from Redis, which may be away or wiped."""

import time
from collections.abc import Iterator

import redis
from prometheus_client.core import GaugeMetricFamily

from api.gauges.family import Gauge
from duckmesh.kernel import queues

DEPTH = Gauge(
    name="duckmesh_queue_depth", help_text="Messages in the queue that no worker has taken yet.", labels=("queue",)
)
OLDEST = Gauge(
    name="duckmesh_queue_oldest_message_seconds",
    help_text="Age of the first message in the queue; 0 if there is none.",
    labels=("queue",),
)
CONSUMERS = Gauge(
    name="duckmesh_queue_consumers",
    help_text="Workers that have said within the last seconds that they take from the queue.",
    labels=("queue",),
)
GAUGES = (DEPTH, OLDEST, CONSUMERS)


def read(server: redis.Redis) -> Iterator[GaugeMetricFamily]:
    """Every queue as it is now."""
    found = queues.look(server, now=time.time())
    yield DEPTH.by({(state.queue,): state.depth for state in found})
    yield OLDEST.by({(state.queue,): state.oldest_seconds for state in found})
    yield CONSUMERS.by({(state.queue,): state.consumers for state in found})
