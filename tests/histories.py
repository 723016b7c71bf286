"""Histories of environments as values: what commits of a GitOps repository say, without one."""

from __future__ import annotations

from datetime import UTC, datetime

from shipline.deliver.gitops import Action, Deployment, GitOpsSection, Update
from shipline.deliver.promotion import EnvironmentState, recorded_times
from shipline.oci import Reference

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)  # a Monday
GITOPS = GitOpsSection("deploy.git", (Update(kustomization="."),))
IMAGES = {
    name: Reference.parse(f"registry.example/app:{name}@sha256:{letter * 64}")
    for name, letter in (("a", "a"), ("b", "b"), ("c", "c"))
}
AUTHOR = "Ann <ann@example.org>"


def said(
    words: str, environment: str = "dev", *, by: str = "", at: float = -3600, author: str = ""
) -> Deployment:
    """`deploy a`, `verify a fail`, `stop`: made `at` seconds from now."""
    action, name, verdict = [*words.split(), "", ""][:3]
    return Deployment(
        environment,
        "app",
        (IMAGES[name],) if name else (),
        action=Action(action),
        verdict=verdict,
        by=f"Someone <{by or 'ops@example.org'}>",
        time=int(NOW.timestamp() + at),
        id=f"{words}{at}{by}",
        author=author,
    )


def state(name: str, *commits: Deployment, checked: bool = False) -> EnvironmentState:
    """The state of an environment from its commits, oldest first."""
    newest = tuple(reversed(commits))
    return EnvironmentState(name, newest, recorded_times(newest, NOW.timestamp()), checked)
