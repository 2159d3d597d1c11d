"""Any history of what adds, replaces, keeps and deletes files: nobody misses one, and nothing is left for ever."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.gc_model import ALL, BACKUPS, READERS, CollectedTenant, walk

pytestmark = pytest.mark.django_db(transaction=True)


def _run(examples: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis declares no types here
        CollectedTenant,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_collected_tenant_is_what_the_dicts_say() -> None:
    _run(examples=4, steps=25)


@pytest.mark.parametrize(("mix", "steps"), [(READERS, 40), (BACKUPS, 50), (ALL, 80)])
def test_random_walks_find_every_file_that_somebody_needs(mix: str, steps: int) -> None:
    walk(1, steps=steps, mix=mix)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_random_walks_find_every_file_that_somebody_needs() -> None:
    for seed in range(100, 140):
        for mix in (READERS, BACKUPS, ALL):
            walk(seed, steps=100, mix=mix)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_collected_tenant_is_what_the_dicts_say_after_many_steps() -> None:
    _run(examples=150, steps=50)
