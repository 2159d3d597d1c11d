"""What DuckDB is told when files are rewritten."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from maintenance.rewrite import RewriteLimits, TargetColumn, rewriter
from storage.reading import ScanColumn

ID = TargetColumn(scan=ScanColumn(field_id=1, name="id", duckdb_type="BIGINT"), kind="int64")


@pytest.mark.parametrize(("bytes_of_a_row", "groups"), [(10, 1), (2_048, 2), (1_000_000, 5)])
def test_row_groups_have_fewer_rows_where_rows_are_long(tmp_path: Path, bytes_of_a_row: float, groups: int) -> None:
    with rewriter(RewriteLimits(), scratch=tmp_path) as engine:
        made = engine.write(
            "SELECT i AS id FROM range(10000) r(i)",
            name="made.parquet",
            columns=[ID],
            order_by=(),
            bytes_of_a_row=bytes_of_a_row,
        )
        assert made is not None
        assert pq.read_metadata(made.path).num_row_groups == groups
        assert (made.proof.count, made.columns[0].min, made.columns[0].max) == (10_000, 0, 9_999)
    assert not list(tmp_path.iterdir())
