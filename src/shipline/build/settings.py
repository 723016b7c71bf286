"""What a build uses of its process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct, field

from shipline.build.downloads import Get, no_network
from shipline.content import CacheStore, OpenCache
from shipline.errors import FlagConflict, UsageError

if TYPE_CHECKING:
    from shipline.build.base_images import Repositories
    from shipline.build.request import BuildRequest, Secret
    from shipline.build.source_rules import SourcePolicy
    from shipline.build.ssh import Agent


def no_caches(kind: str, attributes: Mapping[str, str]) -> CacheStore:
    """Opens no cache outside of this machine."""
    raise UsageError(f"a cache of type={kind} cannot be opened here", code="cache-type")


class Settings(Struct, frozen=True):
    """What a build uses of its process: state directory, registries, environment, streams. Secrets
    and agents, by id, take the place of those of the request, where they are on another machine.
    """

    home: Path
    repositories: Repositories
    environment: Mapping[str, str] = field(default_factory=dict)
    get: Get = no_network
    open_cache: OpenCache = no_caches
    stdin: BinaryIO | None = None
    stdout: BinaryIO | None = None
    secrets: Mapping[str, Secret] | None = None
    agents: Mapping[str, Agent] | None = None

    def secrets_of(self, request: BuildRequest) -> Mapping[str, Secret]:
        """The secrets of a build, by id."""
        if self.secrets is not None:
            return self.secrets
        return {secret.id: secret for secret in request.secrets}

    def agents_of(self, request: BuildRequest) -> Mapping[str, Agent]:
        """The SSH agents of a build, by id. Raises UsageError."""
        if self.agents is not None:
            return self.agents
        from shipline.build.ssh import agents_of  # slow to import

        return agents_of(request.ssh, self.environment)

    def source_policy(self, request: BuildRequest) -> SourcePolicy | None:
        """What judges the sources of a build, None without any. Raises UsageError, ConfigError."""
        paths = _policies(request)
        if not paths and not self.environment.get("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"):
            return None
        from shipline.build.source_rules import source_policy  # slow to import

        rego = None
        if paths:
            from shipline.build.rego import rego_policies

            rego = rego_policies(request, paths)
        return source_policy(self.environment, rego)


def _policies(request: BuildRequest) -> tuple[Path, ...]:
    """The policies of a build: that of the Dockerfile, unless `reset`, and those of --policy.

    Raises UsageError where there is none, and `strict`.
    """
    options = request.policy
    if options.disabled:
        return ()
    found = [Path(name) for name in options.files]
    if not options.reset and (own := _own_policy(request)) is not None and own.is_file():
        found.insert(0, own)
    if options.strict and not found:
        raise FlagConflict("--policy strict=true: there is no policy")
    return tuple(found)


def _own_policy(request: BuildRequest) -> Path | None:
    """Where the policy of the Dockerfile is, for one in a file of this machine."""
    if not request.context.is_local or request.inline is not None or request.dockerfile == "-":
        return None
    dockerfile = request.dockerfile or os.path.join(request.context.location, "Dockerfile")
    return Path(f"{dockerfile}.rego")
