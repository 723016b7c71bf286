"""What an environment runs, and whether it is healthy: read from Argo CD, from Kubernetes, or from
a URL of the service itself.

Sources: Argo CD, "API Docs" and "Resource Health"; kubernetes.io, "Deployments" (status), as
`kubectl rollout status` reads it; Argo Rollouts, "Rollout Specification" (status).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

from shipline.deliver.health import (
    WORKLOADS,
    ArgoCdHealth,
    HealthSection,
    KubernetesHealth,
    UrlHealth,
)
from shipline.errors import AuthError, BuilderError, ConfigError, RegistryError, ShiplineError
from shipline.kubernetes import Cluster, KubernetesError, load_access, pod_problem
from shipline.oci import Reference
from shipline.registry import NoKeychain, settings_from
from shipline.registry.errors import HttpResponse, RequestRefused, clean
from shipline.registry.http import HttpClient
from shipline.registry.request import ClientRequest, Url
from shipline.units import counted
from shipline.values import replace

Object = dict[str, Any]
Health = Literal["healthy", "progressing", "degraded", "unknown"]

_LIMIT = 32 << 20  # bytes of an answer of Argo CD; an Application lists all of its objects
_BODY = 1 << 20  # bytes read of a page


class RuntimeUnreadable(ShiplineError):
    """It cannot be seen what an environment runs."""

    code = "runtime"
    title = "cannot see what runs"


@dataclass(frozen=True, slots=True)
class RunningState:
    """What runs. `images` are the names of what does, with a digest where the source knows it: as
    it was asked for, and as the node resolved it; None if the source cannot tell. `wanted` are the
    names that are asked for, whether they run or not.

    `synced` is false while the cluster has not taken over what is in git, or has not looked at it;
    `failure` says why it cannot. `message` says what is missing to a healthy state. `revision` is
    the commit of the GitOps repository that is compared with, if known.
    """

    images: frozenset[str] | None
    wanted: frozenset[str] = frozenset()
    synced: bool = True
    health: Health = "healthy"
    message: str = ""
    failure: str = ""
    revision: str = ""

    def runs(self, image: Reference) -> bool:
        """Whether the image is among those that run."""
        return self.images is None or _names(self.images, image)

    def wants(self, image: Reference) -> bool:
        """Whether what is asked for names the image."""
        return _names(self.wanted, image)


def _names(names: Iterable[str], image: Reference) -> bool:
    end = f"@{image.digest}" if image.digest else f"{image.repository}:{image.tag}"
    return any(name.endswith(end) for name in names)


class RuntimeSource(Protocol):
    """Something that knows what an environment runs."""

    def read(
        self, images: tuple[Reference, ...], commit: str = "", *, refresh: bool = False
    ) -> RunningState:
        """The state now. `images` of the source `commit` are what should run, which a URL is asked
        for; with `refresh` Argo CD looks into git first. Raises RuntimeUnreadable, AuthError.
        """


def open_runtime(section: HealthSection, environ: Mapping[str, str], root: Path) -> RuntimeSource:
    """What the section names; paths are relative to `root`. Raises ConfigError for a CA that is not
    there, RuntimeUnreadable without a cluster.
    """
    if section.argocd:
        return _ArgoCd(section.argocd, _http(environ, root, section.argocd.ca), environ)
    if section.url:
        return _Page(section.url, _http(environ, root, section.url.ca).hasty, environ)
    assert section.kubernetes is not None
    try:
        access = load_access(environ, context=section.kubernetes.context)
        return _Workloads(
            section.kubernetes, Cluster(access, environ, section.kubernetes.namespace)
        )
    except BuilderError as error:
        raise _unreadable(error) from error


def _http(environ: Mapping[str, str], root: Path, ca: str) -> HttpClient:
    if ca and not (root / ca).is_file():
        raise ConfigError(
            f"health: the file {root / ca} of `ca` does not exist", code="file-unreadable"
        )
    return HttpClient(settings_from(environ, ca=[root / ca] if ca else ()), NoKeychain())


def _unreadable(error: ShiplineError, hint: str = "") -> RuntimeUnreadable:
    return RuntimeUnreadable(error.message, hint=hint or error.hint, retriable=error.retriable)


def _bearer(environ: Mapping[str, str], variable: str, host: str) -> dict[str, str]:
    if not (token := environ.get(variable, "").strip()):
        raise AuthError(
            f"{host} needs a token in the variable {variable}", code="runtime-token", host=host
        )
    return {"Authorization": f"Bearer {token}"}


@dataclass(frozen=True, slots=True)
class _ArgoCd:
    """Argo CD's view of an Application."""

    section: ArgoCdHealth
    http: HttpClient = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)

    def read(
        self, images: tuple[Reference, ...], commit: str = "", *, refresh: bool = False
    ) -> RunningState:
        application = self._get("normal" if refresh else "")
        with _understood(f"the Application {self.section.application}"):
            return _application_state(self.section.application, application)

    def _get(self, refresh: str) -> Object:
        section = self.section
        query = [("appNamespace", section.namespace)] if section.namespace else []
        query += [("refresh", refresh)] if refresh else []
        path = f"/api/v1/applications/{quote(section.application, safe='')}"
        url = Url.parse(section.server.rstrip("/") + path).with_query(*query)
        headers = _bearer(self.environ, section.token, url.origin.authority)
        request = ClientRequest("GET", url, {**headers, "Accept": "application/json"})
        try:
            with closing(
                self.http.call(
                    request, expect=(200,), operation="reading", redirects=0, explain=self._refused
                )
            ) as response:
                found = json.loads(response.content(_LIMIT))
        except RegistryError as error:
            raise _unreadable(error, _tls_hint(error)) from error
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("metadata"), dict):
            raise RuntimeUnreadable(
                f"what answers at {section.server} is not Argo CD's API",
                hint="set health.argocd.server to the URL that the argocd command uses",
            )
        return found

    def _refused(self, response: HttpResponse, operation: str) -> ShiplineError:
        """The error of a status; Argo CD answers 403 also for a missing Application."""
        try:
            reason = str(_mapping(json.loads(response.content(_BODY))).get("message") or "")
        except (ValueError, RecursionError, RegistryError):
            reason = ""
        response.close()
        host, name = response.url.origin.authority, self.section.application
        message = f"{host}: reading the Application {name}: {response.status}"
        message += f": {clean(reason)}" if reason else ""
        if response.status == 401:
            hint = f"put a valid token of Argo CD into {self.section.token}"
            return AuthError(message, code="runtime-login", host=host, status=401, hint=hint)
        hint = (
            f"is there an Application {name}, and may the token get it? (`argocd app get {name}`)"
        )
        return RequestRefused(
            message, code="runtime-refused", host=host, status=response.status, hint=hint
        )


def _application_state(name: str, application: Object) -> RunningState:
    status = _mapping(application.get("status"))
    sync, health = _mapping(status.get("sync")), _mapping(status.get("health"))
    shown = frozenset(map(str, _mapping(status.get("summary")).get("images") or ()))
    word = str(health.get("status") or "Unknown")
    messages = [str(health.get("message") or ""), *_unhealthy(status)]
    known: dict[str, Health] = {"Healthy": "healthy", "Degraded": "degraded"}
    known |= {"Unknown": "unknown"}
    state = RunningState(
        shown,
        shown,
        sync.get("status") == "Synced",
        known.get(word, "progressing"),
        f"{name} is {word}: {next(filter(None, messages), '')}",
        _sync_failure(status),
        _revision(sync),
    )
    if _mapping(status.get("operationState")).get("phase") in ("Running", "Terminating"):
        return replace(state, synced=False, message="a synchronisation is running")
    if not state.synced:
        word = str(sync.get("status") or "Unknown")
        return replace(state, message=f"{name} is {word}")
    return replace(state, message=state.message.removesuffix(": "))


@contextmanager
def _understood(what: str) -> Iterator[None]:
    """Raises RuntimeUnreadable where the block meets a value of another type than the API's."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError):
        raise RuntimeUnreadable(f"the status of {what} is not as its API describes it") from None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _revision(sync: Mapping[str, Any]) -> str:
    revisions = sync.get("revisions") or [sync.get("revision") or ""]
    return str(revisions[0])


def _unhealthy(status: Mapping[str, Any]) -> Iterator[str]:
    """The first objects that are not healthy, in a line."""
    lines = []
    for resource in status.get("resources") or ():
        health = _mapping(_mapping(resource).get("health"))
        if health.get("status") in ("Degraded", "Missing", "Progressing"):
            name = f"{resource.get('kind')}/{resource.get('name')} is {health['status']}"
            lines.append(": ".join(filter(None, (name, str(health.get("message") or "")))))
    yield "; ".join(sorted(lines, key=lambda line: " is Degraded" not in line)[:3])


def _sync_failure(status: Mapping[str, Any]) -> str:
    """Why Argo CD cannot apply the revision that it compares with; empty if it can or did."""
    for condition in status.get("conditions") or ():
        if str(_mapping(condition).get("type")).endswith("Error"):
            return f"{condition.get('type')}: {condition.get('message')}"
    operation, sync = _mapping(status.get("operationState")), _mapping(status.get("sync"))
    result = _mapping(operation.get("syncResult"))
    if operation.get("phase") in ("Failed", "Error") and (
        not result or _revision(result) == _revision(sync)
    ):
        return f"the synchronisation failed: {operation.get('message') or operation['phase']}"
    return ""


def _tls_hint(error: RegistryError) -> str:
    if "certificate refused" in error.message:
        return "name the file of its CA with `ca`, or use a name that the certificate has"
    return error.hint.replace("the registry", "the server")


@dataclass(frozen=True, slots=True)
class _Page:
    """What a page of the service says."""

    section: UrlHealth
    http: HttpClient = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)

    def read(
        self, images: tuple[Reference, ...], commit: str = "", *, refresh: bool = False
    ) -> RunningState:
        section = self.section
        url = Url.parse(section.address)
        headers = _bearer(self.environ, section.token, str(url.origin)) if section.token else {}
        request = ClientRequest("GET", url, headers)
        try:
            with closing(
                self.http.call(
                    request, expect=range(1000), operation="reading", redirects=0, tries=1
                )
            ) as response:
                status = response.status
                body = response.content(_BODY).decode(errors="replace")
                name, _, value = _filled(section.header, images, commit).partition(":")
                has_header = value.strip() in response.header(name) if name else True
        except RegistryError as error:
            return RunningState(frozenset(), synced=False, health="unknown", message=error.message)
        if status != section.expect:
            message = f"{section.address} answers with {status}, not {section.expect}"
            return RunningState(frozenset(), health="progressing", message=message)
        wanted = _filled(section.contains, images, commit)
        if wanted not in body or not has_header:
            text = wanted if wanted not in body else f"{name}: {value.strip()}"
            message = f"{section.address} does not have {text!r}"
            return RunningState(frozenset(), message=message)
        names_version = bool(
            re.search(r"\{(digest|tag|commit)\}", section.contains + section.header)
        )
        return RunningState(frozenset(map(str, images)) if names_version else None)


def _filled(text: str, images: tuple[Reference, ...], commit: str) -> str:
    first = next(iter(images), None)
    values = {
        "digest": str(first.digest or "") if first else "",
        "tag": first.tag if first else "",
        "commit": commit,
    }

    def value(match: re.Match[str]) -> str:
        if found := values[match[1]]:
            return found
        raise RuntimeUnreadable(
            f"health.url: what is deployed has no {match[1]}, which {text!r} needs",
            hint="use {digest}, which every deployment has",
        )

    return re.sub(r"\{(digest|tag|commit)\}", value, text)


@dataclass(frozen=True, slots=True)
class _Workloads:
    """Workloads of a namespace, and their pods."""

    section: KubernetesHealth
    cluster: Cluster = field(repr=False)

    def read(
        self, images: tuple[Reference, ...], commit: str = "", *, refresh: bool = False
    ) -> RunningState:
        try:
            workloads = self._workloads()
            with _understood(self._shown):
                named = self.section.selector
                selectors = [named] if named else [_selector(one) for _, one in workloads]
            pods = [
                pod
                for selector in selectors
                for pod in self.cluster.list("pods", labelSelector=selector)
            ]
        except BuilderError as error:
            raise self._unreadable(error) from error
        if not workloads and not pods:
            return RunningState(
                frozenset(), health="unknown", synced=False, message=f"{self._shown} does not exist"
            )
        with _understood(self._shown):
            return _state(workloads, pods)

    @property
    def _shown(self) -> str:
        section, namespace = self.section, self.cluster.namespace
        name = next((f"{kind} {name}" for kind, name in section.names.items() if name), "")
        return f"{name or f'what has the labels {section.selector}'} in the namespace {namespace}"

    def _workloads(self) -> list[tuple[str, Object]]:
        """The objects with their kinds. That there are no Rollouts in a cluster is not an error."""
        section = self.section
        found: list[tuple[str, Object]] = []
        for key, kind in WORKLOADS.items():
            if section.selector:
                try:
                    listed = self.cluster.list(kind, labelSelector=section.selector)
                except KubernetesError as error:
                    if kind != "rollouts" or error.status not in (403, 404):
                        raise
                    listed = []
                found += [(key, one) for one in listed]
            elif (name := section.names[key]) and (one := self.cluster.get(kind, name)):
                found.append((key, one))
        return found

    def _unreadable(self, error: BuilderError) -> RuntimeUnreadable:
        if isinstance(error, KubernetesError) and error.status == 403:
            return _unreadable(error, "docs/delivery.md has the Role that this needs")
        return _unreadable(error)


def _state(workloads: list[tuple[str, Object]], listed: list[Object]) -> RunningState:
    """The state of workloads with their pods: the worst of them."""
    pods = [pod for pod in listed if _is_current(pod)]
    ready = [pod for pod in pods if _is_ready(pod)]
    templates = [_mapping(one.get("spec")).get("template") or {} for _, one in workloads]
    state = RunningState(
        frozenset(name for pod in ready for name in _pod_images(pod)),
        frozenset(
            str(container.get("image"))
            for one in (*templates, *pods)
            for container in _mapping(one.get("spec")).get("containers") or ()
        ),
    )
    problems = [found for pod in pods if (found := pod_problem(pod))]
    final = next((problem for problem in problems if problem.final), None)
    rollouts = [rollout_status(kind, one) for kind, one in workloads]
    worst = next((one for one in rollouts if one.health == "degraded"), None)
    if worst or final:
        message = str(worst.message if worst else final)
        if worst and final:
            message += f" ({final})"
        return replace(state, health="degraded", message=message)
    if waiting := next((one for one in rollouts if one.health != "healthy"), None):
        message = waiting.message + (f" ({problems[0]})" if problems else "")
        return replace(state, health="progressing", synced=waiting.observed, message=message)
    if not workloads and len(ready) < len(pods):
        message = f"{len(ready)} of {counted(len(pods), 'pod')} are ready"
        message += f" ({problems[0]})" if problems else ""
        return replace(state, health="progressing", message=message)
    if not workloads and (mixed := _mixed(ready)):
        message = f"pods run different images of {mixed}"
        return replace(state, health="progressing", message=message)
    return state


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """Where the rollout of a workload is; `observed` if its controller has seen the last change."""

    health: Health
    message: str = ""
    observed: bool = True


def rollout_status(kind: str, workload: Object) -> RolloutStatus:
    """Of a `deployment`, `statefulset`, `daemonset` or `rollout`, as `kubectl rollout status` and
    `kubectl argo rollouts status` say it.
    """
    spec, status = _mapping(workload.get("spec")), _mapping(workload.get("status"))
    metadata = workload["metadata"]
    name = f"{kind} {metadata.get('name')}"
    seen = str(status.get("observedGeneration") or 0)  # text in a Rollout, once a hash
    if seen.isdecimal() and int(seen) < int(metadata.get("generation") or 0):
        return RolloutStatus("progressing", f"{name} has a change that was not seen yet", False)
    problem = _ROLLOUTS[kind](spec, status)
    health, message = problem if problem else ("healthy", "")
    return RolloutStatus(health, f"{name}: {message}" if message else "")


_Problem = tuple[Health, str] | None


def _replicas(spec: Mapping[str, Any]) -> int:
    return 1 if spec.get("replicas") is None else int(spec["replicas"])


def _deployment(spec: Mapping[str, Any], status: Mapping[str, Any]) -> _Problem:
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "ProgressDeadlineExceeded":
            return "degraded", f"ProgressDeadlineExceeded: {condition.get('message', '')}"
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return "degraded", str(condition.get("message") or condition.get("reason"))
    if spec.get("paused"):
        return "progressing", "its rollout is paused"
    total, updated = int(status.get("replicas") or 0), int(status.get("updatedReplicas") or 0)
    available = int(status.get("availableReplicas") or 0)
    if updated < _replicas(spec):
        return "progressing", f"{updated} of {_replicas(spec)} replicas are updated"
    if total > updated:
        return "progressing", f"{counted(total - updated, 'old replica')} still there"
    if available < updated:
        return "progressing", f"{available} of {updated} updated replicas are available"
    return None


def _statefulset(spec: Mapping[str, Any], status: Mapping[str, Any]) -> _Problem:
    wanted, ready = _replicas(spec), int(status.get("readyReplicas") or 0)
    updated = int(status.get("updatedReplicas") or 0)
    if ready < wanted:
        return "progressing", f"{ready} of {wanted} replicas are ready"
    strategy = _mapping(spec.get("updateStrategy"))
    partition = int(_mapping(strategy.get("rollingUpdate")).get("partition") or 0)
    if partition:
        if updated < wanted - partition:
            return "progressing", f"{updated} of {wanted - partition} replicas are updated"
        return None
    if status.get("updateRevision") != status.get("currentRevision"):
        return "progressing", f"{updated} of {wanted} replicas are updated"
    return None


def _daemonset(spec: Mapping[str, Any], status: Mapping[str, Any]) -> _Problem:
    wanted = int(status.get("desiredNumberScheduled") or 0)
    updated = int(status.get("updatedNumberScheduled") or 0)
    available = int(status.get("numberAvailable") or 0)
    if updated < wanted:
        return "progressing", f"{updated} of {wanted} pods are updated"
    if available < wanted:
        return "progressing", f"{available} of {wanted} updated pods are available"
    return None


def _rollout(spec: Mapping[str, Any], status: Mapping[str, Any]) -> _Problem:
    phase, message = str(status.get("phase") or "Progressing"), str(status.get("message") or "")
    text = ": ".join(filter(None, (phase, message)))
    if phase == "Healthy":
        return None
    return ("degraded" if phase == "Degraded" else "progressing"), text


_ROLLOUTS = {
    "deployment": _deployment,
    "statefulset": _statefulset,
    "daemonset": _daemonset,
    "rollout": _rollout,
}


def _selector(workload: Object) -> str:
    """The selector of a workload as text. Source: kubernetes.io, "Labels and Selectors"."""
    selector = _mapping(_mapping(workload.get("spec")).get("selector"))
    parts = [f"{key}={value}" for key, value in _mapping(selector.get("matchLabels")).items()]
    for rule in selector.get("matchExpressions") or ():
        key, values = rule.get("key"), ",".join(rule.get("values") or ())
        match rule.get("operator"):
            case "Exists":
                parts.append(str(key))
            case "DoesNotExist":
                parts.append(f"!{key}")
            case operator:
                parts.append(f"{key} {str(operator).lower()} ({values})")
    return ",".join(parts)


def _is_current(pod: Object) -> bool:
    """Whether a pod counts: not one that ends, or has ended."""
    phase = _mapping(pod.get("status")).get("phase")
    return not pod["metadata"].get("deletionTimestamp") and phase not in ("Succeeded", "Failed")


def _is_ready(pod: Object) -> bool:
    conditions = _mapping(pod.get("status")).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _pod_images(pod: Object) -> Iterator[str]:
    """What its containers run: as it was asked for, and as the node resolved it."""
    for container in _mapping(pod.get("spec")).get("containers") or ():
        yield str(container.get("image"))
    for status in _mapping(pod.get("status")).get("containerStatuses") or ():
        yield str(status.get("imageID") or "").partition("://")[2] or str(status.get("imageID"))


def _mixed(pods: list[Object]) -> str:
    """The first repository of which pods that nothing rolls out run different digests."""
    seen: dict[str, str] = {}
    for pod in pods:
        for container in _mapping(pod.get("spec")).get("containers") or ():
            name, _, digest = str(container.get("image")).partition("@")
            repository = re.sub(r":[^/]*\Z", "", name)
            if seen.setdefault(repository, digest or name) != (digest or name):
                return repository
    return ""
