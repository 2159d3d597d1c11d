"""The restore drill: a backup that is restored every night, and proven. docs/backup.md tells what it does."""
