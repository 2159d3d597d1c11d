"""What every data file's columns carry, and the columns that are ours. Numbers in files: never to be changed."""

FIELD_ID_KEY = b"PARQUET:field_id"
TYPE_KEY = b"duckmesh:type"
HOLDS_KEY = b"duckmesh:holds"

TOKEN_COLUMN = "_duckmesh_token"  # noqa: S105 (the name of a column, not a secret)
TOKEN_FIELD_ID = 2_147_483_000
OP_COLUMN = "_duckmesh_op"
OP_FIELD_ID = 2_147_483_001
