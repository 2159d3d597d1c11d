"""The catalog held against the object store, and against itself."""
