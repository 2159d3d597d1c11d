"""What every command of `manage.py` has: `--json`, and an exit status that means something.

0: done. 1: a problem was found, or the thing could not be done. 2: wrong usage. With `--json` the only thing on stdout
is one JSON document: the outcome, or the error with its `error_code`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError

from duckmesh.kernel.errors import DuckMeshError, Invalid
from duckmesh.postgresql.roles import as_owner

DONE, PROBLEM, USAGE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command did: for a program and for a person. `problem` says why the exit status is 1, if it is.

    `Any`: the document is JSON, shaped by each command.
    """

    document: Mapping[str, Any] | Sequence[Any]
    lines: Sequence[str]
    problem: str | None = None


class ServiceCommand(BaseCommand, ABC):
    """A command that calls one service and says what became of it. `owners`: it is the tables' owner who does it."""

    requires_system_checks = ()
    owners: ClassVar[bool] = False

    @abstractmethod
    def declare(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""

    @abstractmethod
    def perform(self, options: Mapping[str, Any]) -> Outcome:
        """Do it. `Any`: the parsed arguments."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Django's hook."""
        parser.add_argument("--json", action="store_true", help="Write one JSON document to stdout, and nothing else.")
        self.declare(parser)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Django's hook and signature. What fails becomes a sentence and an exit status."""
        try:
            with as_owner(settings.DUCKMESH.owner_database_url if self.owners else None):
                outcome = self.perform(options)
        except DuckMeshError as exc:
            error = {"error_code": exc.code, "message": exc.message, "context": exc.context}
            self._fail(options, error, USAGE if isinstance(exc, Invalid) else PROBLEM)
        except (OperationalError, InterfaceError) as exc:
            message = f"PostgreSQL does not answer; run make up, or set DUCKMESH_DATABASE_URL: {exc}".strip()
            self._fail(options, {"error_code": "DEPENDENCY_UNAVAILABLE", "message": message, "context": {}}, PROBLEM)
        else:
            if options["json"]:
                self.stdout.write(json.dumps(outcome.document, default=str))
            else:
                self.stdout.writelines([line + "\n" for line in outcome.lines])
            if outcome.problem is not None:
                raise CommandError(outcome.problem, returncode=PROBLEM)

    def _fail(self, options: Mapping[str, Any], error: Mapping[str, Any], status: int) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(error, default=str))
        raise CommandError(error["message"], returncode=status)
