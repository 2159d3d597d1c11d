"""What is told of a failed write holds nothing of its records."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ingest.reasons import reason_of
from storage.errors import UnwritableData

SECRET = 'Ada Lovelace 1815 it\'s in "range" of 17'


@pytest.mark.parametrize(
    ("values", "target"),
    [
        ([SECRET], pa.int64()),
        ([SECRET], pa.timestamp("us")),
        ([SECRET], pa.bool_()),
        ([SECRET], pa.decimal128(10, 2)),
        ([4815162342], pa.int32()),
        ([1.8151815], pa.int64()),
        ([2**60 + 1], pa.float64()),
        ([-4815], pa.decimal128(3, 2)),
    ],
)
def test_reason_of_a_failed_cast_has_none_of_the_value(values: list[object], target: pa.DataType) -> None:
    with pytest.raises(pa.ArrowException) as caught:
        pa.array(values).cast(target)
    said, told = str(caught.value), reason_of(caught.value)
    assert told, said
    for piece in ("Ada", "Lovelace", "1815", "4815", "1.8", "1152921504606846977", "17"):
        assert piece not in told, said


def test_reason_still_says_what_was_wrong() -> None:
    with pytest.raises(pa.ArrowInvalid) as caught:
        pc.cast(pa.array([4815162342]), pa.int32())
    assert reason_of(caught.value) == "Integer value … not in range: … to …"
    with pytest.raises(pa.ArrowInvalid) as caught:
        pa.array(["sesame"]).cast(pa.int64())
    assert reason_of(caught.value) == "Failed to parse string: … as a scalar of type int64"
    assert reason_of(ValueError("the envelope holds 3 rows and should hold 4")) == (
        "the envelope holds … rows and should hold …"
    )


def test_our_own_errors_are_told_whole() -> None:
    error = UnwritableData("The rows hold a value that is not of its column's type", column="n")
    assert reason_of(error) == error.message


def test_reason_is_short_and_can_be_stored() -> None:
    assert reason_of(ValueError("sesame " * 10_000)) == "…"
    assert len(reason_of(ValueError("value 1 " * 10_000))) == 500
    assert "\0" not in reason_of(UnwritableData("a\0b"))
