"""What a migration may not do while the version before it still runs. Each finding says what to do instead."""

from collections.abc import Iterator, Sequence

from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations
from django.db.migrations.operations.base import Operation
from django.db.models import NOT_PROVIDED

Findings = list[str]

_CONTRACTS = (migrations.RemoveField, migrations.DeleteModel)
_RENAMES = (migrations.RenameField, migrations.RenameModel, migrations.AlterModelTable)
_CONCURRENT = (AddIndexConcurrently, RemoveIndexConcurrently)


def hazards(migration: migrations.Migration) -> Findings:
    """What of it would break, or stop, the programs of the version before."""
    made = {one.name.lower() for one in migration.operations if isinstance(one, migrations.CreateModel)}
    found = [finding for one in migration.operations for finding in _of(one, made, contract=_is_contract(migration))]
    if not migration.atomic and not all(isinstance(one, _CONCURRENT) for one in migration.operations):
        found.append("without a transaction no time limits hold: only indexes made concurrently may be in it")
    return found


def _is_contract(migration: migrations.Migration) -> bool:
    """It says, by `contract = True`, that the version before does not use what it takes away any more."""
    return bool(getattr(migration, "contract", False))


def _of(operation: Operation, made: set[str], *, contract: bool) -> Iterator[str]:
    what = operation.describe()
    model = str(getattr(operation, "model_name", getattr(operation, "name", ""))).lower()
    if isinstance(operation, _RENAMES):
        yield f"{what}: the old name is in use; add the new one, fill it, and drop the old one two releases later"
    if isinstance(operation, _CONTRACTS) and not contract:
        yield f"{what}: the version before still reads it; say `contract = True` when it does not"
    if model in made:
        return
    if isinstance(operation, migrations.AddField) and _needs_a_value(operation):
        yield f"{what}: the version before writes rows without it; make it nullable, or give it db_default"
    if isinstance(operation, migrations.AddIndex) and not isinstance(operation, AddIndexConcurrently):
        yield f"{what}: it locks writers out; use AddIndexConcurrently"
    if isinstance(operation, migrations.AddConstraint) and not isinstance(operation, AddConstraintNotValid):
        yield f"{what}: it reads the whole table under a lock; use AddConstraintNotValid, then ValidateConstraint"


def _needs_a_value(operation: migrations.AddField) -> bool:
    field = operation.field
    return not (field.null or field.many_to_many or field.db_default is not NOT_PROVIDED)


def names(found: Sequence[tuple[str, str]]) -> set[str]:
    """`app.name` of each."""
    return {f"{app}.{name}" for app, name in found}
