"""Any history of writes, changes, failures, expiries and restores: each kept snapshot reads the same for ever."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.restore_model import RestoredTenant

pytestmark = pytest.mark.django_db(transaction=True)


def _run(examples: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis declares no types here
        RestoredTenant,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_restored_tenant_is_what_the_dict_says() -> None:
    _run(examples=8, steps=25)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_restored_tenant_is_what_the_dict_says_after_many_steps() -> None:
    _run(examples=100, steps=40)
