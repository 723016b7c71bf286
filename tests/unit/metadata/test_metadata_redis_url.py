"""Where a Redis is: the URLs of redis-cli and redis-py."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipline.errors import ConfigError
from shipline.metadata import RedisUrl


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("redis://cache", RedisUrl("cache")),
        ("redis://cache:7000/3", RedisUrl("cache", 7000, database=3)),
        ("redis://:pa%2Fss@[::1]:1", RedisUrl("::1", 1, password="pa/ss")),
        ("rediss://me:x@cache", RedisUrl("cache", tls=True, username="me", password="x")),
        (
            "rediss://cache?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k&db=2",
            RedisUrl(
                "cache",
                tls=True,
                database=2,
                ca=Path("/ca"),
                certificate=Path("/c"),
                key=Path("/k"),
            ),
        ),
        ("unix:///run/redis.sock?db=1", RedisUrl(path="/run/redis.sock", database=1)),
        ("unix://me:x@/run/a%20b", RedisUrl(path="/run/a b", username="me", password="x")),
    ],
)
def test_a_url_says_where_and_who(text: str, url: RedisUrl) -> None:
    assert RedisUrl.parse(text) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", "cache:6379", "http://me:hunter2@cache", "redis://", "unix://", "redis://c/x"),
        *("redis://me:12#hunter2@cache", "redis://me:12?hunter2@cache", "me:hunter2://@cache"),
        *("redis://me:hunter2@cache:port", "redis://me:hunter2@c?ssl=1", "redis://c:70000"),
    ],
)
def test_what_is_none_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        RedisUrl.parse(text)
    assert "hunter2" not in f"{error.value} {error.value.hint}"
    assert "hunter2" not in repr(RedisUrl.parse("redis://me:hunter2@cache"))
    assert "hunter2" not in str(RedisUrl.parse("redis://me:hunter2@cache"))
