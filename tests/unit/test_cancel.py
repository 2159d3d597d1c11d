"""Calling a query off: what it waits for is stopped, now or when it begins to wait."""

import threading

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
