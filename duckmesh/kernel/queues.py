"""What waits in the broker's queues, and who takes from them. Redis may be wiped at any moment.

A consumer says that it is there every few seconds, by Redis' own clock; one that has been silent for `SILENT_AFTER`
counts no more.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

QUEUES = ("materialize", "maintenance", "drill")
SENT_AT = "duckmesh_sent_at"  # header of each message: seconds by the sender's clock
ANNOUNCE_EVERY = 5.0
SILENT_AFTER = 20
_CONSUMERS = "duckmesh:consumers:"


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """Messages that nobody has taken yet, the age of the first of them, and how many consumers take from the queue."""

    queue: str
    depth: int
    oldest_seconds: float
    consumers: int


def client(url: str, *, within: float) -> redis.Redis:
    """A connection that gives up after so many seconds, without a second attempt."""
    return redis.Redis.from_url(
        url, socket_timeout=within, socket_connect_timeout=within, retry=Retry(NoBackoff(), 0), max_connections=4
    )


def look(server: redis.Redis, *, now: float) -> list[QueueState]:
    """The queues as they are; raises `redis.RedisError`."""
    redis_now = server_time(server)
    pipeline = server.pipeline(transaction=False)
    for queue in QUEUES:
        pipeline.llen(queue)
        pipeline.lindex(queue, -1)
        pipeline.zcount(_CONSUMERS + queue, redis_now - SILENT_AFTER, "+inf")
    answers = pipeline.execute()
    return [
        QueueState(queue=queue, depth=depth, oldest_seconds=_age(oldest, now), consumers=consumers)
        for queue, depth, oldest, consumers in zip(QUEUES, answers[::3], answers[1::3], answers[2::3], strict=True)
    ]


def announce(server: redis.Redis, *, queues: Sequence[str], consumer: str) -> None:
    """This consumer is there; those that have been silent for long are forgotten."""
    now = server_time(server)
    pipeline = server.pipeline(transaction=False)
    for queue in queues:
        pipeline.zadd(_CONSUMERS + queue, {consumer: now})
        pipeline.zremrangebyscore(_CONSUMERS + queue, "-inf", now - 60 * SILENT_AFTER)
    pipeline.execute()


def leave(server: redis.Redis, *, queues: Sequence[str], consumer: str) -> None:
    """This consumer is there no more."""
    for queue in queues:
        server.zrem(_CONSUMERS + queue, consumer)


def server_time(server: redis.Redis) -> float:
    """Seconds by Redis' own clock."""
    # `Any`: the library's type is that of its asynchronous client as well.
    answer: Any = server.time()
    seconds, microseconds = answer
    return float(seconds + microseconds / 1e6)


def _age(message: bytes | None, now: float) -> float:
    """0 of a queue that is empty, and of a message that does not say when it was sent."""
    if message is None:
        return 0.0
    headers = json.loads(message).get("headers", {})
    return max(0.0, now - float(headers.get(SENT_AT, now)))


class Announcer:
    """Announces one consumer, at most every few seconds, and does not mind if Redis is away."""

    def __init__(self, server: redis.Redis, *, queues: Sequence[str], consumer: str) -> None:
        self._server, self._queues, self._consumer = server, tuple(queues), consumer
        self._last = float("-inf")

    def beat(self) -> None:
        """The consumer lives."""
        if time.monotonic() - self._last >= ANNOUNCE_EVERY:
            self._last = time.monotonic()
            self._try(announce)

    def end(self) -> None:
        """The consumer stops."""
        self._try(leave)

    def _try(self, act: Callable[..., None]) -> None:
        try:
            act(self._server, queues=self._queues, consumer=self._consumer)
        except redis.RedisError:
            return  # whoever looks cannot reach Redis either, and says so
