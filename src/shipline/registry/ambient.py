"""Credentials that nobody stored: of CI jobs in their variables, and of clouds from their helpers.

They are the last that is asked, go to their own hosts alone, and a helper that has none is no
error: what is public is still read without credentials.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping

from msgspec import Struct

from shipline.errors import AuthError
from shipline.registry.credentials import Credentials, get_from_helper, normal_host


class Cloud(Struct, frozen=True):
    """The registries of a cloud, the names of its credential helpers, and how to log in else."""

    hosts: str
    helpers: tuple[str, ...]
    login: str


_CLOUDS = (
    Cloud(
        r"[0-9]+\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|on\.aws)|public\.ecr\.aws",
        ("ecr-login",),
        "`aws ecr get-login-password | shipline login -u AWS --password-stdin {host}`",
    ),
    Cloud(
        r"([a-z0-9-]+\.)*gcr\.io|[a-z0-9-]+-docker\.pkg\.dev",
        ("gcloud", "gcr"),
        "`gcloud auth print-access-token | shipline login -u oauth2accesstoken --password-stdin"
        " {host}`",
    ),
    Cloud(
        r"[a-z0-9-]+\.azurecr\.(io|cn|us)",
        ("acr-env", "acr-login", "acr-linux"),
        "`az acr login --expose-token -n NAME`, and `shipline login -u"
        " 00000000-0000-0000-0000-000000000000 --password-stdin {host}` with its accessToken",
    ),
)


def cloud_of(host: str) -> Cloud | None:
    """The cloud that a registry belongs to."""
    return next((one for one in _CLOUDS if re.fullmatch(one.hosts, host)), None)


def login_hint(host: str) -> str:
    """How to get credentials for `host`."""
    cloud = cloud_of(host)
    if cloud is None:
        return f"log in with `shipline login {host}`"
    helpers = " or ".join(f"docker-credential-{name}" for name in cloud.helpers)
    return f"install {helpers}, or {cloud.login.format(host=host)}"


def ambient_credentials(environment: Mapping[str, str], host: str) -> Credentials | None:
    """The credentials that the job or the machine has for a host, which is normalised by
    normal_host().
    """
    for server, found in _of_job(environment):
        if normal_host(server) == host and found.username and found.password:
            return found
    cloud, path = cloud_of(host), environment.get("PATH")
    for name in cloud.helpers if cloud else ():
        if not shutil.which(f"docker-credential-{name}", path=path or ""):
            continue
        try:
            credentials = get_from_helper(name, host, environment)
        except AuthError:
            continue  # nobody is logged in to this cloud
        if credentials is not None:
            return credentials
    return None


def _of_job(environment: Mapping[str, str]) -> Iterator[tuple[str, Credentials]]:
    """The hosts that a CI system has credentials for: in GitLab CI the registry of the project and
    the dependency proxy (https://docs.gitlab.com/ci/variables/predefined_variables/), in GitHub
    Actions the registry of GitHub, for steps that have GITHUB_TOKEN in their environment.
    """
    get = environment.get
    if get("GITLAB_CI") == "true":
        registry = get("CI_REGISTRY", "")
        user, password = get("CI_REGISTRY_USER", ""), get("CI_REGISTRY_PASSWORD", "")
        yield registry, Credentials(user, password)
        yield registry, Credentials("gitlab-ci-token", get("CI_JOB_TOKEN", ""))
        yield (
            get("CI_DEPENDENCY_PROXY_SERVER", ""),
            Credentials(
                get("CI_DEPENDENCY_PROXY_USER", ""), get("CI_DEPENDENCY_PROXY_PASSWORD", "")
            ),
        )
    if get("GITHUB_ACTIONS") == "true":
        server = get("GITHUB_SERVER_URL", "https://github.com").partition("://")[2]
        registry = "ghcr.io" if server == "github.com" else f"containers.{server}"
        yield registry, Credentials(get("GITHUB_ACTOR", ""), get("GITHUB_TOKEN", ""))
