"""Sources of a build on other machines: Git repositories, and files and archives at URLs."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from shipline import git
from shipline.build.blobs import Blobs
from shipline.build.cache import Cache, open_records
from shipline.build.downloads import Downloader, place_file, seconds_of
from shipline.build.faults import Damage
from shipline.build.graph import HttpOp, Material
from shipline.build.layer_files import USE_LOCK
from shipline.build.locating import BegunReader, read_head
from shipline.build.request import BuildRequest, Context, ContextKind, Secret
from shipline.build.selecting import ContextDirectory
from shipline.build.settings import Settings
from shipline.content import LocalStore, Recency
from shipline.errors import ContentError, UsageError
from shipline.events import Step
from shipline.layer import decompress, read_tar, sniff
from shipline.net import without_logins
from shipline.tasks import Once
from shipline.units import parse_boolean
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.build.source_rules import SourcePolicy
    from shipline.git import GitCommit, GitSource, GitStore, SshAccess

GIT_DIRECTORY = "git"  # of the state directory
USED = "used"  # a file in a repository: its URL; the time is that of the last use
KEEP_GIT_DIR = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
CONTEXT_FILE = "context"  # what BuildKit calls the file at the URL of a context
_CA_VARIABLE = "GIT_SSL_CAINFO"
_SYSTEM_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_SSH = "default"  # the id of the agent that git uses


class Remotes(Struct, frozen=True):
    """Opens the remote sources of one build, each once; safe to use from any thread.

    `secrets` are those of the request; `ssh` is None where the build has no SSH login.
    """

    state: Path
    scratch: Path
    downloader: Downloader
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    ssh: SshAccess | None = None
    _commits: Once[GitCommit] = field(default_factory=Once)
    _trees: Once[Path] = field(default_factory=Once)
    _bundle: Once[str] = field(default_factory=Once)

    def git(self, source: GitSource, step: Step) -> ContextDirectory:
        """The files of a Git source, whose ref is resolved now; they are fetched when they are
        first needed, as part of `step`. Raises GitError, UsageError.
        """
        source = self._judged(source)
        found = self.resolve(source)
        place = self.scratch / f"git-{os.urandom(6).hex()}"
        return ContextDirectory(
            place / git.clean_directory(source.subdir),
            f"the Git repository {source.shown}",
            pin=_pin(found),
            open=lambda: self._trees.get(place, partial(self._check_out, found, place, step)),
            remote=True,
            materials=(material_of(commit_uri(source), commit_digest(found)),),
        )

    def http(self, op: HttpOp, step: Step) -> ContextDirectory:
        """The file at a URL, downloaded now, in a directory of its own.

        Raises RegistryError, and UsageError for another checksum.
        """
        place = self.scratch / f"http-{os.urandom(6).hex()}"
        file = self.downloader.fetch(op.url, op.checksum, step)
        place.mkdir()
        place_file(file, self.downloader.store, place / op.name)
        return ContextDirectory(
            place,
            "the URL",
            stamp="" if op.checksum else file.modified,
            remote=True,
            materials=(material_of(op.url, str(file.content.digest)),),
        )

    def time_of(self, context: Context, step: Step) -> int | None:
        """The time of a named context, in seconds since 1970; None for one without a time.

        Raises GitError, RegistryError, UsageError.
        """
        if context.kind is ContextKind.GIT:
            return self.commit_time(context_source(context.location, {}))
        if context.kind is ContextKind.HTTP:
            return self.file_time(context.location, "", step) or None
        return None

    def file_time(self, url: str, checksum: str, step: Step) -> int:
        """Last-Modified of the file, or else the newest time of a file in it if it is an archive,
        in seconds since 1970; 0 without either. Raises RegistryError, UsageError.
        """
        file = self.downloader.fetch(url, checksum, step)
        if modified := seconds_of(file):
            return modified
        with self.downloader.store.fetch(file.content) as reader, suppress(ContentError):
            begun = BegunReader(read_head(reader), reader)
            if (compression := sniff(begun.head)) is not None:
                items = read_tar(decompress(begun, compression))
                times = [entry.mtime_ns for entry, _ in items if entry.kind == "file"]
                return max(times, default=0) // 1_000_000_000
        return 0

    def commit_time(self, source: GitSource) -> int:
        """When the commit was made, in seconds since 1970. Raises GitError, UsageError."""
        return git.commit_time(self._store(source), self.resolve(source))

    def resolve(self, source: GitSource) -> GitCommit:
        """The commit of the source: the same one for the whole build."""
        source = self._judged(source)
        key = (source.remote, source.ref, source.checksum, source.by_commit)
        found = self._commits.get(key, lambda: self._store(source).resolve(source))
        found = replace(found, source=replace(source, ref=found.source.ref))
        if self.downloader.policy is not None:
            self.downloader.policy.check_git(found)
        return found

    def _judged(self, source: GitSource) -> GitSource:
        policy = self.downloader.policy
        return source if policy is None else policy.git(source)

    def _check_out(self, found: GitCommit, place: Path, step: Step) -> Path:
        with step.step(f"fetch {found.source.shown}", kind="git"):
            return git.checkout(self._store(found.source), found, place)

    def _store(self, source: GitSource) -> GitStore:
        recency = Recency(self.state / USE_LOCK)

        def use(repository: Path, remote: str) -> None:
            if not recency.touch(repository / USED) and repository.is_dir():
                (repository / USED).write_text(remote)

        bundle = self._bundle.get("", self._authorities)
        environment = {**self.environment, **({_CA_VARIABLE: bundle} if bundle else {})}
        program = git.IsolatedGit(environment, self._headers(source), self.ssh)
        return git.GitStore(self.state / GIT_DIRECTORY, program, use)

    def _authorities(self) -> str:
        """A file for git with the authorities of --ca and those that it has without; empty if there
        are no others.
        """
        given = self.environment.get("SHIPLINE_CA", "").split(os.pathsep)
        files = [Path(name) for name in (*given, self.environment.get("SSL_CERT_FILE", "")) if name]
        if not files:
            return ""
        bundle = self.scratch / "authorities.pem"
        known = (self.environment.get(_CA_VARIABLE, ""), *_SYSTEM_AUTHORITIES)
        system = [Path(name) for name in known if os.path.isfile(name)][:1]
        try:
            bundle.write_bytes(b"\n".join(path.read_bytes() for path in (*system, *files)))
        except OSError as error:
            raise UsageError(
                f"cannot read {error.filename}: {error.strerror}", code="file-unreadable"
            ) from None
        return str(bundle)

    def _headers(self, source: GitSource) -> dict[str, str]:
        """The HTTP header of the secrets for the server of the source, by URL; a login in the URL
        comes before them.
        """
        if source.login or not source.remote.startswith("http"):
            return {}
        for name, is_token in _secret_names(source.host):
            if text := _secret_text(self.secrets.get(name), self.environment):
                if is_token:
                    encoded = base64.b64encode(f"x-access-token:{text}".encode()).decode("ascii")
                    text = f"basic {encoded}"
                return {_scope(source.remote): f"Authorization: {text}"}
        return {}


def _http_authorization(
    secrets: Mapping[str, Secret], environment: Mapping[str, str], host: str
) -> str:
    """The header Authorization for a file on `host`, from the secret HTTP_AUTH_HEADER_HOST, or
    from HTTP_AUTH_TOKEN_HOST; empty without one. Raises UsageError.
    """
    if header := _secret_text(secrets.get(f"HTTP_AUTH_HEADER_{host}"), environment):
        return header
    token = _secret_text(secrets.get(f"HTTP_AUTH_TOKEN_{host}"), environment)
    return f"Bearer {token}" if token else ""


def _secret_text(secret: Secret | None, environment: Mapping[str, str]) -> str:
    """A secret that goes into a header; empty if it was not given. Raises UsageError."""
    if secret is None:
        return ""
    try:
        text = (secret.value(environment) or b"").decode(errors="surrogateescape").strip()
    except OSError as error:
        raise UsageError(
            f"the secret {secret.id}: {secret.file}: {error.strerror}", code="secret-unreadable"
        ) from None
    if any(ord(one) < 32 for one in text):
        raise UsageError(
            f"the secret {secret.id} has several lines, or control characters",
            code="secret-unreadable",
        )
    return text


def open_remotes(
    request: BuildRequest,
    settings: Settings,
    scratch: Path,
    cache: Cache,
    store: LocalStore,
    policy: SourcePolicy | None = None,
) -> Remotes:
    """The remotes of a build, with the secrets and SSH agents of `request`."""
    secrets = settings.secrets_of(request)
    authorization = partial(_http_authorization, secrets, settings.environment)
    downloader = Downloader(settings.get, cache, store, authorization, policy)
    ssh = _ssh(request, settings.environment)
    return Remotes(settings.home, scratch, downloader, settings.environment, secrets, ssh)


@contextmanager
def remotes_alone(
    request: BuildRequest,
    settings: Settings,
    step: Step,
    scratch: Path,
    blobs: Blobs,
    policy: SourcePolicy | None = None,
) -> Iterator[Remotes]:
    """The remotes where nothing is built; the records of downloads are open inside the block."""
    with open_records(settings.home / "cache.db", Damage(step)) as records:
        cache = Cache(records, blobs, settings.home)
        yield open_remotes(request, settings, scratch, cache, blobs.store, policy)


def _ssh(request: BuildRequest, environment: Mapping[str, str]) -> SshAccess | None:
    """The agent or keys of `--ssh default`, which a context over SSH implies, as in buildx."""
    agent = environment.get("SSH_AUTH_SOCK", "")
    for one in request.ssh:
        if one.id == _SSH:
            sockets = [str(path) for path in one.paths if path.is_socket()]
            keys = tuple(str(path.absolute()) for path in one.paths if not path.is_socket())
            return git.SshAccess(sockets[0] if sockets else "" if keys else agent, keys)
    contexts = (request.context, *request.build_contexts.values())
    locations = [one.location for one in contexts if one.kind is ContextKind.GIT]
    sources = [git.parse_git_source(location, short=True) for location in locations]
    return git.SshAccess(agent) if any(one and one.is_ssh for one in sources) else None


def context_source(location: str, build_args: Mapping[str, str]) -> GitSource:
    """The source of a Git context. Raises UsageError."""
    source = git.parse_git_source(location, short=True)
    if source is None:
        raise UsageError(f"{without_logins(location)!r} is not a Git repository", code="git-url")
    kept = parse_boolean(build_args.get(KEEP_GIT_DIR, "")) or False  # BuildKit ignores other text
    return replace(source, keep_git_dir=bool(source.keep_git_dir) or kept)


def commit_digest(found: GitCommit) -> str:
    """The commit in the form of a digest, `sha1:...`."""
    return f"{'sha1' if len(found.commit) == 40 else 'sha256'}:{found.commit}"


def commit_uri(source: GitSource) -> str:
    """The repository and the ref, as in BuildKit's provenance: without the subdirectory."""
    return f"{source.remote}#{source.ref}" if source.ref else source.remote


def material_of(location: str, digest: str) -> Material:
    """Where files were fetched from, and what they are; without a login."""
    algorithm, _, value = digest.partition(":")
    return Material(without_logins(location), ((algorithm, value),))


def _pin(found: GitCommit) -> str:
    """Names the files of a commit for good; those of `.git` have the URL, too."""
    where = f" of {found.source.remote}" if found.keeps_git_dir else ""
    return f"git {found.key}{where}"


def _secret_names(host: str) -> Iterator[tuple[str, bool]]:
    """The ids of secrets for a host, the first one counts; and whether they are tokens."""
    for suffix in (f".{host}", ""):
        yield f"GIT_AUTH_HEADER{suffix}", False
        yield f"GIT_AUTH_TOKEN{suffix}", True


def _scope(remote: str) -> str:
    """Where a token is sent: to the repository, on github.com to all, as in BuildKit."""
    for site in ("https://github.com/", "https://www.github.com/"):
        if remote.startswith(site):
            return site
    return remote
