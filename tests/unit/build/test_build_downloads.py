"""ADD of URLs: what is asked of a server, what is kept, and what the file is called."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pytest

from shipline.build.cache import Cache, open_records
from shipline.build.downloads import Downloader, file_name, parse_checksum, place_file
from shipline.build.locating import is_http
from shipline.content import LocalStore
from shipline.errors import ContentError, DockerfileError, RegistryError, UsageError
from shipline.events import Step, silent
from shipline.net import without_logins
from shipline.oci import Digest
from shipline.values import replace

URL = "https://example.org/f.txt"
DATE = "Thu, 02 Jan 2020 03:04:05 GMT"


class FakeReply(BytesIO):
    def __init__(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(content)
        self.status = status
        self._headers = headers

    def header(self, name: str) -> str:
        return self._headers.get(name, "")


@dataclass
class Server:
    content: bytes = b"one"
    etag: str = '"1"'
    headers: Mapping[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def get(self, url: str, headers: Mapping[str, str]) -> FakeReply:
        self.asked.append((url, dict(headers)))
        if not self.content:
            raise RegistryError("no", host="example.org", status=404)
        if self.etag and headers.get("If-None-Match") == self.etag:
            return FakeReply(304, b"", {})
        always = {"ETag": self.etag, "Last-Modified": DATE}
        return FakeReply(200, self.content, {**always, **self.headers})


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def downloader(tmp_path: Path, server: Server) -> Iterator[Downloader]:
    store = LocalStore(tmp_path / "content")
    with open_records(tmp_path / "cache.db", print) as records:
        yield Downloader(server.get, Cache(records, store, tmp_path), store)


@pytest.fixture
def step() -> Iterator[Step]:
    with silent() as step:
        yield step


def test_an_unchanged_file_is_not_sent_again(
    downloader: Downloader, server: Server, step: Step
) -> None:
    first = downloader.fetch(URL, "", step)
    assert downloader.fetch(URL, "", step) == first
    assert server.asked == [(URL, {}), (URL, {"If-None-Match": '"1"'})]
    server.content, server.etag = b"two", '"2"'
    assert downloader.fetch(URL, "", step).content.digest == Digest.of(b"two")


def test_a_file_with_the_known_etag_is_not_read(
    downloader: Downloader, server: Server, step: Step
) -> None:
    """Some servers send a file whatever its ETag is."""
    first = downloader.fetch(URL, "", step)
    careless = FakeReply(200, b"not read", {"ETag": server.etag})
    assert replace(downloader, get=lambda url, headers: careless).fetch(URL, "", step) == first
    assert careless.closed


@pytest.mark.parametrize("etag", ["", 'W/"1"'])
def test_without_a_strong_etag_it_is_always_sent(
    downloader: Downloader, server: Server, step: Step, etag: str
) -> None:
    server.etag = etag
    downloader.fetch(URL, "", step)
    downloader.fetch(URL, "", step)
    assert [headers for _, headers in server.asked] == [{}, {}]


def test_content_that_is_sent_encoded_is_decoded(
    downloader: Downloader, server: Server, step: Step
) -> None:
    server.content, server.headers = gzip.compress(b"one"), {"Content-Encoding": "gzip"}
    assert downloader.fetch(URL, str(Digest.of(b"one")), step).content.size == 3
    server.content, server.etag = b"no gzip", ""
    with pytest.raises(ContentError, match="damaged archive"):
        downloader.fetch(URL, "", step)


def test_a_checksum_that_is_met_needs_no_server(
    downloader: Downloader, server: Server, step: Step
) -> None:
    downloader.fetch(URL, str(Digest.of(b"one")), step)
    server.content = b""
    assert downloader.fetch(URL, str(Digest.of(b"one")), step).content.size == 3
    assert len(server.asked) == 1


def test_another_checksum_is_refused_each_time(
    downloader: Downloader, server: Server, step: Step
) -> None:
    for _ in range(2):
        with pytest.raises(UsageError, match="digest mismatch"):
            downloader.fetch(URL, str(Digest.of(b"other")), step)


def test_lost_content_is_fetched_again(downloader: Downloader, server: Server, step: Step) -> None:
    found = downloader.fetch(URL, "", step)
    downloader.store.path(found.content.digest).unlink()
    downloader.fetch(URL, "", step)
    assert [headers for _, headers in server.asked] == [{}, {}]


def test_the_hint_speaks_of_the_url(downloader: Downloader, server: Server, step: Step) -> None:
    server.content = b""
    with pytest.raises(RegistryError) as caught:
        downloader.fetch(URL, "", step)
    assert caught.value.hint == "check the URL: the server has no such file"


def test_a_login_goes_into_a_header_alone(
    downloader: Downloader, server: Server, step: Step
) -> None:
    downloader.fetch("https://me:s%40crt@example.org/f.txt#part", "", step)
    login = b64encode(b"me:s@crt").decode()
    assert server.asked == [(URL, {"Authorization": f"Basic {login}"})]
    assert without_logins("https://me:secret@example.org/f.txt") == URL


def test_logins_are_left_out_of_any_text() -> None:
    text = "ADD https://me:a@b@h/x?y=c@d http://h?u=a@b git@h:x /e@f/"
    assert without_logins(text) == "ADD https://h/x?y=c@d http://h?u=a@b git@h:x /e@f/"
    assert without_logins("ssh://git@h:22/x ssh://u:p@h/x") == "ssh://git@h:22/x ssh://h/x"


def test_a_login_is_in_no_record(downloader: Downloader, step: Step, tmp_path: Path) -> None:
    url = "https://me:secret@example.org/f.txt"
    assert downloader.fetch(url, "", step) == downloader.fetch(url, "", step)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("cache.db*"))
    assert b"example.org/f.txt" in kept and b"secret" not in kept


def test_the_file_is_private_and_has_the_time_of_the_server(
    downloader: Downloader, step: Step, tmp_path: Path
) -> None:
    place_file(downloader.fetch(URL, "", step), downloader.store, tmp_path / "f")
    status = (tmp_path / "f").stat()
    assert (status.st_mode & 0o777, status.st_mtime) == (0o600, 1577934245)


@pytest.mark.parametrize(
    "url, name",
    [
        ("https://h/a/b.txt?x=/y", "b.txt"),
        ("https://h/a%20b", "a b"),
        ("https://h/", "__unnamed__"),
        ("https://h", "__unnamed__"),
        ("https://h/a/..", "__unnamed__"),
        ("https://h/%2e%2e", "__unnamed__"),
        ("https://h/x%2Fy", "y"),
    ],
)
def test_the_name_is_the_last_part_of_the_path(url: str, name: str) -> None:
    assert file_name(url) == name


def test_only_http_has_files() -> None:
    assert is_http("https://h/x.txt") and is_http("HTTP://h")
    for text in ("git@h:x", "ssh://h/x", "ftp://h/x", "a/https://h", ""):
        assert not is_http(text)


def test_a_checksum_is_a_digest() -> None:
    assert parse_checksum("", None) == ""
    for text, said in (
        ("sha256:00", "invalid checksum digest length"),
        ("sha256", "invalid checksum digest format"),
        ("sha256:", "invalid checksum digest format"),
        (f"sha256:{'g' * 64}", "invalid checksum digest format"),
        (f"md5:{'0' * 32}", "unsupported digest algorithm"),
    ):
        with pytest.raises(DockerfileError, match=f"--checksum={text}: {said}"):
            parse_checksum(text, None)


def test_a_file_that_was_never_sent_is_not_unchanged(downloader: Downloader, step: Step) -> None:
    fetch = replace(downloader, get=lambda url, headers: FakeReply(304, b"", {})).fetch
    with pytest.raises(RegistryError, match="304 Not Modified"):
        fetch(URL, "", step)
