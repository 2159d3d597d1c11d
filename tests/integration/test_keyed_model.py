"""Keyed tables against a dict: whatever happens in whatever order, every snapshot shows the last operation by token."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.keyed_model import KeyedTable

pytestmark = pytest.mark.django_db(transaction=True)


def check(*, examples: int, steps: int) -> None:
    bounds = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(KeyedTable, settings=bounds)


def test_keyed_table_is_what_a_dict_would_be() -> None:
    check(examples=8, steps=15)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_keyed_table_is_what_a_dict_would_be_for_long() -> None:
    check(examples=100, steps=40)
