"""The servers that every test relies on."""

from urllib.parse import urlsplit

import pytest
import redis
from django.conf import settings
from django.db import connection


@pytest.mark.django_db
def test_database_is_postgresql_18_on_a_loopback_port() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version_num')::int, current_setting('listen_addresses')")
        version, addresses = cursor.fetchone()
    assert version >= 180_000
    assert addresses == "127.0.0.1"


def test_redis_answers_and_needs_its_password() -> None:
    with redis.Redis.from_url(settings.DUCKMESH.redis_url) as client:
        assert client.ping()
    port = urlsplit(settings.DUCKMESH.redis_url).port
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
