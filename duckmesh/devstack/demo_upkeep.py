"""The part of the demo's tour in which the lake is kept small and true: what each job is asked for, and changes."""

import time
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from duckmesh.devstack.errors import StackError
from duckmesh.devstack.http import Api

_WAIT_SECONDS = 45
_RUN_SECONDS = 300


def keep_house(api: Api, console: Console) -> None:
    """The demo's tables are compacted, a collection is shown dry, the lake is checked, and a backup of it was restored.

    Raises `StackError` if a job does not end well.
    """
    console.print("\nMaintenance, each a run that can be watched under /v1/runs:", style="bold")
    for job in (_compact, _collect, _check, _drill):
        job(api, console)


def _compact(api: Api, console: Console) -> None:
    summary = _run(api, "compaction", full=True)
    if not summary["tables"]:
        console.print("Compaction found nothing to do: every table is as few files as it can be.")
        return
    table = Table("compacted", "files", "became", "bytes", "became")
    for each in summary["tables"]:
        before, after = each["before"], each["after"]
        table.add_row(
            each["table_name"],
            str(before["files"]),
            str(after["files"]),
            decimal(before["bytes"]),
            decimal(after["bytes"]),
        )
    console.print(table)
    console.print(
        f"{summary['input_rows']:,} rows were rewritten, and each file was proven to hold what it replaces before it "
        "was published. Snapshots from before still read the files of their time."
    )


def _collect(api: Api, console: Console) -> None:
    summary = _run(api, "retention", dry_run=True)
    console.print(
        f"Retention, as a dry run: {summary['snapshots_expired']} snapshots would expire and "
        f"{summary['files_deleted']} files would be deleted ({decimal(summary['bytes_deleted'])}). For example:"
    )
    for each in summary["snapshots"][:3]:
        fate = "expire" if each["expires"] else "stay"
        console.print(f"  snapshots {each['from']} to {each['to']} {fate}: {each['reason']}")
    for each in summary["objects"][:2]:
        console.print(f"  {each['key']}: {each['reason']}", highlight=False)


def _check(api: Api, console: Console) -> None:
    summary = _run(api, "integrity", mode="deep")
    console.print(
        f"Integrity, deep: {summary['unique_files_checked']} files of {summary['snapshots_scanned']} snapshots were "
        f"read whole; {summary['missing_files']} missing, {summary['checksum_mismatch_files']} altered, "
        f"{summary['orphan_files']} orphans."
    )


def _drill(api: Api, console: Console) -> None:
    summary = _run(api, "restore-drill", checksums=True)
    rows = sum(each["rows"] for each in summary["tables"].values())
    console.print(
        f"Restore drill: the catalog was dumped and restored beside itself in {summary['rto_seconds']:.1f} s; "
        f"{rows:,} rows of {len(summary['tables'])} catalog tables have the same checksums, and the copy reads the "
        f"same rows of {len(summary['tables_read'])} tables from the store. It is {summary['rpo_seconds']:.1f} s old."
    )


# Any: the summary is the job's own JSON.
def _run(api: Api, job: str, **options: object) -> dict[str, Any]:
    """The summary of a run of the job that ended well."""
    answer = api.call("POST", f"/v1/{job}/run", {"wait_seconds": _WAIT_SECONDS, "reason": "the demo", **options})
    if answer.status not in (200, 202):
        raise StackError(f"The {job} did not end well: {answer.body.decode(errors='replace')}")
    path = f"/v1/runs/{answer.json()['run_id']}"
    deadline = time.monotonic() + _RUN_SECONDS
    while (run := api.call("GET", path).json())["state"] in ("queued", "running"):
        if time.monotonic() > deadline:
            raise StackError(f"The {job} did not end within {_RUN_SECONDS} s; GET {path} tells where it stands.")
        time.sleep(0.5)
    if run["state"] != "succeeded":
        raise StackError(f"The {job} did not end well: {run['error_code']} {run['error']}")
    found: dict[str, Any] = run["summary"]
    return found
