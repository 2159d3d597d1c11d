"""The broker for those who must not wait for it."""

from kombu import Connection, Producer

_TIMEOUT = 0.1


def impatient_producer(redis_url: str) -> Producer:
    """Sends within a fraction of a second, or fails: for edges, where a worker's connection must be patient.

    For one thread.
    """
    options = {
        "socket_timeout": _TIMEOUT,
        "socket_connect_timeout": _TIMEOUT,
        "retry_on_timeout": False,
        "max_retries": 0,
    }
    return Producer(Connection(redis_url, transport_options=options), auto_declare=False)
