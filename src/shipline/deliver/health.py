"""The sections `health` and `checks` of an environment: where it can be seen what runs there, and
what must pass then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from shipline.deliver.commands import check_inside, check_variables
from shipline.errors import ConfigError
from shipline.gates.section import DastGate, split_format
from shipline.units import Duration
from shipline.values import doc

WORKLOADS = {
    "deployment": "deployments",
    "statefulset": "statefulsets",
    "daemonset": "daemonsets",
    "rollout": "rollouts",
}
"""Kinds of workloads by their key, as the API names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgoCdHealth:
    """An Application of Argo CD, over its API."""

    server: str = field(metadata=doc("The URL of Argo CD.", interpolate=True))
    application: str = field(metadata=doc("The name of the Application."))
    namespace: str = field(
        default="", metadata=doc("The Application's namespace, if it is not Argo CD's own.")
    )
    token: str = field(
        default="ARGOCD_TOKEN", metadata=doc("The variable with a token that may get it.")
    )
    ca: str = field(default="", metadata=doc("A file with the server's CA, relative to this one."))

    def __post_init__(self) -> None:
        _require_url("server", self.server)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesHealth:
    """Workloads and their pods, over the API of Kubernetes; the cluster is that of kubeconfig."""

    deployment: str = field(default="", metadata=doc("The name of a Deployment."))
    statefulset: str = field(default="", metadata=doc("The name of a StatefulSet."))
    daemonset: str = field(default="", metadata=doc("The name of a DaemonSet."))
    rollout: str = field(default="", metadata=doc("The name of a Rollout (Argo Rollouts)."))
    selector: str = field(
        default="", metadata=doc("Instead of a name: the labels of workloads and pods.")
    )
    context: str = field(
        default="", metadata=doc("The context of kubeconfig; by default the current one.")
    )
    namespace: str = field(
        default="", metadata=doc("The namespace; by default that of the context.")
    )

    def __post_init__(self) -> None:
        if len([*filter(None, (*self.names.values(), self.selector))]) != 1:
            raise ConfigError(f"kubernetes: give one of {', '.join(WORKLOADS)} or selector")

    @property
    def names(self) -> dict[str, str]:
        """The names of workloads by their kinds, the keys of WORKLOADS; all but one are empty."""
        names = (self.deployment, self.statefulset, self.daemonset, self.rollout)
        return dict(zip(WORKLOADS, names, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlHealth:
    """A page of the service. `{digest}`, `{tag}` and `{commit}` stand for those of the image that
    is deployed; with several images, `{digest}` and `{tag}` are those of the first.
    """

    address: str = field(metadata=doc("The URL of the page.", interpolate=True))
    expect: int = field(default=200, metadata=doc("The status of the response."))
    contains: str = field(
        default="", metadata=doc("What the body must contain, such as {commit} or {digest}.")
    )
    header: str = field(
        default="", metadata=doc("A header that the response must have, as in X-Version: {tag}.")
    )
    token: str = field(default="", metadata=doc("The variable with a bearer token."))
    ca: str = field(default="", metadata=doc("A file with the server's CA, relative to this one."))

    def __post_init__(self) -> None:
        _require_url("address", self.address)
        if self.header and not self.header.partition(":")[1]:
            raise ConfigError(f"header: {self.header!r} is not NAME: VALUE")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSection:
    """How to see what an environment runs: one of these."""

    argocd: ArgoCdHealth | None = field(default=None, metadata=doc("From Argo CD."))
    kubernetes: KubernetesHealth | None = field(default=None, metadata=doc("From Kubernetes."))
    url: UrlHealth | None = field(default=None, metadata=doc("From the service."))
    timeout: Duration = field(
        default=Duration(600_000), metadata=doc("How long to wait until the image runs.")
    )
    grace: Duration = field(
        default=Duration(60_000),
        metadata=doc("How long a rollout may be degraded before it counts as failed."),
    )

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.argocd, self.kubernetes, self.url)) != 1:
            raise ConfigError("health: give one of argocd, kubernetes or url")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSection:
    """A command that tests the deployed service. It passes with status 0, or, if it writes reports,
    if their gate does.
    """

    run: str | tuple[str, ...] = field(
        metadata=doc("A script for `sh -e`, or a program with its arguments.")
    )
    report: str | tuple[str, ...] = field(
        default=(), metadata=doc("Reports that it writes, as PATH or FORMAT:PATH, also globs.")
    )
    gate: str | DastGate = field(
        default_factory=DastGate,
        metadata=doc("What judges the reports: the rules of a dast gate, or the name of a gate."),
    )
    timeout: Duration = field(default=Duration(600_000), metadata=doc("Time limit."))
    retries: int = field(default=0, metadata=doc("Further attempts after a failure."))
    env: Mapping[str, str] = field(
        default_factory=dict, metadata=doc("Variables to set, in addition to the usual ones.")
    )
    pass_env: tuple[str, ...] = field(
        default=(),
        metadata=doc("Variables to pass on, by name or as NAME_*; output shows *** for them."),
    )
    working_directory: str = field(
        default=".", metadata=doc("Working directory, relative to this file.")
    )

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= 10:
            raise ConfigError("retries: must be from 0 to 10")
        check_variables("env", self.env)
        check_variables("pass-env", self.pass_env)
        check_inside("working-directory", (self.working_directory,))
        check_inside("report", (split_format(name)[1] for name in self.reports))

    @property
    def reports(self) -> tuple[str, ...]:
        """The reports as FORMAT:PATH or PATH."""
        return (self.report,) if isinstance(self.report, str) else self.report


def _require_url(key: str, text: str) -> None:
    if not re.match(r"https?://[^/@\s]+", text):
        raise ConfigError(f"{key}: {text!r} is not a URL: write https://HOST")
