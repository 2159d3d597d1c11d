"""PostgreSQL's own programs, and databases beside the catalog's."""
