"""The key `canary` of an environment: where weights stand, their steps, and what is measured."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from shipline.deliver.gitops import OnePlace, Update
from shipline.errors import ConfigError
from shipline.units import Duration
from shipline.values import doc

VARIABLE = re.compile(r"\{\{ *([a-z-]+) *\}\}")
"""A variable of a query. What templates of LogQL have in braces begins with a dot or has none of
these names.
"""
SAFE = re.compile(r"[A-Za-z0-9._:@/-]+\Z")
"""What may be put into a query."""
VARIABLES = ("canary", "stable", "canary-version", "stable-version", "window", "app", "environment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights(OnePlace):
    """The file in which the weights of the two versions stand, by one of four kinds."""

    KINDS: ClassVar[tuple[str, ...]] = ("rollout", "httproute", "virtualservice", "replicas")

    rollout: str | None = field(
        default=None, metadata=doc("A Rollout of Argo Rollouts with the steps setWeight and pause.")
    )
    httproute: str | None = field(
        default=None, metadata=doc("An HTTPRoute or GRPCRoute of the Gateway API.")
    )
    virtualservice: str | None = field(default=None, metadata=doc("A VirtualService of Istio."))
    replicas: str | None = field(
        default=None,
        metadata=doc(
            "A file or directory with both Deployments, or a Kustomization with `replicas`."
        ),
    )
    stable: str = field(
        default="", metadata=doc("The Service, subset or Deployment of the version that is in use.")
    )
    canary: str = field(
        default="", metadata=doc("The Service, subset or Deployment of the new version.")
    )
    total: int = field(default=10, metadata=doc("With `replicas`: the pods of both together."))

    def __post_init__(self) -> None:
        OnePlace.__post_init__(self)
        if self.kind != "rollout" and not (self.stable and self.canary):
            raise ConfigError(f"{self.kind} needs the names `stable` and `canary`")
        if self.stable and self.stable == self.canary:
            raise ConfigError("canary: the same name as that of the stable version")
        if self.total < 2:
            raise ConfigError("total: two versions need two pods at least")


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryStep:
    """A weight of the new version, and how long it has it at least."""

    weight: int = field(metadata=doc("The percentage of the traffic, or of the pods."))
    hold: Duration = field(metadata=doc("How long at least until the next step."))

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= 100:
            raise ConfigError("weight: not a percentage from 1 to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricServer:
    """A server that is asked for measurements. Credentials are in variables of the environment."""

    url: str = field(metadata=doc("The URL of the server, without /api."))
    token: str = field(default="", metadata=doc("The variable with a bearer token."))
    user: str = field(default="", metadata=doc("The variable with the user name."))
    password: str = field(default="", metadata=doc("The variable with the password."))
    tenant: str = field(default="", metadata=doc("The tenant (X-Scope-OrgID)."))

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/@]+", self.url):
            raise ConfigError("url: write http(s)://HOST[:PORT][/PATH], without a user")
        if bool(self.user) != bool(self.password) or (self.user and self.token):
            raise ConfigError("give `token`, or `user` and `password`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A query whose result is one number, and its limits."""

    name: str = field(metadata=doc("Its name in messages."))
    promql: str | None = field(default=None, metadata=doc("A query for Prometheus."))
    logql: str | None = field(default=None, metadata=doc("A metric query for Loki."))
    traceql: str | None = field(
        default=None, metadata=doc("A TraceQL metrics query for Tempo, over the window.")
    )
    baseline: str | None = field(
        default=None,
        metadata=doc("The query for the stable version; by default the same one with its names."),
    )
    max: float | None = field(default=None, metadata=doc("The maximum."))
    min: float | None = field(default=None, metadata=doc("The minimum."))
    max_ratio: float | None = field(
        default=None, metadata=doc("The maximum, as a multiple of the stable version's.")
    )
    max_increase: float | None = field(
        default=None, metadata=doc("The maximum above the stable version's.")
    )
    samples: str | None = field(
        default=None,
        metadata=doc("A query of the same kind that counts what the number is made of."),
    )
    min_samples: int = field(
        default=1, metadata=doc("With fewer samples there is no verdict (no_data).")
    )
    window: Duration = field(
        default=Duration(60_000), metadata=doc("What {{window}} stands for in the queries.")
    )

    def __post_init__(self) -> None:
        if len(self._queries) != 1:
            raise ConfigError("needs one of promql, logql, traceql")
        if not self.has_limits:
            raise ConfigError("needs one of max, min, max-ratio, max-increase")
        for query in (self.query, self.baseline or "", self.samples or ""):
            for name in VARIABLE.findall(query):
                if name not in VARIABLES:
                    raise ConfigError(
                        f"there is no variable {{{{{name}}}}}: {', '.join(VARIABLES)}"
                    )
        if self.is_relative and not self.baseline and not re.search(r"\{\{ *canary", self.query):
            raise ConfigError(
                "max-ratio and max-increase need {{canary}} in the query, or baseline"
            )

    @property
    def has_limits(self) -> bool:
        return self.is_relative or self.max is not None or self.min is not None

    @property
    def is_relative(self) -> bool:
        """Whether the stable version is measured, too."""
        return self.max_ratio is not None or self.max_increase is not None

    @property
    def language(self) -> str:
        return next(iter(self._queries))

    @property
    def query(self) -> str:
        return self._queries[self.language]

    @property
    def _queries(self) -> dict[str, str]:
        queries: dict[str, str | None] = {
            "promql": self.promql,
            "logql": self.logql,
            "traceql": self.traceql,
        }
        return {name: query for name, query in queries.items() if query}


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What is measured during each step. The limits are for each metric and step, and mean what
    they mean in an AnalysisTemplate of Argo Rollouts.
    """

    metrics: tuple[Metric, ...] = field(metadata=doc("What is measured; all must pass."))
    prometheus: MetricServer | None = field(default=None, metadata=doc("For PromQL."))
    loki: MetricServer | None = field(default=None, metadata=doc("For LogQL."))
    tempo: MetricServer | None = field(default=None, metadata=doc("For TraceQL metrics."))
    interval: Duration = field(
        default=Duration(60_000), metadata=doc("The time between measurements.")
    )
    count: int = field(default=1, metadata=doc("Measurements with a verdict that each step needs."))
    failure_limit: int = field(default=0, metadata=doc("How many measurements of a step may fail."))
    error_limit: int | None = field(
        default=None,
        metadata=doc("How many errors one after the other a step bears; by default any."),
    )
    deadline: Duration | None = field(
        default=None,
        metadata=doc(
            "How long after its hold a step waits for its verdict, and fails then; by"
            " default for as long as it takes."
        ),
    )
    timeout: Duration = field(default=Duration(10_000), metadata=doc("How long a query may take."))
    canary: str = field(
        default="", metadata=doc("What {{canary}} stands for; by default the name in `weights`.")
    )
    stable: str = field(
        default="", metadata=doc("What {{stable}} stands for; by default the name in `weights`.")
    )

    def __post_init__(self) -> None:
        servers = {"promql": self.prometheus, "logql": self.loki, "traceql": self.tempo}
        names = {"promql": "prometheus", "logql": "loki", "traceql": "tempo"}
        for metric in self.metrics:
            if servers[metric.language] is None:
                raise ConfigError(
                    f"metric {metric.name}: needs the server `{names[metric.language]}`"
                )
        if not self.metrics:
            raise ConfigError("metrics: at least one is needed")
        for name in filter(None, (self.canary, self.stable)):
            if not SAFE.match(name):
                raise ConfigError(
                    f"{name!r} has no place in a query: it may have letters, digits, . _ : @ / -"
                )
        if self.count < 1 or self.failure_limit < 0 or (self.error_limit or 0) < 0:
            raise ConfigError("count is 1 at least, and limits are 0 at least")

    def server(self, metric: Metric) -> MetricServer:
        """The server that a metric's queries go to."""
        servers = {"promql": self.prometheus, "logql": self.loki, "traceql": self.tempo}
        server = servers[metric.language]
        assert server is not None
        return server


@dataclass(frozen=True, slots=True, kw_only=True)
class CanarySection:
    """How a new version takes over from the one in use."""

    weights: Weights = field(metadata=doc("Where the weights of both versions stand in git."))
    steps: tuple[CanaryStep, ...] = field(metadata=doc("The weights, one after the other."))
    updates: tuple[Update, ...] = field(
        default=(),
        metadata=doc(
            "Where the image of the new version stands while both run; not for a Rollout,"
            " which has one image."
        ),
    )
    analysis: Analysis | None = field(
        default=None, metadata=doc("What is measured; without it, time alone passes.")
    )
    on_failure: Literal["rollback", "freeze"] = field(
        default="rollback",
        metadata=doc("Go back and hold the image, or leave the weights for a person."),
    )

    def __post_init__(self) -> None:
        weights = [step.weight for step in self.steps]
        if not weights or weights != sorted(set(weights)):
            raise ConfigError("steps: at least one is needed, each with a larger weight")
        if (self.weights.kind == "rollout") == bool(self.updates):
            raise ConfigError(
                "updates: a Rollout has one image, that of gitops.updates"
                if self.updates
                else "updates: name where the image of the canary stands"
            )
