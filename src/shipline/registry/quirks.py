"""What real registries do otherwise than the distribution specification says: one table.

A row is found by the host, or by a header that the registry sends. What a client can put up with
everywhere needs no field and stands in `tolerated`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache

from msgspec import Struct

PAGE = 1000  # tags; ECR refuses more
_PUSH = frozenset({"pull", "push"})


class Quirks(Struct, frozen=True):
    """A registry: `hosts` are patterns of its names, `shown` a header and the pattern of its value.

    `resumes` is False where the second PATCH of an upload loses its bytes, `referrers` where that
    API does something else. `chunk` is the most bytes that a numbered chunk may have, 0 for any
    number. `checks_blobs` is True where a manifest whose blobs are missing is known to be refused.
    `posts_blobs` is True where the request that opens an upload takes a whole blob (end-4b), which
    others leave unread. Tokens for deletes need `delete_actions`; `delete_hint` says how to delete
    what this API does not.
    """

    name: str = ""
    hosts: tuple[str, ...] = ()
    shown: tuple[str, str] = ("", "")
    resumes: bool = True
    referrers: bool = True
    chunk: int = 0
    checks_blobs: bool = False
    posts_blobs: bool = False
    delete_actions: frozenset[str] = _PUSH
    delete_hint: str = ""
    tolerated: str = ""


_NONE = Quirks()
_CHALLENGE = "WWW-Authenticate"
QUIRKS = (
    Quirks(
        "Docker Hub",
        ("registry-1.docker.io", "docker.io", "index.docker.io"),
        checks_blobs=True,
        delete_hint="delete it at https://hub.docker.com",
        tolerated="errors have `message` or `details` instead of `errors`; a mount needs a token "
        "for both repositories; the rate limit is in `ratelimit-*` headers",
    ),
    Quirks(
        "GitHub Container Registry",
        ("ghcr.io", "containers.*.ghe.com"),
        referrers=False,
        chunk=4 << 20,
        checks_blobs=True,
        delete_hint="delete the version of the package on its page or with GitHub's API",
        tolerated="the referrers API redirects to a web API; a chunk above 4 MiB is answered 416",
    ),
    Quirks(
        "Amazon ECR",
        (
            "*.dkr[.-]ecr*.amazonaws.com",
            "*.dkr[.-]ecr*.amazonaws.com.cn",
            "*.dkr[.-]ecr*.on.aws",
            "public.ecr.aws",
        ),
        resumes=False,  # aws/containers-roadmap#2831
        checks_blobs=True,
        delete_hint="delete it with `aws ecr batch-delete-image`",
        tolerated="201 for a PATCH, whose bytes are dropped from the second on; manifests have no "
        "Location; a page of more than 1000 tags is an error",
    ),
    Quirks(
        "Google Artifact Registry",
        ("*.pkg.dev", "gcr.io", "*.gcr.io"),
        checks_blobs=True,
        tolerated="401 without a challenge, which /v2/ has; more fields in the list of tags",
    ),
    Quirks(
        "Azure Container Registry",
        ("*.azurecr.io", "*.azurecr.cn", "*.azurecr.us"),
        checks_blobs=True,
        tolerated="blobs are redirected to a storage that refuses the registry's credentials",
    ),
    Quirks(
        "Harbor",
        shown=(_CHALLENGE, 'service="harbor-registry"'),
        checks_blobs=True,
        delete_hint="Harbor deletes tags with its own API only: delete the digest instead",
        tolerated="HEAD of a blob without its size; 404 with the code UNKNOWN",
    ),
    Quirks(
        "Quay",
        ("quay.io",),
        shown=(_CHALLENGE, r'realm="https?://[^"]*/v2/auth"'),
        checks_blobs=True,
        tolerated="no token for the action `delete`; no mount without `from`",
    ),
    Quirks(
        "GitLab",
        ("registry.gitlab.com",),
        shown=("Gitlab-Container-Registry-Version", "."),
        checks_blobs=True,
        tolerated="only the first of several scopes is granted, so that a mount is refused",
    ),
    Quirks(
        "JFrog Artifactory",
        ("*.jfrog.io",),
        shown=("X-JFrog-Version", "."),
        tolerated="403 for what is absent; digests among the tags",
    ),
    Quirks("Nexus Repository", shown=("Server", r"\bNexus/"), tolerated="`null` among the tags"),
    Quirks(
        "IBM Cloud Container Registry",
        ("icr.io", "*.icr.io"),
        delete_actions=_PUSH | {"delete"},
        tolerated="a token for the action `delete` has to be asked for",
    ),
    Quirks(
        "shipline registry",
        shown=("Server", r"shipline\Z"),
        checks_blobs=True,
        posts_blobs=True,
        tolerated="none; it shows its name in `Server`",
    ),
)

_PUBLIC = frozenset(
    {
        "docker.io",
        "gcr.io",
        "ghcr.io",
        "index.docker.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
        "quay.io",
        "registry-1.docker.io",
        "registry.access.redhat.com",
        "registry.gitlab.com",
        "registry.k8s.io",
    }
)


def is_public(host: str) -> bool:
    """Whether `host` is known to show everyone on the internet what it shows without a login."""
    return host in _PUBLIC


@cache
def quirks_of(host: str) -> Quirks:
    """The quirks of `host`, a name without port."""
    for row in QUIRKS:
        if any(_names(pattern, host) for pattern in row.hosts):
            return row
    return _NONE


def _names(pattern: str, host: str) -> bool:
    """Whether the pattern is one of `host`; nearly none is, and compiling one takes 0.1 ms."""
    return host.endswith(pattern.rpartition("*")[2]) and fnmatchcase(host, pattern)


def shown_quirks(header: Callable[[str], str]) -> Quirks | None:
    """The quirks of the registry that sent a response with these headers, if it shows them."""
    for row in QUIRKS:
        name, pattern = row.shown
        if name and (text := header(name)) and re.search(pattern, text):
            return row
    return None
