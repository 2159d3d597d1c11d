"""The one configuration: what it accepts, how it says no, and the page that documents it."""

from datetime import timedelta
from pathlib import Path

import pytest

from duckmesh.devstack import settings_page
from duckmesh.kernel.config import Config, ConfigError, load_config


def _load(home: Path, **values: str) -> Config:
    return load_config({"DUCKMESH_HOME": str(home), **{f"DUCKMESH_{name}": value for name, value in values.items()}})


def test_without_an_environment_the_defaults_hold(tmp_path: Path) -> None:
    config = _load(tmp_path)
    assert config.port == 8080
    assert config.idempotency_window == timedelta(days=7)
    assert config.max_body_bytes == 64 * 2**20
    assert config.store_url == (tmp_path / "objects").as_uri()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("1.5m", timedelta(seconds=90)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("12", timedelta(seconds=12)),
    ],
)
def test_durations_are_written_with_a_unit(tmp_path: Path, text: str, meant: timedelta) -> None:
    assert _load(tmp_path, IDEMPOTENCY_WINDOW=text).idempotency_window == meant


@pytest.mark.parametrize(("text", "meant"), [("1048576", 2**20), ("64MiB", 2**26), ("2 gib", 2**31), ("10B", 10)])
def test_sizes_are_written_with_a_unit(tmp_path: Path, text: str, meant: int) -> None:
    assert _load(tmp_path, MAX_BODY_BYTES=text).max_body_bytes == meant


@pytest.mark.parametrize("name", ["MAX_BYTES_PER_SECOND", "MAX_STORED_BYTES", "MIN_FREE_DISK_BYTES", "MAX_BUS_BYTES"])
def test_a_bound_that_can_be_off_is_a_size_or_0(tmp_path: Path, name: str) -> None:
    for text, meant in (("0", 0), ("10GiB", 10 * 2**30)):
        assert getattr(_load(tmp_path, **{name: text}), name.lower()) == meant
    with pytest.raises(ConfigError, match=f"DUCKMESH_{name}"):
        _load(tmp_path, **{name: "-1"})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "80800", "DUCKMESH_PORT"),
        ("PORT", "http", "DUCKMESH_PORT"),
        ("MAX_BODY_BYTES", "64 megs", "a number of bytes such as"),
        ("FLUSH_INTERVAL", "soon", "a duration such as"),
        ("DATABASE_URL", "mysql://localhost/x", "postgresql:// or postgres://"),
        ("OBJECT_STORE_URL", "/data", "file:// or s3://"),
        ("LOG_LEVEL", "LOUD", "DUCKMESH_LOG_LEVEL"),
        ("DEBUG", "perhaps", "DUCKMESH_DEBUG"),
        ("ORPHAN_GRACE", "1m", "DUCKMESH_ORPHAN_GRACE must exceed DUCKMESH_ATTEMPT_LIMIT"),
        ("GC_SAFETY_AGE", "6m", "DUCKMESH_GC_SAFETY_AGE must exceed DUCKMESH_MAX_QUERY_TIMEOUT by more than a minute"),
        ("MAX_QUERY_TIMEOUT", "29m", "DUCKMESH_GC_SAFETY_AGE must exceed DUCKMESH_MAX_QUERY_TIMEOUT"),
        ("GC_SAFETY_AGE", "10m", "DUCKMESH_GC_SAFETY_AGE must exceed DUCKMESH_ATTEMPT_LIMIT"),
        ("RETENTION_LADDER", "1d:1m", "DUCKMESH_RETENTION_LADDER: 1d:1m keeps one of each span"),
        ("RETENTION_LADDER", "1m", "needs steps such as 1m:1d,1d:30d"),
        ("MAX_WAITERS", "64", "DUCKMESH_MAX_WAITERS must be below DUCKMESH_API_THREADS"),
        ("COMPACTION_MAX_INPUT_BYTES", "1MiB", "DUCKMESH_COMPACTION_MAX_INPUT_BYTES must not be below"),
    ],
)
def test_a_wrong_value_is_refused_by_name(tmp_path: Path, name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        _load(tmp_path, **{name: value})
    assert said in str(refusal.value)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown setting DUCKMESH_PROT"):
        _load(tmp_path, PROT="8081")


def test_every_wrong_value_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        _load(tmp_path, PORT="0", API_THREADS="none")
    assert "DUCKMESH_PORT" in str(refusal.value)
    assert "DUCKMESH_API_THREADS" in str(refusal.value)


def test_a_wrong_secret_is_not_repeated(tmp_path: Path) -> None:
    assert "hunter2" not in str(_refusal(tmp_path, S3_SECRET_KEY="hunter2", PORT="0"))


def _refusal(home: Path, **values: str) -> ConfigError:
    with pytest.raises(ConfigError) as refusal:
        _load(home, **values)
    return refusal.value


def test_the_environment_wins_over_stack_env(tmp_path: Path) -> None:
    text = "# a comment\nDUCKMESH_REDIS_URL=redis://127.0.0.1:1/0\nDUCKMESH_SECRET_KEY=a=b\n"
    (tmp_path / "stack.env").write_text(text, encoding="utf-8")
    config = _load(tmp_path, REDIS_URL="redis://127.0.0.1:2/0")
    assert config.redis_url == "redis://127.0.0.1:2/0"
    assert config.secret_key == "a=b"


def test_an_owner_belongs_to_the_database_that_it_was_told_with(tmp_path: Path) -> None:
    owner = "postgresql://duckmesh_owner@127.0.0.1:1/duckmesh"
    (tmp_path / "stack.env").write_text(f"DUCKMESH_OWNER_DATABASE_URL={owner}\n", encoding="utf-8")
    other = "postgresql://somebody@db.example/other"
    assert _load(tmp_path).owner_database_url == owner
    assert _load(tmp_path, DATABASE_URL=other).owner_database_url is None
    both = _load(tmp_path, DATABASE_URL=other, OWNER_DATABASE_URL="postgresql://theirs@db.example/other")
    assert both.owner_database_url == "postgresql://theirs@db.example/other"


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path) -> None:
    assert _load(tmp_path, PORT="").port == 8080


def test_the_settings_page_names_every_setting_and_is_up_to_date() -> None:
    text = settings_page.PAGE.read_text(encoding="utf-8")
    assert text == settings_page.page()
    for name in Config.model_fields:
        assert f"`DUCKMESH_{name.upper()}`" in text
