"""URLs of users and servers that have no parts are errors of their own, never a traceback."""

from __future__ import annotations

import pytest

from shipline.build.downloads import file_name
from shipline.errors import RegistryError, UsageError
from shipline.git import parse_git_source
from shipline.net import split_url
from shipline.registry.hosts import Proxies
from shipline.registry.request import Origin, Url

WRONG = (
    "http://[::1/x.git",
    "https://host:port/x.git",
    "http://[zz]/x.git",
    "http://\u2100.a/x.git",
)


@pytest.mark.parametrize("url", WRONG)
@pytest.mark.parametrize("read", [split_url, parse_git_source, file_name])
def test_a_url_without_parts_is_a_usage_error(url: str, read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="is not a URL"):
        read(url)


def test_the_message_has_no_login() -> None:
    with pytest.raises(UsageError, match=r"^'https://host:port/x' is not a URL") as caught:
        split_url("https://user:secret@host:port/x")
    assert "secret" not in str(caught.value)


def test_a_proxy_that_is_no_url_is_named() -> None:
    proxies = Proxies.from_environment({"https_proxy": "http://[::1"})
    with pytest.raises(UsageError, match="the proxy in the environment: "):
        proxies.of(Origin("https", "example.com", 443))


def test_a_location_that_is_no_url_is_an_error_of_the_registry() -> None:
    with pytest.raises(RegistryError, match="not a usable URL"):
        Url.parse("https://example.com/v2/").join("//[::1/upload")
