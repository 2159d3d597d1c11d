"""CSV to batches of the table's types, by the same rules as JSON."""
