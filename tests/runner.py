"""A runner of GitHub workflows for tests: real steps, in order, on a real repository.

It runs `run:` steps with bash as hosted runners do, keeps `GITHUB_ENV`, `GITHUB_PATH`,
`GITHUB_OUTPUT` and the job summary, expands matrices, runs composite actions, and stands in for the
few actions that generated workflows use: checkout, setup, cache, artifacts, upload-sarif, script.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

_STEP_S = 240
Node = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """What started the workflow."""

    name: str
    ref: str
    sha: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    server: str = "https://git.example"

    def context(self) -> Node:
        kind, _, short = self.ref.removeprefix("refs/").partition("/")
        return {
            "event_name": self.name,
            "ref": self.ref,
            "ref_name": short,
            "ref_type": "tag" if kind == "tags" else "branch",
            "sha": self.sha,
            "repository": "team/links",
            "server_url": self.server,
            "actor": "someone",
            "workflow": "shipline",
            "event": self.payload,
        }


@dataclass
class Ran:
    """What a workflow did: each step as `job/step`, in order, and what it wrote."""

    steps: list[str] = field(default_factory=list)
    log: str = ""
    summary: str = ""
    outputs: Node = field(default_factory=dict)
    environments: dict[str, Node] = field(default_factory=dict)


class Runner:
    """Machines below `work`: artifacts and caches outlive jobs, workspaces and homes do not."""

    def __init__(
        self,
        work: Path,
        origin: Path,
        environment: Mapping[str, str],
        *,
        actions: Mapping[str, Path] | None = None,
        action_environment: Mapping[str, str] | None = None,
    ) -> None:
        """`actions` are directories of composite actions, by name; `action_environment` are
        variables that actions have and steps have not.
        """
        self.work, self.origin, self.environment = work, origin, environment
        self.actions, self.action_environment = actions or {}, action_environment or {}
        self.artifacts, self.caches = work / "artifacts", work / "caches"
        self.programs = work / "programs"
        self.programs.mkdir(parents=True)
        sudo = self.programs / "sudo"
        sudo.write_text("#!/bin/sh\nexit 0\n")  # this machine is prepared already
        sudo.chmod(0o755)

    def run(
        self, workflow: str, event: Event, secrets: Mapping[str, str], *, only: str = ""
    ) -> Ran:
        """Run every job whose condition holds, those it needs first, or `only` the one named.

        Raises AssertionError for a step that fails.
        """
        document, ran = YAML(typ="safe").load(workflow), Ran()
        shutil.rmtree(self.artifacts, ignore_errors=True)
        passed: set[str] = set()
        jobs: dict[str, Node] = document["jobs"]
        waiting = {only: {**jobs[only], "needs": []}} if only else dict(jobs)
        while waiting:
            name, job = next((n, j) for n, j in waiting.items() if not _needs(j) & waiting.keys())
            del waiting[name]
            contexts: Node = {"github": event.context(), "secrets": secrets, "matrix": {}}
            if _needs(job) <= passed and evaluate(job.get("if", "true"), contexts):
                for row in job.get("strategy", {}).get("matrix", {}).get("include", [{}]):
                    self._job(name, job, document, contexts | {"matrix": row}, ran)
                passed.add(name)
        return ran

    def _job(self, name: str, job: Node, document: Node, contexts: Node, ran: Ran) -> None:
        place = self.work / "machine"
        for part in ("workspace", "home"):
            shutil.rmtree(place / part, ignore_errors=True)
            (place / part).mkdir(parents=True)
        (place / "temp").mkdir(exist_ok=True)  # kept: shipline is installed once
        machine = Machine(self, place, contexts, {})
        machine.variables |= {k: text(v, contexts) for k, v in document.get("env", {}).items()}
        for number, step in enumerate(job["steps"]):
            if evaluate(step.get("if", "true"), contexts):
                ran.steps.append(f"{name}/{step['name']}")
                machine.step(number, step, ran)


def _needs(job: Node) -> set[str]:
    needs = job.get("needs", [])
    return {needs} if isinstance(needs, str) else set(needs)


@dataclass
class Machine:
    """One job: its directories, and the variables that steps leave for later ones."""

    runner: Runner
    place: Path
    contexts: Node
    variables: dict[str, str]
    path: list[str] = field(default_factory=list)
    action: Path | None = None  # the composite action that runs

    @property
    def workspace(self) -> Path:
        return self.place / "workspace"

    def step(self, number: int, step: Node, ran: Ran) -> None:
        own = {key: text(value, self.contexts) for key, value in step.get("env", {}).items()}
        ran.environments[ran.steps[-1]] = own
        if "uses" in step:
            action = re.sub(r"@[0-9a-f]{40}\Z", "", step["uses"])
            options = {k: text(v, self.contexts) for k, v in step.get("with", {}).items()}
            if action in self.runner.actions:
                self._composite(self.runner.actions[action], options, ran)
            else:
                self._keep(step, ACTIONS[action](self, options) or {}, ran)
            return
        files = {name: self.place / f"{name}-{number}" for name in ("ENV", "PATH", "OUTPUT")}
        files["STEP_SUMMARY"] = self.place / f"summary-{number}"
        for file in files.values():
            file.write_text("")
        script = self.place / "script.sh"
        script.write_text(step["run"])
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-e", script],
            cwd=self.workspace,
            env=self._environment(own, files),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_STEP_S,
        )
        ran.log += f"== {ran.steps[-1]} ({time.monotonic() - began:.1f} s)\n{done.stdout}"
        assert done.returncode == 0, ran.log[-6000:]
        self.variables |= dict(_pairs(files["ENV"].read_text()))
        self.path = [*files["PATH"].read_text().split(), *self.path]
        self._keep(step, dict(_pairs(files["OUTPUT"].read_text())), ran)
        ran.summary += files["STEP_SUMMARY"].read_text()

    def _keep(self, step: Node, outputs: Node, ran: Ran) -> None:
        ran.outputs |= outputs
        if "id" in step:
            self.contexts["steps"] = {
                **self.contexts.get("steps", {}),
                step["id"]: {"outputs": outputs},
            }

    def _composite(self, place: Path, given: Node, ran: Ran) -> None:
        document = YAML(typ="safe").load(place / "action.yml")
        unknown = given.keys() - document["inputs"].keys()
        assert not unknown, f"the action has no inputs {unknown}"
        inputs = {
            name: text(one.get("default", ""), self.contexts)
            for name, one in document["inputs"].items()
        }
        outer = self.contexts, self.action
        self.contexts = {**self.contexts, "inputs": inputs | given, "steps": {}}
        self.action, caller = place, ran.steps[-1]
        for number, step in enumerate(document["runs"]["steps"], 100):
            if evaluate(step.get("if", "true"), self.contexts):
                ran.steps.append(f"{caller}/{step['name']}")
                self.step(number, step, ran)
        ran.outputs = {
            name: text(one["value"], self.contexts) for name, one in document["outputs"].items()
        }
        self.contexts, self.action = outer

    def _environment(self, own: dict[str, str], files: Mapping[str, Path]) -> dict[str, str]:
        github = self.contexts["github"]
        payload = self.place / "event.json"
        payload.write_text(json.dumps(github["event"]))
        home = self.place / "home"
        path = ":".join([*self.path, str(self.runner.programs), os.environ["PATH"]])
        return {
            "PATH": path,
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(self.workspace),
            "GITHUB_EVENT_PATH": str(payload),
            "RUNNER_TEMP": str(self.place / "temp"),
            "SHIPLINE_HOME": str(home / ".local/state/shipline"),  # for root it is elsewhere
            **{f"GITHUB_{k.upper()}": v for k, v in github.items() if isinstance(v, str)},
            **{f"GITHUB_{name}": str(file) for name, file in files.items()},
            **({"GITHUB_ACTION_PATH": str(self.action)} if self.action else {}),
            **self.runner.environment,
            **self.variables,
            **own,
        }


def _pairs(content: str) -> Iterator[tuple[str, str]]:
    """NAME=VALUE and NAME<<MARK blocks, as in the files that runners read after a step."""
    lines = iter(content.splitlines())
    for line in lines:
        if block := re.fullmatch(r"([\w-]+)<<(\S+)", line):
            yield block[1], "\n".join(itertools.takewhile(block[2].__ne__, lines))
        elif "=" in line:
            name, _, text = line.partition("=")
            yield name, text


# --- expressions ---------------------------------------------------------------------------------


def evaluate(condition: str, contexts: Node) -> Any:
    """An expression: context values, contains, comparison, &&, ||, ! and status functions of a
    good run.
    """
    words = re.sub(r"\A\$\{\{(.*)\}\}\Z", r"\1", str(condition).strip(), flags=re.DOTALL)
    for ours, theirs in (("&&", " and "), ("||", " or "), ("!cancelled()", "True")):
        words = words.replace(ours, theirs)
    words = re.sub(r"\btrue\b", "True", words)
    words = re.sub(
        r"\b(github|secrets|matrix|inputs|steps)((?:\.[\w-]+)+)", r"value('\1\2')", words
    )

    def value(name: str) -> Any:
        found: Any = contexts
        for part in name.split("."):
            found = found.get(part, "") if isinstance(found, Mapping) else ""
        return found

    return eval(words, {"value": value, "contains": lambda whole, part: part in whole})


def text(content: Any, contexts: Node) -> str:
    """A value with its expressions replaced."""
    plain = json.dumps(content) if isinstance(content, bool) else str(content)
    return re.sub(r"\$\{\{.*?\}\}", lambda found: str(evaluate(found[0], contexts)), plain)


# --- actions -------------------------------------------------------------------------------------


def _checkout(machine: Machine, options: Node) -> None:
    assert options["persist-credentials"] == "false"
    git = ["git", "-c", "advice.detachedHead=false"]
    depth = ["--depth=1", f"file://{machine.runner.origin}"]
    source = depth if options.get("fetch-depth", "1") != "0" else [str(machine.runner.origin)]
    subprocess.run([*git, "clone", "-q", *source, machine.workspace], check=True)
    sha = machine.contexts["github"]["sha"]
    subprocess.run([*git, "checkout", "-q", sha], cwd=machine.workspace, check=True)


def _upload(machine: Machine, options: Node) -> None:
    files = sorted(machine.workspace.glob(options["path"]))
    assert files, f"no file is {options['path']}"
    place = machine.runner.artifacts / options["name"]
    place.mkdir(parents=True)  # a name is given once
    for file in files:
        shutil.copy2(file, place / file.name)


def _download(machine: Machine, options: Node) -> None:
    places = sorted(machine.runner.artifacts.glob(options.get("pattern") or options["name"]))
    assert places, f"there is no artifact {options}"
    for place in places:
        shutil.copytree(place, machine.workspace / options.get("path", "."), dirs_exist_ok=True)


def _restore(machine: Machine, options: Node) -> None:
    prefixes = [options["key"], *options.get("restore-keys", "").split()]
    for prefix in prefixes:
        found = sorted(machine.runner.caches.glob(f"{prefix}*"))
        if found:
            shutil.copytree(found[-1], machine.place / "home", symlinks=True, dirs_exist_ok=True)
            return


def _save(machine: Machine, options: Node) -> None:
    place = machine.runner.caches / options["key"]
    if place.exists():
        return
    for name in options["path"].split():
        path = name.removeprefix("~/")
        source = machine.place / "home" / path
        if source.is_dir():
            shutil.copytree(source, place / path, symlinks=True)
        elif source.exists():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place / path)


def _upload_sarif(machine: Machine, options: Node) -> None:
    report = json.loads((machine.workspace / options["sarif_file"]).read_text())
    assert report["version"] == "2.1.0"


def _script(machine: Machine, options: Node) -> Node:
    """Runs the script with node; outputs are lines that it prints."""
    core = "const core = {setSecret: () => {}, setOutput: (k, v) => console.log(`${k}=${v}`)};\n"
    done = subprocess.run(
        ["node", "-e", core + options["script"]],
        env={"PATH": os.environ["PATH"], **machine.runner.action_environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(_pairs(done.stdout))


def _nothing(machine: Machine, options: Node) -> None:
    """Set up a language that this machine has."""


ACTIONS: dict[str, Callable[[Machine, Node], Node | None]] = {
    "actions/checkout": _checkout,
    "actions/setup-node": _nothing,
    "actions/upload-artifact": _upload,
    "actions/download-artifact": _download,
    "actions/cache/restore": _restore,
    "actions/cache/save": _save,
    "actions/github-script": _script,
    "github/codeql-action/upload-sarif": _upload_sarif,
}
