"""Arrow streams and Parquet files to batches of the table's types: exactly, or refused by name."""
