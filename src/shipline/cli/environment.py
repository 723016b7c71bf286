"""What the environment adds to a command: registry settings, build arguments, labels."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from msgspec import Struct

from shipline.errors import ConfigError, UsageError
from shipline.files import reading
from shipline.home import docker_directory

Command = TypeVar("Command", bound=Callable[..., Any])
_INSECURE, _CA, _MIRRORS = "SHIPLINE_INSECURE", "SHIPLINE_CA", "SHIPLINE_MIRRORS"
_AUTH_FILE = "REGISTRY_AUTH_FILE"
_SECTION = b"registry-mirrors"

_PROXIES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "ftpProxy": "FTP_PROXY",
    "noProxy": "NO_PROXY",
    "allProxy": "ALL_PROXY",
}


def implied_build_args(environ: Mapping[str, str]) -> dict[str, str]:
    """Implicit build arguments: SOURCE_DATE_EPOCH, and the proxies of the docker configuration
    (`proxies.default`) in upper and lower case. Raises ConfigError.
    """
    arguments: dict[str, str] = {}
    proxies = _default_proxies(environ)
    for key, name in _PROXIES.items():
        value = proxies.get(key)
        if isinstance(value, str) and value:
            arguments |= {name: value, name.lower(): value}
    if epoch := environ.get("SOURCE_DATE_EPOCH"):
        arguments["SOURCE_DATE_EPOCH"] = epoch
    return arguments


def _default_proxies(environ: Mapping[str, str]) -> Mapping[str, object]:
    path = docker_directory(environ) / "config.json"
    try:
        with reading(path, ConfigError):
            content = path.read_bytes() if path.exists() else b"{}"
        proxies = json.loads(content).get("proxies", {}).get("default", {})
    except (ValueError, AttributeError):
        raise ConfigError(
            f"{path} is not a docker configuration",
            code="docker-config",
            hint="repair the JSON, or remove the file",
        ) from None
    return proxies if isinstance(proxies, dict) else {}


def registry_options(command: Command) -> Command:
    """--insecure, --ca and --registry-mirror, for every command that uses registries.

    They are added to SHIPLINE_INSECURE, SHIPLINE_CA and SHIPLINE_MIRRORS while the command runs, so
    that they apply to base images, pushes, caches, and the child process that builds for an
    ordinary user. Without any, the mirrors are those of shipline.yaml in this directory or above.
    """
    insecure = click.option(
        "--insecure",
        multiple=True,
        metavar="HOST",
        expose_value=False,
        callback=_named,
        help="Use plain HTTP for this registry.",
    )
    ca = click.option(
        "--ca",
        multiple=True,
        metavar="FILE",
        expose_value=False,
        type=click.Path(exists=True, dir_okay=False, resolve_path=True),
        callback=_trusted,
        help="Also trust the certificate authorities in this PEM file.",
    )
    mirrors = click.option(
        "--registry-mirror",
        multiple=True,
        metavar="[HOST=]URL",
        expose_value=False,
        callback=_mirrored,
        help="Pull from this mirror of a registry, by default of Docker Hub.",
    )
    return insecure(ca(mirrors(command)))


def authfile_option(command: Command) -> Command:
    """--authfile of skopeo and podman."""
    usage = "Take credentials from this file alone, as with REGISTRY_AUTH_FILE."
    return _authfile("--authfile", exists=True, usage=usage)(command)


def login_file_option(command: Command) -> Command:
    """--authfile of skopeo and podman, for a file that need not be there yet."""
    names = ("--authfile", "--compat-auth-file", "--registry-config")
    usage = "Use this file instead of config.json, as with REGISTRY_AUTH_FILE."
    return _authfile(*names, exists=False, usage=usage)(command)


def _authfile(*names: str, exists: bool, usage: str) -> Callable[[Command], Command]:
    return click.option(
        *names,
        metavar="FILE",
        expose_value=False,
        type=click.Path(exists=exists, dir_okay=False, resolve_path=True),
        callback=_authorised,
        help=usage,
    )


def skopeo_options(command: Command) -> Command:
    """--authfile, and --tls-verify for a command whose arguments are names of images."""

    @wraps(command)
    def called(*values: Any, tls_verify: bool, **options: Any) -> Any:
        if not tls_verify:
            context = click.get_current_context()
            given = [context.params[one.name] for one in context.command.params if _is_name(one)]
            names = [name for one in given for name in ([one] if isinstance(one, str) else one)]
            hosts = filter(None, (_host_in(name) for name in names))
            _add(context, _INSECURE, ",", list(dict.fromkeys(hosts)))
        return command(*values, **options)

    verify = click.option(
        "--tls-verify", type=bool, default=True, help="false: --insecure for the registry of NAME."
    )
    return authfile_option(verify(cast(Command, called)))


def _is_name(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Argument)


def _host_in(name: str) -> str:
    """The registry in the name of an image or repository; empty without one."""
    host, slash, _ = name.removeprefix("docker://").partition("/")
    is_host = "." in host or ":" in host or host == "localhost"
    return host if is_host and (slash or "." in host) and not host.endswith(":") else ""


def debug_option(command: Command) -> Command:
    """-D after the name of a command, where buildx takes it, too."""
    return click.option(
        "-D", "--debug", is_flag=True, hidden=True, expose_value=False, callback=_debugged
    )(command)


def _debugged(context: click.Context, parameter: click.Parameter, debug: bool) -> None:
    if debug:
        context.obj.debug = True


def insecure_host() -> str:
    """The registry given with --insecure, if there is exactly one."""
    hosts = os.environ.get(_INSECURE, "").split(",")
    return hosts[0] if len(hosts) == 1 else ""


def host_of(text: str) -> str:
    """The host in the URL or name of a registry."""
    host = (text.partition("://")[2] or text).strip("/").removesuffix("/v1").removesuffix("/v2")
    if not host or "/" in host or any(character.isspace() for character in host):
        raise UsageError(
            f"not a registry: {text!r}", code="reference-invalid", hint="write HOST or HOST:PORT"
        )
    return host


def _named(context: click.Context, parameter: click.Parameter, hosts: Sequence[str]) -> None:
    _add(context, _INSECURE, ",", [host_of(host) for host in hosts])


def _trusted(context: click.Context, parameter: click.Parameter, files: Sequence[str]) -> None:
    _add(context, _CA, os.pathsep, files)


def _authorised(context: click.Context, parameter: click.Parameter, file: str | None) -> None:
    if file is not None:
        _set(context, _AUTH_FILE, file)


def _mirrored(context: click.Context, parameter: click.Parameter, urls: Sequence[str]) -> None:
    _add(context, _MIRRORS, ",", urls)
    if _MIRRORS not in os.environ:
        _add(context, _MIRRORS, ",", project_mirrors(Path.cwd()))


def use_http(host: str) -> None:
    """Use plain HTTP for a registry in the current command."""
    _add(click.get_current_context(), _INSECURE, ",", [host])


def use_mirrors(urls: Sequence[str]) -> None:
    """Use the mirrors of a shipline.yaml in the current command, unless others were given."""
    if _MIRRORS not in os.environ:
        _add(click.get_current_context(), _MIRRORS, ",", urls)


def project_mirrors(cwd: Path) -> tuple[str, ...]:
    """`registry-mirrors` of shipline.yaml in `cwd` or above. Raises ConfigError."""
    for directory in (cwd, *cwd.parents):
        for path in (directory / "shipline.yaml", directory / "shipline.yml"):
            # other files are not parsed: this is the start of every build
            if path.is_file() and _SECTION in path.read_bytes():
                from shipline.config import load
                from shipline.deliver.ci import Unread

                return load(None, cwd, Unread()).registry_mirrors
        if (directory / ".git").exists():
            break
    return ()


def _add(context: click.Context, name: str, separator: str, words: Sequence[str]) -> None:
    if not words:
        return
    _set(context, name, separator.join([*filter(None, [os.environ.get(name)]), *words]))


def _set(context: click.Context, name: str, value: str) -> None:
    """Set an environment variable until the command ends."""
    before = os.environ.get(name)

    def restore() -> None:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before

    os.environ[name] = value
    context.call_on_close(restore)


def git_labels(environ: Mapping[str, str], context: str, dockerfile: str | None) -> dict[str, str]:
    """The labels for BUILDX_GIT_LABELS: the commit, the path of the Dockerfile, and with `full` the
    URL of the repository; BUILDX_GIT_CHECK_DIRTY adds `-dirty`.

    Empty if the context is not in a repository, as in buildx.
    """
    from shipline.build import parse_boolean  # not for copies

    setting = environ.get("BUILDX_GIT_LABELS", "")
    if setting != "full" and not (setting and parse_boolean(setting, "BUILDX_GIT_LABELS")):
        return {}
    source = _git_source(environ, context, dockerfile)
    if source is None:
        return {}
    labels = {"org.opencontainers.image.revision": source.revision}
    if source.file is not None:
        labels["com.docker.image.source.entrypoint"] = str(source.file)
    if setting == "full" and source.url:
        labels["org.opencontainers.image.source"] = source.url
    return labels


def git_facts(
    environ: Mapping[str, str],
    context: str,
    dockerfile: str | None,
    named: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """What the provenance of a local context says of its repository: source, revision, and where
    context, Dockerfile and the directories of `named` contexts are in it; nothing with
    BUILDX_GIT_INFO=false, or outside of one.
    """
    from shipline.build import parse_boolean  # not for copies

    setting = environ.get("BUILDX_GIT_INFO", "")
    if setting and not parse_boolean(setting, "BUILDX_GIT_INFO"):
        return {}
    source = _git_source(environ, context, dockerfile)
    if source is None:
        return {}
    facts = {"source": source.url} if source.url else {}
    facts |= {"revision": source.revision, "localdir:context": str(source.place)}
    if source.file is not None:
        facts["localdir:dockerfile"] = str(source.file.parent)
    for name, directory in (named or {}).items():
        if (place := Path(directory).resolve()).is_relative_to(source.top):
            facts[f"localdir:{name}"] = str(place.relative_to(source.top))
    return facts


class _GitCheckout(Struct, frozen=True):
    """Where a context is in its repository; `file` is the Dockerfile, None if it is outside."""

    revision: str
    url: str
    place: Path
    file: Path | None
    top: Path


def _git_source(
    environ: Mapping[str, str], context: str, dockerfile: str | None
) -> _GitCheckout | None:
    """The repository of a context; None for one that is in no commit."""
    if not os.path.isdir(context):
        return None
    from shipline.build import parse_boolean  # not for copies
    from shipline.git import Git, GitError, read_repository

    place = Path(context).resolve()
    git = Git(place, environ)
    try:
        commit, top = git.text("rev-parse", "HEAD"), Path(git.text("rev-parse", "--show-toplevel"))
    except GitError:
        return None
    check = environ.get("BUILDX_GIT_CHECK_DIRTY", "")
    if check and parse_boolean(check, "BUILDX_GIT_CHECK_DIRTY"):
        commit += "-dirty" if git.text("status", "--porcelain", "--untracked-files=no") else ""
    file = (Path(dockerfile) if dockerfile else place / "Dockerfile").resolve()
    inside = file.relative_to(top) if file.is_relative_to(top) else None
    url = re.sub(r"://[^/@]*@", "://", read_repository(git).url)
    return _GitCheckout(commit, url, place.relative_to(top), inside, top)
