"""From shipline.yaml to what a CI file is made from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shipline import __version__
from shipline.config import Config, load
from shipline.deliver.ci import CiSection, Login, Signing, Unread, Workflow, with_variables
from shipline.deliver.project import detect
from shipline.errors import ConfigError
from shipline.git import Git, GitError, read_repository, web_address
from shipline.oci import Reference
from shipline.ship import Build, Pipeline

_FROM_VARIABLE = "env://"


def workflow(path: Path | None, cwd: Path) -> tuple[Workflow, Path]:
    """The workflow that the configuration asks for, and the directory of the project.

    Variables of the configuration stay unread: they are those of the job. Raises ConfigError.
    """
    config = load(path, cwd, Unread())
    if config.file is None:
        raise ConfigError("there is no shipline.yaml", hint="`shipline init` writes a first one")
    return _workflow(config, config.file.parent), config.file.parent


def _workflow(config: Config, root: Path) -> Workflow:
    pipeline, section = config.pipeline, config.ci or CiSection()
    if pipeline.image is None:
        raise ConfigError(
            "shipline.yaml does not say where the image goes",
            hint="add `image: registry.example/team/app`",
        )
    for one in (pipeline.image, *pipeline.copies):
        if with_variables(str(one), str) != str(one):
            raise ConfigError(
                f"{with_variables(str(one), '${{{}}}'.format)}: the registry is not known here",
                hint="write it out: a generated workflow names the registry it logs in to",
            )
    tests = {name: step for name, step in pipeline.commands.items() if not step.after_build}
    language = detect(root).language
    return Workflow(
        image=pipeline.image.name,
        shipline=own_requirement() or f"shipline=={__version__}",
        platforms=tuple(map(str, pipeline.build.platforms)) or ("linux/amd64",),
        tests=tuple(tests),
        reports=tuple(dict.fromkeys(path for one in tests.values() for path in one.report_paths)),
        build=tuple(_flags(pipeline.build)),
        context=pipeline.build.context,
        variables=tuple(_variables(pipeline.build)),
        logins=tuple(_logins((pipeline.image, *pipeline.copies), section)),
        signing=_signing(pipeline, section, root),
        without=tuple(_without(config)),
        toolchain=language.toolchain if language else None,
        section=section,
    )


def own_requirement(read: Callable[[str], str | None] | None = None) -> str:
    """What pip is asked for to install this very shipline elsewhere: the commit of the repository
    that it came from, or its version where it came from an index. Empty where nobody else can
    reach what it came from. `read` gives a file of the installation's metadata.

    Source: PEP 610 (direct_url.json).
    """
    try:
        text = (read or distribution("shipline").read_text)("direct_url.json")
    except PackageNotFoundError:  # run from its source, and not installed
        return ""
    if text is None:
        return f"shipline=={__version__}"
    document = json.loads(text)
    url, vcs = document.get("url", ""), document.get("vcs_info")
    if vcs:
        return _at(url, vcs.get("commit_id", ""))
    checkout = Path(unquote(urlsplit(url).path))
    return _pushed(checkout) if "dir_info" in document and (checkout / ".git").exists() else ""


def _pushed(checkout: Path) -> str:
    """The requirement for the commit that is out, where its remote has it."""
    git = Git(checkout, os.environ)
    try:
        found = read_repository(git)
        places = ("for-each-ref", f"--contains={found.head}", f"refs/remotes/{found.remote}/")
        there = found.head and found.remote and any(git.lines(*places))
    except GitError:
        return ""
    return _at(found.url, found.head) if there else ""


def _at(url: str, commit: str) -> str:
    address = web_address(url)
    return f"git+{address}@{commit}" if address and commit else ""


def _without(config: Config) -> Iterator[str]:
    """What only `shipline ship` does, in words of shipline.yaml."""
    yield "versions and tags by rules: the commit is the only tag"
    if config.gates is not None:
        yield f"gates: {', '.join(name for name, _, _ in config.gates.gates())}"
    if config.pipeline.sign is not None:
        yield "sign: nothing is signed"


def _signing(pipeline: Pipeline, section: CiSection, root: Path) -> Signing | None:
    sign = pipeline.sign
    if sign is None:
        return None
    if sign.key.startswith(_FROM_VARIABLE):
        return Signing(sign.key.removeprefix(_FROM_VARIABLE))
    file = os.path.relpath(root / sign.key, root)
    if file.startswith("..") or os.path.isabs(sign.key):
        raise ConfigError(
            f"sign.key: {sign.key} is outside of the project",
            hint="name env://COSIGN_PRIVATE_KEY, or a file of the project to write a secret to",
        )
    return Signing(section.key, file)


def _flags(build: Build) -> Iterator[str]:
    """The flags of `shipline build` for the section, besides platforms and outputs."""
    for flag, value in (("--file", build.file), ("--target", build.target)):
        if value:
            yield from (flag, value)
    yield from _pairs("--build-arg", build.args)
    yield from _pairs("--label", build.labels)
    yield from _pairs("--build-context", build.contexts)
    for flag, values in (
        ("--secret", build.secrets),
        ("--ssh", build.ssh),
        ("--cache-from", build.cache_from),
        ("--cache-to", build.cache_to),
    ):
        yield from (word for value in values for word in (flag, value))
    yield from (("--pull",) if build.pull else ())
    yield from (("--no-cache",) if build.no_cache else ())


def _pairs(flag: str, values: Mapping[str, str]) -> Iterable[str]:
    return (word for name, value in values.items() for word in (flag, f"{name}={value}"))


def _variables(build: Build) -> Iterator[str]:
    """The variables that the secrets of the build come from."""
    for text in build.secrets:
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        if name := fields.get("env"):
            yield name


def _logins(images: Iterable[Reference], section: CiSection) -> Iterator[Login]:
    """One login per registry; those of copies have variables with the registry's name."""
    hosts = list(dict.fromkeys(image.host for image in images))
    for number, host in enumerate(hosts):
        prefix = re.sub(r"\W", "_", host).upper()
        own = (section.username, section.password)
        yield Login(host, *(own if not number else (f"{prefix}_USERNAME", f"{prefix}_PASSWORD")))
