"""Migrations on a real PostgreSQL: all the way up, all the way down, and up again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from django.conf import settings

ROOT = Path(__file__).resolve().parents[2]
APPS = ["api", "query", "maintenance", "ingest", "catalog"]  # from the top down: each depends on those behind it


@pytest.fixture
def database() -> Iterator[str]:
    """The address of an empty database."""
    server = settings.DUCKMESH.database_url.rsplit("/", 1)[0]
    connection = psycopg2.connect(f"{server}/postgres")
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE migrations_up_and_down")
            try:
                yield f"{server}/migrations_up_and_down"
            finally:
                cursor.execute("DROP DATABASE migrations_up_and_down WITH (FORCE)")
    finally:
        connection.close()


def manage(database: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "DUCKMESH_DATABASE_URL": database},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def schema(database: str) -> list[tuple[str, ...]]:
    """Every table, column, index, constraint and function that is there, with its definition."""
    connection = psycopg2.connect(database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT 'column', table_name::text, column_name::text, data_type || coalesce(column_default, '')
                       || is_nullable
                  FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'django_migrations'
                UNION ALL
                SELECT 'index', tablename, indexname, indexdef FROM pg_indexes
                 WHERE schemaname = 'public' AND tablename <> 'django_migrations'
                UNION ALL
                SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
                 WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'django_migrations'
                UNION ALL
                SELECT 'function', proname, pg_get_function_arguments(oid), prosrc FROM pg_proc
                 WHERE pronamespace = 'public'::regnamespace
                UNION ALL
                SELECT 'storage', relname, coalesce(array_to_string(reloptions, ','), ''), '' FROM pg_class
                 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
                ORDER BY 1, 2, 3, 4
                """
            )
            return cursor.fetchall()
    finally:
        connection.close()


def test_migrations_go_up_and_down_and_up_again(database: str) -> None:
    manage(database, "migrate")
    up = schema(database)
    for app in APPS:
        manage(database, "migrate", app, "zero")
    ours = [row for row in schema(database) if not row[1].startswith(("auth_", "django_"))]
    assert ours == [], "nothing of ours is left behind"
    manage(database, "migrate")
    assert schema(database) == up


def test_models_and_migrations_agree() -> None:
    url = settings.DUCKMESH.database_url
    assert "No changes" in manage(url.rsplit("/", 1)[0] + "/postgres", "makemigrations", "--check", "--dry-run")
