"""The environments as jobs: which commits they are for, and what these jobs are handed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from shipline.deliver.ci.workflow import Workflow
from shipline.deliver.environments import EnvironmentSection
from shipline.errors import ConfigError

TOKEN = "GITOPS_TOKEN"
"""The secret of an environment that may push to its GitOps repository."""

_LONGEST = 360  # minutes of a job of GitHub
_SSH = re.compile(r"(?:ssh://)?(?:[^@/]+@)?([^/:@]+)[:/]")
_HTTP = re.compile(r"(https?)://(?:[^@/]*@)?([^/]+)/")


@dataclass(frozen=True, slots=True)
class StageJob:
    """An environment as a job, after the job of the stage `after` or of the release."""

    name: str
    section: EnvironmentSection
    job: str
    after: str

    @property
    def by_hand(self) -> bool:
        """Whether a person starts it."""
        return self.section.promotion == "manual" or self.section.approvals is not None

    @property
    def url(self) -> str:
        """The address of the service; empty if it is not known."""
        health = self.section.health
        page = health.url.address if health and health.url else ""
        return "" if "{" in page else page

    @property
    def git_settings(self) -> dict[str, str]:
        """The configuration of git with which `TOKEN` opens the GitOps repository, by key. Raises
        ConfigError for a repository that no job reaches.
        """
        repository = self.section.gitops.repository
        if self.section.gitops.is_path or repository.startswith("file:"):
            raise ConfigError(
                f"environments.{self.name}.gitops.repository: jobs do not reach the path"
                f" {repository}",
                hint="write the URL of the repository",
            )
        web, shell = _HTTP.match(repository), _SSH.match(repository)
        place = f"{web[1]}://{web[2]}" if web else f"https://{shell[1] if shell else ''}"
        settings = credential_helper(place, TOKEN)
        if not web and shell:
            settings[f"url.{place}/.insteadOf"] = shell[0]
        return settings

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that health, checks and analysis of the environment read as variables."""
        section, health = self.section, self.section.health
        analysis = section.canary.analysis if section.canary else None
        servers = (analysis.prometheus, analysis.loki, analysis.tempo) if analysis else ()
        names = [
            health.argocd.token if health and health.argocd else "",
            health.url.token if health and health.url else "",
            *(name for check in section.tests.values() for name in check.pass_env),
            *(
                name
                for server in servers
                if server is not None
                for name in (server.token, server.user, server.password)
            ),
        ]
        return tuple(dict.fromkeys(name for name in names if name and "*" not in name))

    @property
    def kubeconfig(self) -> bool:
        """Whether the job asks Kubernetes."""
        return bool(self.section.health and self.section.health.kubernetes)

    def minutes(self, base: int) -> int:
        """The time limit of the job: what its waits may take, besides `base`."""
        section = self.section
        waits_s = section.health.timeout.seconds if section.health else 0.0
        waits_s += sum(check.timeout.seconds for check in section.tests.values())
        if section.canary:
            waits_s += 2 * sum(step.hold.seconds for step in section.canary.steps)
        return min(_LONGEST, base + ceil(waits_s / 60))


def stages(workflow: Workflow) -> Iterator[StageJob]:
    """The environments, each after the one that it follows. Raises ConfigError for names that are
    the same as names of jobs.
    """
    jobs: dict[str, str] = {}
    left = dict(workflow.environments)
    while left:
        name = next(one for one, section in left.items() if section.after not in left)
        section = left.pop(name)
        job = f"deploy-{name.replace('.', '-')}"
        if job in jobs.values():
            raise ConfigError(f"environments: {name} and another one have one name in CI: {job}")
        jobs[name] = job
        yield StageJob(name, section, job, jobs.get(section.after, "release"))


def git_variables(settings: dict[str, str]) -> dict[str, str]:
    """Settings of git as variables (git-config, GIT_CONFIG_COUNT)."""
    variables = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


def credential_helper(place: str, variable: str) -> dict[str, str]:
    """The setting with which git opens a server with the token in a variable."""
    answer = f'test "$1" = get && printf "username=git\\npassword=%s\\n" "${variable}"'
    return {f"credential.{place}.helper": f"!f() {{ {answer}; }}; f"}
