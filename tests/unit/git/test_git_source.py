"""Git sources are read as BuildKit reads them, and nothing in them can become an option."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.errors import UsageError
from shipline.git import GitSource, clean_directory, parse_git_source
from shipline.git.source import PROTOCOLS, join_remote, parse_remote

URL = "https://h/x.git"
COMMIT = "0123456789012345678901234567890123456789"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (URL, GitSource(URL)),
        ("HTTPS://h/x.git", GitSource(URL)),
        (f"{URL}#main", GitSource(URL, ref="main")),
        (f"{URL}#main:a/b", GitSource(URL, ref="main", subdir="a/b")),
        (f"{URL}#:a", GitSource(URL, subdir="a")),
        (f"{URL}#a%20b:c".replace("%20", "%2F"), GitSource(URL, ref="a/b", subdir="c")),
        ("http://h:8080/a/x.git", GitSource("http://h:8080/a/x.git")),
        ("git@h:a/x.git#v1:d", GitSource("git@h:a/x.git", ref="v1", subdir="d")),
        ("me@h.org:x", GitSource("me@h.org:x")),
        ("git@h:x.git?ref=main&subdir=a", GitSource("git@h:x.git", ref="main", subdir="a")),
        ("ssh://git@h:22/x", GitSource("ssh://git@h:22/x")),
        ("git://h/x#r", GitSource("git://h/x", ref="r")),
        (f"{URL}?tag=v1", GitSource(URL, ref="refs/tags/v1")),
        (f"{URL}?branch=b", GitSource(URL, ref="refs/heads/b")),
        (f"{URL}?branch=b#refs/heads/b", GitSource(URL, ref="refs/heads/b")),
        (f"{URL}?commit={COMMIT}", GitSource(URL, ref=COMMIT, checksum=COMMIT)),
        (f"{URL}?commit=ABC", GitSource(URL, checksum="abc")),
        (f"{URL}?ref=main&checksum=ABC", GitSource(URL, ref="main", checksum="abc")),
        (f"{URL}?keep-git-dir", GitSource(URL, keep_git_dir=True)),
        (
            f"{URL}?keep-git-dir=0&submodules=f",
            GitSource(URL, keep_git_dir=False, submodules=False),
        ),
        (f"{URL}?mtime=commit", GitSource(URL, mtime="commit")),
        (f"{URL}?fetch-by-commit=1&ref=m", GitSource(URL, ref="m", by_commit=True)),
    ],
)
def test_a_url_is_a_source(text: str, source: GitSource) -> None:
    assert parse_git_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        *("https://h/x", "https://h/x.git/y", "dir", "./git@h:x", "../x.git", "", "a:b"),
        *("file:///x.git", "ext::sh -c x", "ftp://h/x.git", "/srv/x.git", "-", "git+ssh://h/x.git"),
        "github.com/a/b",
    ],
)
def test_anything_else_is_no_repository(text: str) -> None:
    assert parse_git_source(text) is None


def test_the_short_form_is_for_contexts() -> None:
    assert parse_git_source("github.com/a/b#v1", short=True) == GitSource(
        "https://github.com/a/b", ref="v1"
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"{URL}?x=1", "unknown key 'x'"),
        (f"{URL}?ref=a&ref=b", "given twice"),
        (f"{URL}?ref=", "has no value"),
        (f"{URL}?ref=a#b", "ref conflicts: it is both 'b' and 'a'"),
        (f"{URL}?subdir=a#b:c", "subdir conflicts"),
        (f"{URL}?tag=a&branch=b", "both a tag and a branch"),
        (f"{URL}?tag=a&ref=b", "ref conflicts"),
        (f"{URL}?submodules=maybe", "neither true nor false"),
        (f"{URL}?mtime=now", "not checkout or commit"),
        (f"{URL}?checksum=xyz", "expected hex commit hash"),
        (f"{URL}?ref={COMMIT}&checksum=ff", "does not begin with ff"),
        (f"{URL}#-x", "'-x' is not the name"),
        (f"{URL}#--upload-pack=x", "is not the name"),
        (f"{URL}#a..b", "is not the name"),
        (f"{URL}#a b", "is not the name"),
        (f"{URL}#main:a%00b", "not the path"),
        ("https://h/a b.git", "spaces"),
        ("ssh://-oProxyCommand=x/y", "starts with '-'"),
        ("git@-h:x", "starts with '-'"),
        ("-x@h:y", "starts with '-'"),
        ("git@h:-x", "starts with '-'"),
        ("git://-h/x", "starts with '-'"),
        ("ssh://h", "the host or the path is missing"),
    ],
)
def test_a_wrong_url_is_refused(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_git_source(text)


def test_a_login_is_apart_and_is_never_shown() -> None:
    source = parse_git_source("https://me:s%40crt@h/x.git#main")
    assert source is not None
    assert (source.remote, source.login) == (URL, "me:s@crt")
    assert "crt" not in repr(source) + source.shown + str(source)
    with pytest.raises(UsageError) as caught:
        parse_git_source("https://me:s3crt@h/x.git?x=1")
    assert "s3crt" not in str(caught.value)


def test_a_checksum_of_add_is_that_of_the_url() -> None:
    source = GitSource(URL)
    assert source.with_checksum("AB") == GitSource(URL, checksum="ab")
    assert source.with_checksum("ab").with_checksum("ab") == GitSource(URL, checksum="ab")
    with pytest.raises(UsageError, match="two different checksums"):
        source.with_checksum("ab").with_checksum("cd")


@pytest.mark.parametrize(
    ("remote", "url", "joined"),
    [
        (URL, "../y.git", "https://h/y.git"),
        ("https://h/a/b/x.git", "../../y.git", "https://h/a/y.git"),
        ("https://h/a/x.git", "./y.git", "https://h/a/x.git/y.git"),
        ("git@h:a/x.git", "../y.git", "git@h:a/y.git"),
        ("git@h:x.git", "../y.git", "git@h:y.git"),
        (URL, "ssh://o/y", "ssh://o/y"),
    ],
)
def test_the_url_of_a_submodule_is_relative_to_the_repository(
    remote: str, url: str, joined: str
) -> None:
    assert join_remote(remote, url) == joined


def test_the_url_of_a_submodule_stays_on_the_host() -> None:
    for remote in (URL, "git@h:x.git"):
        with pytest.raises(UsageError, match="leads above"):
            join_remote(remote, "../../../y.git")


@pytest.mark.parametrize("url", ["file:///x", "/srv/x", "ext::sh -c x", "x", "fd::17", "-x"])
def test_only_servers_have_submodules(url: str) -> None:
    with pytest.raises(UsageError):
        parse_remote(url)


@given(st.text())
def test_any_text_is_a_source_or_none_or_refused(text: str) -> None:
    for start in ("", "https://h/x.git", "git@h:x", "ssh://", "github.com/"):
        try:
            found = parse_git_source(start + text, short=True)
        except UsageError:
            continue
        if found is not None:
            assert not any(part.startswith("-") for part in (found.remote, found.ref))
            assert found.remote.partition("://")[0] in PROTOCOLS or "@" in found.remote
            assert not any(one < " " for one in found.remote + found.ref)


@given(st.text(alphabet="ab./", max_size=20))
def test_a_subdirectory_is_inside(subdir: str) -> None:
    parts = clean_directory(subdir).split("/")
    assert ".." not in parts
    assert not clean_directory(subdir).startswith("/")
