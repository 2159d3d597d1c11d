"""The queue of those who wait for a runner: tenants in turn, each tenant's own in the order they came."""

from query.fair_queue import FairQueue, Waiter

A, B, C = ("a", "/a"), ("b", "/b"), ("c", "/c")


def test_tenants_are_served_in_turn() -> None:
    queue = FairQueue()
    waiters = [Waiter(tenant=tenant) for tenant in (A, A, A, B, C, B)]
    for waiter in waiters:
        queue.add(waiter)
    order = []
    while head := next(queue.heads(), None):
        order.append(waiters.index(head))
        queue.served(head)
    assert order == [0, 3, 4, 1, 5, 2]
    assert len(queue) == 0


def test_who_gives_up_leaves_the_others_in_their_order() -> None:
    queue = FairQueue()
    first, second, third = (Waiter(tenant=tenant) for tenant in (A, A, B))
    for waiter in (first, second, third):
        queue.add(waiter)
    queue.remove(first)
    queue.remove(first)
    assert list(queue.heads()) == [second, third]
    assert (queue.of(A), queue.of(B), len(queue)) == (1, 1, 2)
    assert queue.clear() == [second, third]
    assert (len(queue), queue.of(A)) == (0, 0)
