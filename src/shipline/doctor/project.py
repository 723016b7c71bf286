"""What a project refers to: its configuration, its repositories, its keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from shipline.config import Config
from shipline.doctor.diagnosis import Examination, Remark
from shipline.errors import ConfigError
from shipline.git import Git, NoRepository, read_repository
from shipline.oci import Reference
from shipline.supply import PASSWORD_VARIABLES, read_private_key
from shipline.trust import load_trust
from shipline.units import counted

AREA = "This project"
_OTHERS = 0o077  # permissions of all but the owner


def examine_project(
    load: Callable[[], Config], cwd: Path, environ: Mapping[str, str]
) -> Iterator[Examination]:
    """The examinations of the project in `cwd`, whose configuration `load` reads."""
    git = Git(cwd, environ)
    yield Examination(AREA, "shipline.yaml", lambda: _configuration(load()))
    yield Examination(AREA, "git", partial(_repository, git))
    yield Examination(AREA, "git identity", partial(_identity, git))
    yield Examination(AREA, "git remote", partial(_remote, git))
    try:
        config = load()
    except ConfigError:  # the first examination says so
        return
    root = config.file.parent if config.file else cwd
    if config.pipeline.sign is not None:
        key = config.pipeline.sign.key
        yield Examination(AREA, "signing key", partial(_signing_key, key, root, environ))
    if config.trust is not None:
        yield Examination(AREA, "trusted keys", lambda: _trusted(config, root))
    for name, section in (config.environments or {}).items():
        place = section.gitops.repository
        url = str(root / place) if section.gitops.is_path else place
        examine = partial(_reachable, git, url)
        yield Examination(AREA, f"repository of {name}", examine)


def registries_of(config: Config) -> dict[str, list[Reference]]:
    """The repositories that the pipeline pushes to, by registry."""
    pipeline = config.pipeline
    pushed = [*pipeline.images.values()]
    pushed += [copy for build in pipeline.builds.values() for copy in build.copies]
    pushed += [one for images in pipeline.in_regions.values() for one in images.values()]
    found: dict[str, list[Reference]] = {}
    for repository in dict.fromkeys(pushed):
        found.setdefault(repository.host, []).append(repository)
    return found


def _configuration(config: Config) -> str | Remark:
    if config.file is None:
        return Remark("there is none: `shipline ship` needs one", "`shipline init`")
    return f"{config.file} is valid"


def _repository(git: Git) -> str | Remark:
    try:
        top = git.text("rev-parse", "--show-toplevel")
    except NoRepository:
        return Remark("this directory is not in a git repository", "`git init`")
    if git.text("rev-parse", "--is-shallow-repository") == "true":
        return Remark(
            f"{top} is a shallow clone: versions are counted from its history",
            "`git fetch --unshallow --tags`, in CI a checkout with fetch-depth: 0",
        )
    return top


def _identity(git: Git) -> str | Remark:
    """git's rules: variables, then configuration; guesses do not count."""
    done = git.run("config", "user.email", allowed=(0, 1))
    email = git.environ.get("GIT_COMMITTER_EMAIL") or done.output.decode(errors="replace").strip()
    if not email:
        return Remark(
            "there is none for tags and GitOps commits",
            "`git config --global user.name NAME` and `git config --global user.email ADDRESS`",
        )
    return email


def _remote(git: Git) -> str:
    try:
        repository = read_repository(git)
    except NoRepository:
        return ""
    return _reachable(git, repository.remote) if repository.remote else ""


def _reachable(git: Git, place: str) -> str:
    refs = git.run("ls-remote", "--heads", "--", place).output.splitlines()
    return f"reached; {counted(len(refs), 'branch', 'branches')}"


def _signing_key(key: str, root: Path, environ: Mapping[str, str]) -> str | Remark:
    if "://" in key:
        variable = key.partition("://")[2]
        if key.startswith("env://") and not environ.get(variable):
            return Remark(f"the variable {variable} is not set here", f"set {variable}")
        return key
    path = root / key
    given = [environ[name] for name in PASSWORD_VARIABLES if name in environ]
    if not path.exists():
        return Remark(
            f"{path} is not here",
            "`shipline key generate` creates a pair; in CI write it there, or use env://NAME",
        )
    if not given:
        return Remark(
            f"{path}; none of {' and '.join(PASSWORD_VARIABLES)} is set", "set one of them"
        )
    read_private_key(path, lambda: given[0].encode(errors="surrogateescape"))
    if os.stat(path).st_mode & _OTHERS:
        return Remark(f"{path} opens, but others may read the file", f"`chmod 600 {path}`")
    return f"{path} opens with its password"


def _trusted(config: Config, root: Path) -> str:
    policy = load_trust(config.trust, root)
    return f"{counted(len(policy.rules), 'rule')} with their keys"
