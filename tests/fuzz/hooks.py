"""What schemathesis is told of this API beside its document (SCHEMATHESIS_HOOKS). It runs in its own environment."""

import schemathesis


@schemathesis.hook
def before_call(_context, case, _kwargs):  # type: ignore[no-untyped-def]  # schemathesis is not in our environment
    """Who asks for a run waits half a minute for it unless they say otherwise; here nobody waits."""
    if not case.path.endswith("/run"):
        return
    if not isinstance(case.body, dict | list | str | int | float | bytes | None):
        case.body, case.media_type = {"wait_seconds": 0}, "application/json"
    elif isinstance(case.body, dict):
        seconds = case.body.get("wait_seconds", 30)
        if isinstance(seconds, int | float) and 0 < seconds < 1_000:
            case.body = {**case.body, "wait_seconds": 0}
