"""The driver `kubernetes`: a buildkitd in every pod of a workload, reached by commands in pods.

Source: docker/buildx, driver/kubernetes.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs

from shipline.builders.driver import State
from shipline.builders.instances import Node
from shipline.builders.kubernetes_objects import CONTAINER, builder_objects, parse_options
from shipline.buildkit.connecting import open_pipe
from shipline.buildkit.control import Control
from shipline.errors import BuilderError
from shipline.events import Step
from shipline.grpc.connection import Pipe
from shipline.kubernetes import Cluster, KubernetesError, load_access, open_exec, pod_problem
from shipline.net import split_url
from shipline.tasks import after_cancel, sleep

Object = dict[str, Any]

_POLL_S = 0.5
_CLEAN_S = 30.0
_LOG_LINES = 10
_DIAL = ("buildctl", "dial-stdio")


class KubernetesDriver:
    """The pods of a node of a builder."""

    def __init__(self, node: Node, environment: Mapping[str, str], timeout_s: float) -> None:
        """Raises BuilderError without a cluster, UsageError for options that cannot be used."""
        self._timeout_s = timeout_s
        self._options = parse_options(node.driver_options)
        self._objects = builder_objects(node, self._options)
        query = _query(node.endpoint)
        access = load_access(
            environment, kubeconfig=query.get("kubeconfig", ""), context=query.get("context", "")
        )
        self._cluster = Cluster(access, environment, self._options.namespace)
        self._causes: dict[str, str] = {}  # by pod, why its image was not pulled

    def state(self) -> State:
        found = self._workload()
        if found is None:
            return State.INACTIVE
        if not _replicas(found):
            return State.STOPPED
        return State.RUNNING if _ready(found) else State.STARTING

    def boot(self, step: Step) -> None:
        name, namespace = self._objects.name, self._cluster.namespace
        with step.step(f"boot BuildKit in {namespace}/{name}") as booting:
            made = self._workload() is None
            try:
                if made:
                    made = self._create()
                self._scale_up()
                self._wait(booting)
            except BaseException:
                if made:
                    with suppress(BuilderError, TimeoutError), after_cancel(_CLEAN_S):
                        self._delete()
                raise

    @contextmanager
    def open(self, key: str = "") -> Iterator[Control]:
        pod = self._choose(key)
        shown = f"{self._cluster.namespace}/{pod}"
        pipe = open_exec(self._cluster, pod, CONTAINER, _DIAL)
        with open_pipe(pipe, shown, timeout_s=self._timeout_s) as control:
            yield control

    def dial(self) -> AbstractContextManager[Pipe]:
        return open_exec(self._cluster, self._choose(""), CONTAINER, _DIAL)

    def stop(self) -> None:
        if self._workload() is not None:
            change = {"spec": {"replicas": 0}}
            self._cluster.patch(self._objects.kind, self._objects.name, change)

    def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        if keep_daemon:
            return
        self._delete()
        if not keep_state and self._objects.kind == "statefulsets":
            kind = "persistentvolumeclaims"
            for claim in self._cluster.list(kind, labelSelector=self._objects.selector):
                self._cluster.delete(kind, claim["metadata"]["name"])

    def _workload(self) -> Object | None:
        return self._cluster.get(self._objects.kind, self._objects.name)

    def _create(self) -> bool:
        """Whether it was made here, and not by another process at the same time."""
        cluster, objects = self._cluster, self._objects
        for document in objects.config_maps:
            try:
                cluster.create("configmaps", document)
            except KubernetesError as error:
                if error.status != 409:
                    raise
                cluster.replace("configmaps", document)
        try:
            cluster.create(objects.kind, objects.workload)
        except KubernetesError as error:
            if error.status != 409:
                raise
            return False
        return True

    def _delete(self) -> None:
        self._cluster.delete(self._objects.kind, self._objects.name)
        for document in self._objects.config_maps:
            self._cluster.delete("configmaps", document["metadata"]["name"])

    def _scale_up(self) -> None:
        found = self._workload()
        if found is not None and not _replicas(found):
            change = {"spec": {"replicas": self._options.replicas}}
            self._cluster.patch(self._objects.kind, self._objects.name, change)

    def _wait(self, step: Step) -> None:
        """Wait until all pods are ready. Raises BuilderError with what keeps one from it."""
        deadline = time.monotonic() + self._options.timeout_s
        wanted, said = self._options.replicas, ""
        while True:
            found = self._workload()
            if found is None:
                raise BuilderError(
                    f"{self._objects.name} was removed while its pods started", code="builder-pods"
                )
            wanted = _replicas(found)
            if (ready := _ready(found)) >= wanted:
                return
            problem, is_final = self._problem(found)
            if is_final:
                raise self._failed(problem)
            if time.monotonic() > deadline:
                span = f"after {self._options.timeout_s:g} seconds"
                raise self._failed(
                    f"{ready} of {wanted} pods are ready {span}{problem and f': {problem}'}"
                )
            if problem and problem != said:
                step.output(f"{problem}\n".encode())
                said = problem
            sleep(_POLL_S)

    def _failed(self, problem: str) -> BuilderError:
        name, namespace = self._objects.name, self._cluster.namespace
        return BuilderError(
            f"the pods of {namespace}/{name} do not start: {problem}",
            code="builder-pods",
            hint="options like image=, requests.cpu=, nodeselector= and timeout= change them; see"
            f" `kubectl -n {namespace} get events`",
        )

    def _problem(self, workload: Object) -> tuple[str, bool]:
        """What keeps pods from being ready, and whether time does not help."""
        for condition in workload.get("status", {}).get("conditions") or ():
            if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
                return str(condition.get("message") or condition.get("reason")), True
        pods = self._pods()
        for pod in pods:
            if found := self._problem_of(pod):
                return found
        wanted = _replicas(workload)
        if self._objects.kind == "statefulsets" and len(pods) < wanted:
            return self._refused(), False
        return "", False

    def _problem_of(self, pod: Object) -> tuple[str, bool] | None:
        found = pod_problem(pod)
        if found is None:
            return None
        if found.reason == "ErrImagePull":
            self._causes[found.pod] = found.message
            return None
        message = self._cause(found.pod, found.reason) or found.message
        return str(found._replace(message=message)), found.final

    def _cause(self, pod: str, reason: str) -> str:
        """What is behind a reason, where the pod's status does not say it."""
        if reason == "CrashLoopBackOff":
            with suppress(BuilderError):
                return self._cluster.log(pod, lines=_LOG_LINES).strip()
        return self._causes.get(pod, "") if reason == "ImagePullBackOff" else ""

    def _refused(self) -> str:
        """Why a StatefulSet has too few pods; only its events say it."""
        chosen = f"involvedObject.name={self._objects.name},reason=FailedCreate"
        with suppress(BuilderError):
            for event in self._cluster.list("events", fieldSelector=chosen):
                return str(event.get("message", ""))
        return ""

    def _pods(self) -> list[Object]:
        return self._cluster.list("pods", labelSelector=self._objects.selector)

    def _choose(self, key: str) -> str:
        """The pod for a key: always the same while it is there, so that it finds its cache."""
        running = [pod for pod in self._pods() if pod.get("status", {}).get("phase") == "Running"]
        pods = [pod for pod in running if _is_ready(pod)] or running
        if not pods:
            raise BuilderError(
                f"no pod of {self._cluster.namespace}/{self._objects.name} runs",
                code="builder-pods",
                hint="start them: shipline builder inspect --bootstrap NAME",
                retriable=True,
            )
        names = sorted(str(pod["metadata"]["name"]) for pod in pods)
        if self._options.random or not key:
            return random.choice(names)
        return max(names, key=lambda name: hashlib.sha256(f"{key}\0{name}".encode()).digest())


@contextmanager
def open_pod(endpoint: str, environment: Mapping[str, str], timeout_s: float) -> Iterator[Control]:
    """The BuildKit in a pod: kube-pod://POD?context=&namespace=&container=&kubeconfig=. Raises
    BuilderError.
    """
    pipe, shown = dial_pod(endpoint, environment)
    with open_pipe(pipe, shown, timeout_s=timeout_s) as control:
        yield control


def dial_pod(
    endpoint: str, environment: Mapping[str, str]
) -> tuple[AbstractContextManager[Pipe], str]:
    """The bytes to and from the BuildKit in a pod, and how errors name it. Raises BuilderError."""
    query = _query(endpoint)
    access = load_access(
        environment, kubeconfig=query.get("kubeconfig", ""), context=query.get("context", "")
    )
    cluster = Cluster(access, environment, query.get("namespace", ""))
    name = split_url(endpoint).netloc
    pod = cluster.get("pods", name)
    if pod is None:
        raise BuilderError(
            f"there is no pod {cluster.namespace}/{name}", code="builder-pods", retriable=True
        )
    container = query.get("container") or str(pod["spec"]["containers"][0]["name"])
    return open_exec(cluster, name, container, _DIAL), f"{cluster.namespace}/{name}"


def _query(endpoint: str) -> Mapping[str, str]:
    query = parse_qs(split_url(endpoint).query)
    return {name: values[0] for name, values in query.items()}


def _replicas(workload: Object) -> int:
    """How many pods it is to have."""
    return int((workload.get("spec") or {}).get("replicas", 1))


def _ready(workload: Object) -> int:
    return int((workload.get("status") or {}).get("readyReplicas") or 0)


def _is_ready(pod: Object) -> bool:
    conditions: Sequence[Object] = pod.get("status", {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
