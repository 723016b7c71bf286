"""The provenance statement of a run (SLSA provenance, version 1: slsa.dev/spec/v1.0/provenance)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shipline import __version__
from shipline.ship.record import Run
from shipline.ship.section import Build

PREDICATE = "https://slsa.dev/provenance/v1"
_BUILD_TYPE = "https://shipline.dev/ship/v1"
_LOCAL = "https://shipline.dev/builder/local"


def provenance(
    run: Run, build: Build, url: str, environ: Mapping[str, str], finished: float
) -> dict[str, Any]:
    """The predicate: what was built from which commit, by whom and when.

    Arguments of the build are named, their values are not: some people put secrets there.
    """
    source = f"git+{_bare(url)}" if url else f"git+file:{Path(run.root).name}"
    dependency = {"uri": source, "digest": {"gitCommit": run.commit}}
    if run.branch:
        dependency["uri"] = f"{source}@refs/heads/{run.branch}"
    return {
        "buildDefinition": {
            "buildType": _BUILD_TYPE,
            "externalParameters": {
                "source": dependency,
                "configuration": {"path": run.file, "digest": {"sha256": _sha256(run)}},
                "build": {
                    "context": build.context,
                    "dockerfile": build.file or "Dockerfile",
                    "target": build.target or "",
                    "platforms": [str(one) for one in build.platforms],
                    "arguments": sorted(build.args),
                },
            },
            "internalParameters": {"steps": _steps(run)},
            "resolvedDependencies": [dependency],
        },
        "runDetails": {
            "builder": {"id": _builder(environ), "version": {"shipline": __version__}},
            "metadata": {
                "invocationId": _invocation(run, environ),
                "startedOn": _time(run.started),
                "finishedOn": _time(finished),
            },
        },
    }


def _steps(run: Run) -> dict[str, str]:
    return {one.name: one.state.value for one in run.steps if one.kind == "command"}


def _sha256(run: Run) -> str:
    path = Path(run.root) / run.file
    return hashlib.sha256(path.read_bytes()).hexdigest() if run.file and path.is_file() else ""


def _builder(environ: Mapping[str, str]) -> str:
    server = environ.get("GITHUB_SERVER_URL", "")
    if workflow := environ.get("GITHUB_WORKFLOW_REF", ""):
        return f"{server}/{workflow}"
    if project := environ.get("CI_PROJECT_URL", ""):
        return f"{project}/-/runners/{environ.get('CI_RUNNER_ID', '')}"
    return _LOCAL


def _invocation(run: Run, environ: Mapping[str, str]) -> str:
    if number := environ.get("GITHUB_RUN_ID", ""):
        place = f"{environ.get('GITHUB_SERVER_URL', '')}/{environ.get('GITHUB_REPOSITORY', '')}"
        return f"{place}/actions/runs/{number}/attempts/{environ.get('GITHUB_RUN_ATTEMPT', '1')}"
    return environ.get("CI_JOB_URL", "") or run.id


def _bare(url: str) -> str:
    """A URL without the credentials that people put into it."""
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
