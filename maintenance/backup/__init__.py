"""Backups in a directory: taken, listed, dropped, restored. docs/backup.md tells what is in one."""
