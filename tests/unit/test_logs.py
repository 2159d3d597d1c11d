"""What a line of the log says of errors, and what it does not."""

import io
import json
import logging
import sys
from typing import Any

import pytest
import structlog

from duckmesh.kernel.logs import Service, configure_logs, kind_of
from duckmesh.kernel.traces import MOST_LINKS, go_on, headers, trace_of, working_for

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(autouse=True)
def _about_nothing() -> None:
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The lines that have been written since; the logs of the test run are as before afterwards."""
    root, config = logging.getLogger(), structlog.get_config()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs(level="INFO", json=True)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)
    structlog.configure(**config)
    structlog.contextvars.clear_contextvars()


def test_a_line_has_every_member_even_if_it_is_about_none(written: Any) -> None:
    structlog.get_logger("new").info("something_happened")
    logging.getLogger("library").info("said %s", "something")
    ours, theirs = written()
    for line in (ours, theirs):
        assert line["service"] == Service.name
        assert {line[name] for name in ("tenant_id", "trace_id", "request_id", "error_code")} == {None}
        assert line["timestamp"].endswith("Z")
    assert (ours["event"], theirs["event"], theirs["logger"]) == ("something_happened", "said something", "library")


def test_an_error_is_its_kind_and_its_places_and_never_its_message(written: Any) -> None:
    try:
        try:
            raise ValueError("canary")
        except ValueError as exc:
            raise RuntimeError("canary") from exc
    except RuntimeError as exc:
        structlog.get_logger("new").error("it_broke", exc_info=exc)
        structlog.get_logger("new").exception("it_broke")
        logging.getLogger("library").exception("it broke")
    for line in written():
        assert "canary" not in line["exception"].replace('"canary"', "")  # but in the source of this test
        assert line["exception"].index("builtins.ValueError\n") < line["exception"].index("builtins.RuntimeError\n")
        assert "test_logs.py" in line["exception"]


def test_what_a_failed_task_said_is_not_repeated(written: Any) -> None:
    about = {"name": "a.task", "id": "17", "exc": "canary", "traceback": "canary"}
    logging.getLogger("celery.app.trace").error("Task %(name)s raised %(exc)r", about, extra={"data": about})
    (line,) = written()
    assert (line["event"], line["task"], line["task_id"]) == ("task_failed", "a.task", "17")
    assert "canary" not in str(line)


def test_libraries_do_not_debug_into_our_log(written: Any) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger("library").debug("the headers")
    assert written() == []


def test_the_systems_own_words_for_an_error_are_kept() -> None:
    assert kind_of(FileNotFoundError(2, "No such file or directory", "canary")) == (
        "FileNotFoundError No such file or directory"
    )
    assert kind_of(ValueError("canary")) == "ValueError"


def test_a_trace_is_known_only_from_a_well_formed_header() -> None:
    assert trace_of(f"00-{TRACE}-00f067aa0ba902b7-01") == TRACE
    for wrong in (None, "", TRACE, f"ff-{TRACE}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01", 7):
        assert trace_of(wrong) is None


def test_a_message_names_its_trace_and_a_few_others() -> None:
    traces = [f"{number:032x}" for number in range(1, 20)]
    with working_for(traces):
        message = headers()
    assert headers() == {}
    go_on(message)
    bound = structlog.contextvars.get_contextvars()
    structlog.contextvars.clear_contextvars()
    assert (bound["trace_id"], bound["trace_links"]) == (traces[0], traces[1:MOST_LINKS])


def test_a_message_that_names_no_trace_begins_one() -> None:
    go_on({"traceparent": "canary", "duckmesh_trace_links": ["canary", 7]})
    bound = structlog.contextvars.get_contextvars()
    structlog.contextvars.clear_contextvars()
    assert bound.keys() == {"trace_id"}
    assert len(bound["trace_id"]) == 32
