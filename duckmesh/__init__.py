"""DuckMesh: a self-hosted analytics ingestion and query plane."""
