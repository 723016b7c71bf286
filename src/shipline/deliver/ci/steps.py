"""Steps of GitHub workflows, and their actions, each pinned to a commit.

A pin file is JSON: action -> `version` (a tag, as a comment) and `commit` (40 hex digits). The file
of a project overrides entries of the one in this package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from shipline.deliver.ci import scripts
from shipline.deliver.ci.document import Noted
from shipline.deliver.ci.workflow import STATE, Login, Workflow, packages
from shipline.errors import ConfigError

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_LIMIT = 1 << 20  # bytes of a pin file


@dataclass(frozen=True, slots=True)
class Pin:
    """A commit of an action, and its version."""

    version: str
    commit: str


@dataclass(frozen=True, slots=True)
class Pins:
    """Pins by action, `owner/name`."""

    table: Mapping[str, Pin] = field(hash=False)

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """The pins of the package, overridden by those of the file `path`. Raises ConfigError
        for an invalid file.
        """
        shipped = files("shipline.deliver.ci").joinpath("pins.json").read_text()
        table = _parse(shipped, "pins.json")
        if path is not None:
            table |= _parse(_read(path), str(path))
        return cls(table)

    def uses(self, action: str, path: str = "") -> Noted:
        """The value of `uses:`: `owner/name/path@commit`, with the version as comment."""
        pin = self.table[action]
        target = f"{action}/{path}" if path else action
        return Noted(f"{target}@{pin.commit}", pin.version)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the pin file {path}: {error}", code="ci-pins") from error


def _parse(text: str, name: str) -> dict[str, Pin]:
    try:
        table = json.loads(text)
        return {action: _pin(entry, action, name) for action, entry in table.items()}
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{name} is not a pin file: {error}", code="ci-pins") from error


def _pin(entry: Any, action: str, name: str) -> Pin:
    version, commit = (
        (entry.get("version"), entry.get("commit")) if isinstance(entry, dict) else ("", "")
    )
    if not isinstance(version, str) or not re.fullmatch(r"[\w.+-]+", version):
        raise ConfigError(f"{name}: {action} has no version", code="ci-pins")
    if not isinstance(commit, str) or not _COMMIT.match(commit):
        raise ConfigError(
            f"{name}: the commit of {action} is not 40 hex digits",
            code="ci-pins",
            hint="use the full commit: tags and branches can move",
        )
    return Pin(version, commit)


Node = dict[Any, Any]
_HAND_ON = """\
echo "::add-mask::$SHIPLINE_PASSPHRASE"
echo "SHIPLINE_PASSPHRASE=$SHIPLINE_PASSPHRASE" >> "$GITHUB_ENV\""""


def checkout(pins: Pins, *, history: bool = True) -> Node:
    """Check out the commit, or all commits and tags with only the files of this one. The checkout
    keeps no token.
    """
    options: Node = {"persist-credentials": False}
    if history:
        options |= {"fetch-depth": 0, "filter": "blob:none"}
    return {"name": "Check out", "uses": pins.uses("actions/checkout"), "with": options}


def install() -> Node:
    """Make `shipline` a command of later steps."""
    directory = "$RUNNER_TEMP/shipline"
    path = f'echo "{directory}/programs" >> "$GITHUB_PATH"'
    return {"name": "Install shipline", "run": f"{scripts.install(directory)}\n{path}\n"}


def toolchain(workflow: Workflow, pins: Pins) -> list[Node]:
    """Set up the language of the project."""
    toolchain = workflow.toolchain
    if toolchain is None:
        return []
    action = f"actions/setup-{toolchain.kind}"
    options: Node = {
        f"{toolchain.kind}-version{'-file' if toolchain.file else ''}": toolchain.file
        or toolchain.version
    }
    # A cache that a pull request could write is not read by releases.
    options |= {"package-manager-cache": False} if toolchain.kind == "node" else {}
    options |= {"cache": False} if toolchain.kind == "go" else {}
    return [{"name": f"Set up {toolchain.title}", "uses": pins.uses(action), "with": options}]


def release_setup(workflow: Workflow) -> list[Node]:
    """The project's commands that install scanners, before credentials exist."""
    commands = workflow.section.release_setup
    return [{"name": "Set up the release", "run": "\n".join(commands) + "\n"}] if commands else []


def keep(name: str, path: str, pins: Pins, *, always: bool = False) -> Node:
    """Keep files for later jobs."""
    step: Node = {"name": f"Keep {name}"}
    if always:
        step["if"] = "${{ !cancelled() }}"
    options = {"name": name, "path": path, "if-no-files-found": "error", "retention-days": 7}
    return step | {"uses": pins.uses("actions/upload-artifact"), "with": options}


def fetch(name: str, pins: Pins, **options: Any) -> Node:
    """Download the artifacts of earlier jobs; a name with * is a pattern."""
    key = "pattern" if "*" in name else "name"
    return {
        "name": f"Fetch {name.rstrip('-*')}",
        "uses": pins.uses("actions/download-artifact"),
        "with": {key: name, **options},
    }


def unpack() -> Node:
    """Unpack the reports of the tests into the work tree."""
    return {"name": "Unpack the reports", "run": scripts.unpack()}


def prepare(workflow: Workflow) -> Node:
    """Install the packages that build steps need."""
    names = sorted({name for platform in workflow.platforms for name in packages(platform)})
    return {
        "name": "Prepare the runner",
        "run": "sudo apt-get update -qq\n"
        f"sudo apt-get install -y -qq --no-install-recommends {' '.join(names)}\n"
        "# Builds run in user namespaces, which Ubuntu denies to programs without root.\n"
        "sudo sysctl -q -w kernel.apparmor_restrict_unprivileged_userns=0\n",
    }


def cache(pins: Pins, *, save: bool) -> Node:
    """Cache the state directory between runs; only pushes to branches save it."""
    options: Node = {
        "path": "".join(f"~/.local/state/shipline/{name}\n" for name in STATE),
        "key": "shipline-${{ matrix.name }}-${{ github.sha }}",
    }
    if not save:
        options["restore-keys"] = "shipline-${{ matrix.name }}-"
    step: Node = {"name": "Save the cache" if save else "Restore the cache"}
    if save:
        step["if"] = "github.ref_type == 'branch'"
    path = "save" if save else "restore"
    return step | {"uses": pins.uses("actions/cache", path), "with": options}


_CACHE_TOKEN = """\
core.setSecret(process.env.ACTIONS_RUNTIME_TOKEN)
core.setOutput('token', process.env.ACTIONS_RUNTIME_TOKEN)
core.setOutput('url', process.env.ACTIONS_RESULTS_URL)
"""


def cache_token(workflow: Workflow, pins: Pins) -> list[Node]:
    """What the cache of GitHub Actions is reached with, where the build uses it: actions have it in
    their environment, scripts do not. Only the steps that are handed it see it.
    """
    if not workflow.actions_cache:
        return []
    step = {"name": "Open the cache of GitHub Actions", "id": "cache"}
    return [step | {"uses": pins.uses("actions/github-script"), "with": {"script": _CACHE_TOKEN}}]


def cache_variables(workflow: Workflow) -> Node:
    """The environment of a build after `cache_token`."""
    if not workflow.actions_cache:
        return {}
    return {
        "ACTIONS_RUNTIME_TOKEN": "${{ steps.cache.outputs.token }}",
        "ACTIONS_RESULTS_URL": "${{ steps.cache.outputs.url }}",
    }


def secret(name: str) -> str:
    """The expression for a secret."""
    return f"${{{{ secrets.{name} }}}}"


def _credentials(login: Login) -> tuple[str, str]:
    """Expressions for user and password: for GitHub's own registry the job's token."""
    if login.host == "ghcr.io":
        return "${{ github.actor }}", secret("GITHUB_TOKEN")
    return secret(login.username), secret(login.password)


def logins(workflow: Workflow, logins: tuple[Login, ...]) -> list[Node]:
    """Log in to the registries."""
    if workflow.section.login:
        run = scripts.own_login(workflow, _HAND_ON)
        audience = workflow.section.oidc_audience
        variables = {"env": {"OIDC_AUDIENCE": audience}} if audience else {}
        return [{"name": "Log in", **variables, "run": run}]
    sealed = passphrase(workflow)
    return [
        {
            "name": f"Log in to {login.host}",
            "env": {
                "REGISTRY_USERNAME": _credentials(login)[0],
                "REGISTRY_PASSWORD": _credentials(login)[1],
                **sealed,
            },
            "run": scripts.login(login.host, "REGISTRY_USERNAME", "REGISTRY_PASSWORD"),
        }
        for login in logins
    ]


def passphrase(workflow: Workflow) -> Node:
    """The passphrase for the encrypted credentials of a job."""
    if not workflow.logins or workflow.section.login:
        return {}
    return {"SHIPLINE_PASSPHRASE": _credentials(workflow.logins[0])[1]}
