"""Request bodies to typed Arrow batches. Pure: no Django, no database, no clock."""
