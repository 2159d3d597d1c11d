"""Calling a query off: what it waits for is stopped, now or when it begins to wait."""

import threading
import time

from query.cancel import Cancellation


def test_whatever_waits_is_stopped_and_so_is_what_waits_later() -> None:
    cancellation, first, second, gone = Cancellation(), threading.Event(), threading.Event(), threading.Event()
    cancellation.add(first.set)
    with cancellation.stopping(gone.set):
        assert not cancellation.asked
    cancellation.ask()
    cancellation.ask()
    assert cancellation.asked
    assert first.is_set()
    assert not gone.is_set()
    with cancellation.stopping(second.set):
        assert second.is_set()


def test_what_was_taken_away_is_not_being_stopped_any_more() -> None:
    cancellation, entered, leave, order = Cancellation(), threading.Event(), threading.Event(), list[str]()

    def slow_stop() -> None:
        entered.set()
        leave.wait(5)
        order.append("stopped")

    cancellation.add(slow_stop)
    asking = threading.Thread(target=cancellation.ask)
    asking.start()
    assert entered.wait(5)
    removing = threading.Thread(target=lambda: (cancellation.remove(slow_stop), order.append("removed")))
    removing.start()
    leave.set()
    for thread in (asking, removing):
        thread.join(5)
    assert order == ["stopped", "removed"]


def test_wait_ends_when_what_it_waits_for_is_there_or_its_time_is_up() -> None:
    cancellation, ready = Cancellation(), threading.Event()
    started = time.monotonic()
    assert not cancellation.wait(ready, until=started + 0.1)
    assert time.monotonic() - started >= 0.1
    ready.set()
    assert cancellation.wait(ready, until=started)
    assert not cancellation.asked


def test_wait_for_a_client_that_has_hung_up_is_called_off() -> None:
    looks = iter([False, True])
    cancellation, ready, other = Cancellation(gone=lambda: next(looks)), threading.Event(), threading.Event()
    started = time.monotonic()
    with cancellation.stopping(other.set):
        assert not cancellation.wait(ready, until=started + 60)
    assert time.monotonic() - started < 5
    assert (cancellation.asked, cancellation.deserted, other.is_set()) == (True, True, True)
