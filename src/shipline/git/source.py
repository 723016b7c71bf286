"""A Git repository as the source of a build: what people write, parsed.

    https://host/x.git#ref:directory      ssh://git@host/x.git      git://host/x.git
    git@host:x.git#ref                    https://host/x.git?tag=v1&subdir=dir&keep-git-dir=1

The forms are BuildKit's (frontend/dockerfile/dfgitutil). An HTTP URL is a repository only where its
path ends in `.git`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qs, unquote

from msgspec import Struct

from shipline.errors import UsageError
from shipline.net import split_url, without_logins
from shipline.units import parse_boolean
from shipline.values import replace

PROTOCOLS = ("http", "https", "ssh", "git")
Mtime = Literal["checkout", "commit"]

_SCHEME = re.compile(r"([A-Za-z0-9]+)://")
_SCP = re.compile(r"([A-Za-z0-9_-]+)@([A-Za-z0-9.-]+):([^?#]*)(?:[?#].*)?\Z", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_BAD_REF = re.compile(
    r"^[-/.]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|[/.]\Z|^@\Z"
)  # git-check-ref-format(1)
_HEX = re.compile(r"[0-9a-fA-F]+\Z")
_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_SHORT = "github.com/"


class InvalidGitUrl(UsageError):
    """The URL of a Git repository, or a part of it, is not one that git takes."""

    code = "git-url"


class GitSource(Struct, frozen=True):
    """A tree of a repository. `remote` has no login, which is `login` (`user:password`); an empty
    `ref` is the default branch, and an empty `subdir` the whole tree.

    `checksum` is the beginning of the expected commit or tag object. `keep_git_dir` None is what
    the build says. Files have the time of the checkout, or of the commit.
    """

    remote: str
    login: str = ""
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool = True
    mtime: Mtime = "checkout"
    by_commit: bool = False

    def __repr__(self) -> str:
        return f"GitSource({self.shown})"

    @property
    def shown(self) -> str:
        """The source for messages, in its short form."""
        fragment = f"{self.ref}:{self.subdir}" if self.subdir else self.ref
        return f"{self.remote}#{fragment}" if fragment else self.remote

    @property
    def is_ssh(self) -> bool:
        return is_ssh(self.remote)

    @property
    def host(self) -> str:
        """The host, with the port if there is one; empty for `git@host:path`."""
        return split_url(self.remote).netloc.rpartition("@")[2]

    def with_checksum(self, checksum: str) -> GitSource:
        """The source with the checksum of `ADD --checksum`. Raises UsageError for another one."""
        if not checksum or checksum == self.checksum:
            return self
        if self.checksum:
            raise UsageError(
                f"{self.shown} has two different checksums, {self.checksum} and {checksum}",
                code="checksum-mismatch",
                hint="remove the one in the URL or the one of ADD",
            )
        return _checked(replace(self, checksum=checksum))


def is_commit(text: str) -> bool:
    """Whether `text` is the whole hash of an object, SHA-1 or SHA-256."""
    return _COMMIT.match(text) is not None


def is_ssh(remote: str) -> bool:
    return remote.startswith("ssh://") or "://" not in remote


def parse_git_source(text: str, *, short: bool = False) -> GitSource | None:
    """The source that `text` names; None where it is not a Git repository.

    `short` also takes `github.com/owner/name`. Raises UsageError for one that is wrong.
    """
    if short and text.startswith(_SHORT):
        text = f"https://{text}"
    elif not _is_repository(text):
        return None
    head, _, fragment = text.partition("#")
    head, _, query = head.partition("?")
    remote, login = parse_remote(head)
    if "://" in head:
        fragment = unquote(fragment)
    ref, _, subdir = fragment.partition(":")
    return _checked(_with_query(GitSource(remote, login, ref, subdir), query))


def _is_repository(text: str) -> bool:
    if match := _SCHEME.match(text):
        scheme = match[1].lower()
        path = re.split("[?#]", text, maxsplit=1)[0]
        return scheme in ("ssh", "git") or (scheme in PROTOCOLS and path.endswith(".git"))
    return _SCP.match(text) is not None


def parse_remote(text: str) -> tuple[str, str]:
    """The URL of a repository without its login, and the login: `user:password`, decoded, of an
    HTTP URL.

    Raises UsageError for a protocol that is not allowed, and for names that a program could take
    for an option.
    """
    shown = without_logins(text)
    if _UNPRINTABLE.search(text):
        raise InvalidGitUrl(f"the Git URL {shown!r} has spaces or control characters")
    match = _SCHEME.match(text)
    if match is None:
        if (scp := _SCP.match(text)) is None:
            raise InvalidGitUrl(
                f"{shown!r} is not the URL of a Git repository",
                hint=f"it starts with {', '.join(f'{one}://' for one in PROTOCOLS)} or git@HOST:",
            )
        _refuse_options(text, scp[1], scp[2], scp[3])
        return text, ""
    scheme = match[1].lower()
    if scheme not in PROTOCOLS:
        raise InvalidGitUrl(
            f"{shown!r}: the protocol {scheme} is not allowed for Git repositories",
            hint=f"use one of {', '.join(PROTOCOLS)}",
        )
    authority, slash, path = text[match.end() :].partition("/")
    login, at, host = authority.rpartition("@")
    if not host or not path:
        raise InvalidGitUrl(
            f"{shown!r} is not the URL of a Git repository: the host or the path is missing"
        )
    _refuse_options(text, login, host)
    split_url(f"{scheme}://{host}")
    if scheme in ("http", "https"):
        user, _, password = login.partition(":")
        kept, login = "", f"{unquote(user)}:{unquote(password)}" if at else ""
    else:
        kept, login = f"{login.partition(':')[0]}{at}", ""
    return f"{scheme}://{kept}{host}{slash}{path}", login


def _refuse_options(text: str, *words: str) -> None:
    if any(word.startswith("-") for word in words):
        raise InvalidGitUrl(f"the Git URL {without_logins(text)!r} has a name that starts with '-'")


def _with_query(source: GitSource, query: str) -> GitSource:
    """`source` with what the query says. Raises UsageError as BuildKit refuses it."""
    values: dict[str, str] = {}
    for key, found in parse_qs(query, keep_blank_values=True, separator="&").items():
        if len(found) > 1:
            raise InvalidGitUrl(f"{source.shown}: {key} is given twice in the query")
        if not found[0] and key not in ("submodules", "keep-git-dir", "fetch-by-commit"):
            raise InvalidGitUrl(f"{source.shown}: {key} has no value in the query")
        values[key] = found[0]
    if unknown := sorted(values.keys() - _KEYS):
        raise InvalidGitUrl(
            f"{source.shown}: the query has the unknown key {unknown[0]!r}",
            hint=f"known: {', '.join(sorted(_KEYS))}",
        )
    mtime = values.get("mtime", "checkout")
    if mtime not in ("checkout", "commit"):
        raise InvalidGitUrl(f"{source.shown}: mtime is {mtime!r}, not checkout or commit")
    checksum = _only("checksum", source, values.get("checksum"), values.get("commit"))
    keep = values.get("keep-git-dir")
    ref = _ref(source, values)
    return replace(
        source,
        ref=ref or (checksum if is_commit(checksum.lower()) else ""),
        subdir=_only("subdir", source, source.subdir, values.get("subdir")),
        checksum=checksum,
        keep_git_dir=None if keep is None else _boolean(source, "keep-git-dir", keep),
        submodules=_boolean(source, "submodules", values.get("submodules", "")),
        mtime="commit" if mtime == "commit" else "checkout",
        by_commit="fetch-by-commit" in values
        and _boolean(source, "fetch-by-commit", values["fetch-by-commit"]),
    )


_KEYS = frozenset(
    {"ref", "tag", "branch", "commit", "checksum", "subdir"}
    | {"keep-git-dir", "submodules", "mtime", "fetch-by-commit"}
)


def _ref(source: GitSource, values: Mapping[str, str]) -> str:
    """The ref of fragment and query; a tag or branch is written out."""
    if "tag" in values and "branch" in values:
        raise InvalidGitUrl(f"{source.shown}: the query has both a tag and a branch")
    full = [
        prefix + values[key].removeprefix(prefix)
        for key, prefix in (("tag", "refs/tags/"), ("branch", "refs/heads/"))
        if key in values
    ]
    return _only("ref", source, source.ref, values.get("ref"), *full)


def _only(what: str, source: GitSource, *values: str | None) -> str:
    """The one of `values` that is given. Raises UsageError for two that differ."""
    found = list(dict.fromkeys(filter(None, values)))
    if len(found) > 1:
        raise InvalidGitUrl(
            f"{source.shown}: {what} conflicts: it is both {found[0]!r} and {found[1]!r}"
        )
    return found[0] if found else ""


def _boolean(source: GitSource, key: str, text: str) -> bool:
    if (value := parse_boolean(text or "true")) is None:
        raise InvalidGitUrl(f"{source.shown}: {key} is {text!r}, neither true nor false")
    return value


def _checked(source: GitSource) -> GitSource:
    if source.ref and _BAD_REF.search(source.ref):
        raise InvalidGitUrl(f"{source.remote}: {source.ref!r} is not the name of a Git ref")
    if source.checksum and not _HEX.match(source.checksum):
        raise UsageError(
            f"{source.remote}: invalid checksum {source.checksum!r}, expected hex commit hash",
            code="checksum-mismatch",
            hint="write the hash in hexadecimal, without sha256:",
        )
    if _UNPRINTABLE.search(source.subdir.replace(" ", "")):
        raise InvalidGitUrl(f"{source.remote}: {source.subdir!r} is not the path of a directory")
    checksum, ref = source.checksum.lower(), source.ref
    if _COMMIT.match(ref.lower()):
        ref = ref.lower()
    if checksum and is_commit(ref) and not ref.startswith(checksum):
        raise UsageError(
            f"{source.remote}: expected checksum to match: the commit {ref} does not begin with"
            f" {checksum}",
            code="checksum-mismatch",
        )
    return replace(source, checksum=checksum, ref=ref)


def clean_directory(subdir: str) -> str:
    """`subdir` inside the tree: without `.` and `..`, empty for the whole tree."""
    return posixpath.normpath(f"/{subdir}").lstrip("/")


def join_remote(remote: str, url: str) -> str:
    """The URL of a submodule, which may be relative to `remote` (gitmodules(5)).

    Raises UsageError for one that leads above the host.
    """
    if not url.startswith(("./", "../")):
        return url
    base = remote.rstrip("/")
    rest = url
    while rest.startswith(("./", "../")):
        if rest.startswith("../"):
            base = _parent(base, url)
        rest = rest.partition("/")[2].lstrip("/")
    separator = "" if base.endswith(":") else "/"
    return f"{base}{separator}{rest}".rstrip("/")


def _parent(base: str, url: str) -> str:
    """`base` without its last name; `git@host:name` becomes `git@host:`."""
    head, separator, _ = base.rpartition("/")
    if separator and not head.endswith(("/", ":")):
        return head
    head, separator, name = base.rpartition(":")
    if separator and name and "://" not in base:
        return f"{head}:"
    raise InvalidGitUrl(f"the submodule URL {url!r} leads above {base}")
