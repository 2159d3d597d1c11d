"""What an operator does to a running service: every command of manage.py, and the admin's pages."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from duckmesh.kernel.config import ROOT
from tests.acceptance.browser import Browser
from tests.stack import Stack

OPERATOR = "watchman"

# Each starts as `manage.py` would; the start of Python and Django, which is most of their time, is shared.
SEVERAL = """
import contextlib, io, json, sys
import manage
for arguments in json.load(sys.stdin):
    sys.argv, said, status = ["manage.py", *arguments], io.StringIO(), 0
    with contextlib.redirect_stdout(said):
        try:
            manage.main()
        except SystemExit as ended:
            status = ended.code
    print(json.dumps([status, said.getvalue()]))
"""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command, its exit status, and what it printed for whoever gave it."""

    arguments: Sequence[str]
    status: int
    said: str


def manage_all(stack: Stack, commands: Sequence[Sequence[str]], **environ: str) -> list[Ran]:
    """The commands, one after the other; what they log is appended to the stack's `manage.log`."""
    with stack.log("manage").open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-c", SEVERAL],
            env=stack.environ() | environ,
            cwd=ROOT,
            input=json.dumps(commands),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=True,
            timeout=240,
        )
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        Ran(arguments=arguments, status=status, said=said)
        for arguments, (status, said) in zip(commands, ended, strict=True)
    ]


def all_commands(stack: Stack, backups: Path, *, failed_event_id: int, secret: str) -> list[Ran]:
    """Every command of ours has run, some of them badly too; the catalog is the one of a backup, restored at the end.

    `secret` is the password of the new operator of the admin.
    """
    tenant = stack.tenant
    elsewhere = backups / "no-directory"
    elsewhere.touch()
    return manage_all(
        stack,
        [
            ("createsuperuser", "--no-input", "--username", OPERATOR, "--email", ""),
            ("create_tenant", "acme", "--name", "Acme Ltd"),
            ("create_tenant", "acme"),
            ("create_api_key", "acme", "--role", "query_reader", "--json"),
            ("create_api_key", "nobody", "--role", "query_reader"),
            ("revoke_api_key", stack.key.split("_")[1]),
            ("suspend_tenant", "acme"),
            ("suspend_tenant", "acme", "--lift"),
            ("limits", tenant, "--records-per-second", "100000"),
            ("mode", "read-only", "--reason", "a drill"),
            ("mode", "normal"),
            ("lag",),
            ("doctor",),
            ("catalog", "show"),
            ("own_store",),
            ("failed_events", "--tenant", tenant),
            ("failed_events", "--tenant", tenant, "--discard", str(failed_event_id)),
            ("replay_failed", "--tenant", tenant),
            ("requeue_expired",),
            ("housekeeping",),
            ("compact", "--full"),
            ("retention", "--keep-last", "1", "--keep-all-for", "0s", "--orphans"),
            ("integrity", "--mode", "deep"),
            ("backup", str(elsewhere)),
            ("backup", str(backups), "--with-data"),
            ("backup", str(backups), "--list"),
            ("restore_drill", "--checksums"),
            ("restore", str(backups)),
            ("restore", str(backups), "--force", "--take-over"),
        ],
        DJANGO_SUPERUSER_PASSWORD=secret,
    )


def all_pages(stack: Stack, *, secret: str) -> str:
    """A tenant and its key are made in the admin; the key, which its page has shown once, is used and revoked."""
    browser = Browser(stack)
    assert browser.login(OPERATOR, secret[::-1]) == 200, "a wrong password shows the form again"
    assert browser.login(OPERATOR, secret) == 302
    assert browser.submit("/admin/catalog/tenant/add/", tenant_id="made", name="Made")[0] == 302
    status, page = browser.submit("/admin/api/apikey/add/", tenant="made", name="x", roles="query_reader")
    shown = re.search(r'<code id="api-key">(\w+)</code>', page)
    assert status == 200
    assert shown
    with stack.api(shown[1]) as api:
        assert api.call("GET", "/v1/tables").status == 200
    chosen = shown[1].split("_")[1]
    assert browser.submit("/admin/api/apikey/", action="revoke", _selected_action=chosen)[0] == 302
    assert browser.submit("/admin/catalog/tenant/", action="suspend", _selected_action="made")[0] == 302
    pages = re.findall(r'href="(/admin/\w+/\w+/)"', browser.open("GET", "/admin/")[1])
    assert len(pages) > 10
    for address in pages:
        assert browser.open("GET", address)[0] == 200
    return shown[1]


@contextmanager
def watched_arguments() -> Iterator[set[str]]:
    """The command lines of all processes of this machine that are seen during the block."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes().decode(errors="replace"))
                except OSError:  # it has ended meanwhile
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
