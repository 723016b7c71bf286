"""What an environment runs: as Argo CD, Kubernetes and the service itself say it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.argocd import ArgoCd, application, argocd
from peers.kubernetes import KubernetesApi, kubernetes_api
from peers.page import page
from peers.registry import certificate
from shipline.deliver.health import ArgoCdHealth, HealthSection, KubernetesHealth, UrlHealth
from shipline.deliver.runtime import (
    RunningState,
    RuntimeSource,
    RuntimeUnreadable,
    _application_state,
    _state,
    _understood,
    open_runtime,
    rollout_status,
)
from shipline.errors import AuthError, ConfigError
from shipline.kubernetes import Cluster, load_access
from shipline.oci import Digest, Reference

Object = dict[str, Any]

TOKEN = "argo-token-1"
OLD, NEW = (
    Reference("registry.example", "team/app", tag, Digest("sha256", letter * 64))
    for tag, letter in (("1.0", "a"), ("1.1", "b"))
)
COMMIT = "c" * 40


def section(**parts: Any) -> HealthSection:
    return HealthSection(**parts)


@pytest.fixture
def argo() -> Iterator[tuple[ArgoCd, RuntimeSource]]:
    with argocd(TOKEN) as server:
        health = section(argocd=ArgoCdHealth(server=server.url, application="app"))
        yield server, open_runtime(health, {"ARGOCD_TOKEN": TOKEN}, Path())


def shown(server: ArgoCd, image: Reference, **facts: Any) -> None:
    server.applications["app"] = application("app", revision="r1", images=[str(image)], **facts)


def test_argo_cd_says_which_images_run_and_that_they_are_healthy(
    argo: tuple[ArgoCd, RuntimeSource],
) -> None:
    server, runtime = argo
    shown(server, NEW)
    state = runtime.read((NEW,), refresh=True)
    assert state.synced and state.health == "healthy" and state.revision == "r1"
    assert state.runs(NEW) and not state.runs(OLD)
    assert server.calls == ["/api/v1/applications/app?refresh=normal"]


@pytest.mark.parametrize(
    ("facts", "health", "synced", "failure", "message"),
    [
        ({"sync": "OutOfSync"}, "healthy", False, "", "app is OutOfSync"),
        ({"phase": "Running"}, "healthy", False, "", "a synchronisation is running"),
        ({"health": "Progressing"}, "progressing", True, "", "Deployment/app is Progressing"),
        ({"health": "Suspended"}, "progressing", True, "", "app is Suspended"),
        (
            {"health": "Degraded", "resource": "exceeded its progress deadline"},
            "degraded",
            True,
            "",
            "app is Degraded: Deployment/app is Degraded: exceeded its progress deadline",
        ),
        (
            {"phase": "Failed", "message": "one or more objects failed", "sync": "OutOfSync"},
            "healthy",
            False,
            "the synchronisation failed: one or more objects failed",
            "app is OutOfSync",
        ),
        (
            {"conditions": [{"type": "ComparisonError", "message": "no kustomization.yaml"}]},
            "healthy",
            True,
            "ComparisonError: no kustomization.yaml",
            "app is Healthy",
        ),
        (
            {"conditions": [{"type": "OrphanedResourceWarning", "message": "3 objects"}]},
            "healthy",
            True,
            "",
            "app is Healthy",
        ),
    ],
)
def test_argo_cd_says_what_is_missing(
    argo: tuple[ArgoCd, RuntimeSource],
    facts: Object,
    health: str,
    synced: bool,
    failure: str,
    message: str,
) -> None:
    server, runtime = argo
    shown(server, NEW, **facts)
    state = runtime.read((NEW,))
    assert (state.health, state.synced, state.failure) == (health, synced, failure)
    assert message in state.message


def test_a_failed_operation_on_an_older_revision_is_no_failure(
    argo: tuple[ArgoCd, RuntimeSource],
) -> None:
    server, runtime = argo
    shown(server, OLD, phase="Failed", sync="OutOfSync")
    server.applications["app"]["status"]["sync"]["revision"] = "r2"
    assert runtime.read((NEW,)).failure == ""


def test_a_busy_argo_cd_is_asked_again(argo: tuple[ArgoCd, RuntimeSource]) -> None:
    server, runtime = argo
    shown(server, NEW)
    server.busy = 1
    assert runtime.read((NEW,)).runs(NEW)


def test_what_argo_cd_refuses_is_said_with_what_to_do(argo: tuple[ArgoCd, RuntimeSource]) -> None:
    server, runtime = argo
    with pytest.raises(RuntimeUnreadable, match="403: permission denied") as refused:
        runtime.read((NEW,))
    assert "argocd app get app" in refused.value.hint and not refused.value.retriable
    server.token = "another"
    with pytest.raises(AuthError, match="no session information") as denied:
        runtime.read((NEW,))
    assert "ARGOCD_TOKEN" in denied.value.hint and TOKEN not in str(denied.value)


def test_without_a_token_nothing_is_asked(argo: tuple[ArgoCd, RuntimeSource]) -> None:
    server, _ = argo
    health = section(argocd=ArgoCdHealth(server=server.url, application="app", token="ABSENT"))
    with pytest.raises(AuthError, match="ABSENT"):
        open_runtime(health, {}, Path()).read((NEW,))
    assert server.calls == []


def test_the_authority_of_argo_cd_can_be_named(tmp_path: Path) -> None:
    pair = certificate(tmp_path, "argocd")
    with argocd(TOKEN, pair) as server:
        shown(server, NEW)
        environ = {"ARGOCD_TOKEN": TOKEN}
        unknown = ArgoCdHealth(server=server.url, application="app")
        with pytest.raises(RuntimeUnreadable, match="certificate refused") as refused:
            open_runtime(section(argocd=unknown), environ, tmp_path).read((NEW,))
        assert "`ca`" in refused.value.hint
        known = ArgoCdHealth(server=server.url, application="app", ca="argocd.crt")
        assert open_runtime(section(argocd=known), environ, tmp_path).read((NEW,)).runs(NEW)
        absent = ArgoCdHealth(server=server.url, application="app", ca="absent.crt")
        with pytest.raises(ConfigError, match=r"absent\.crt"):
            open_runtime(section(argocd=absent), environ, tmp_path)


def test_another_server_is_not_taken_for_argo_cd() -> None:
    with page(lambda: (200, {}, "<html>")) as url:
        health = section(argocd=ArgoCdHealth(server=url, application="app"))
        with pytest.raises(RuntimeUnreadable, match="is not Argo CD's API"):
            open_runtime(health, {"ARGOCD_TOKEN": TOKEN}, Path()).read((NEW,))


# -- a page ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "answer", "runs", "message"),
    [
        ({"contains": "{digest}"}, (200, {}, f"is {NEW.digest}"), True, ""),
        ({"contains": "{digest}"}, (200, {}, f"is {OLD.digest}"), False, "does not have 'sha256:b"),
        ({"contains": "{commit}"}, (200, {}, COMMIT), True, ""),
        ({"header": "X-Version: {tag}"}, (200, {"X-Version": "1.1"}, ""), True, ""),
        ({"header": "X-Version: {tag}"}, (200, {"X-Version": "1.0"}, ""), False, "X-Version: 1.1"),
        ({"header": "X-Version: {tag}"}, (200, {}, ""), False, "X-Version: 1.1"),
        ({}, (503, {}, ""), False, "answers with 503, not 200"),
        ({"expect": 204}, (204, {}, ""), True, ""),
        ({}, (302, {"Location": "/login"}, ""), False, "answers with 302"),
    ],
)
def test_a_page_tells_the_version_by_its_status_body_and_headers(
    facts: Object, answer: tuple[int, dict[str, str], str], runs: bool, message: str
) -> None:
    with page(lambda: answer) as url:
        health = section(url=UrlHealth(address=f"{url}/healthz", **facts))
        state = open_runtime(health, {}, Path()).read((NEW,), COMMIT)
    assert state.runs(NEW) is runs and message in state.message


def test_a_page_that_names_no_version_does_not_tell_one() -> None:
    with page(lambda: (200, {}, "ok")) as url:
        health = section(url=UrlHealth(address=url, contains="ok"))
        assert open_runtime(health, {}, Path()).read((NEW,)).images is None


def test_a_service_that_is_not_there_yet_is_unknown_not_an_error() -> None:
    with page(lambda: (200, {}, "")) as url:
        pass
    state = open_runtime(section(url=UrlHealth(address=url)), {}, Path()).read((NEW,))
    assert (state.health, state.images) == ("unknown", frozenset())
    assert "connection refused" in state.message


def test_a_version_that_is_not_known_cannot_be_asked_for() -> None:
    with page(lambda: (200, {}, "")) as url:
        health = section(url=UrlHealth(address=url, contains="{commit}"))
        with pytest.raises(RuntimeUnreadable, match="has no commit"):
            open_runtime(health, {}, Path()).read((NEW,))


# -- Kubernetes --------------------------------------------------------------------------------


@contextmanager
def cluster(tmp_path: Path, **options: Any) -> Iterator[tuple[KubernetesApi, Cluster, Object]]:
    with kubernetes_api(tokens={"t"}, images={str(OLD), str(NEW)}, **options) as api:
        config = api.kubeconfig(tmp_path / "kubeconfig", {"token": "t"})
        environ = {"KUBECONFIG": str(config)}
        yield api, Cluster(load_access(environ), environ), environ


def deployment(image: Reference, replicas: int = 2) -> Object:
    labels = {"app": "app"}
    container = {"name": "app", "image": str(image)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "app", "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def eventually(runtime: RuntimeSource, done: Callable[[RunningState], bool]) -> RunningState:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        state = runtime.read((NEW,))
        if done(state):
            return state
        time.sleep(0.02)
    raise AssertionError(state)


@pytest.mark.parametrize("named", [{"deployment": "app"}, {"selector": "app=app"}])
def test_a_rollout_is_followed_until_only_the_new_image_runs(
    tmp_path: Path, named: dict[str, str]
) -> None:
    with cluster(tmp_path, ready_after_s=0.3) as (_, objects, environ):
        runtime = open_runtime(section(kubernetes=KubernetesHealth(**named)), environ, tmp_path)
        state = runtime.read((NEW,))
        assert (state.health, state.images) == ("unknown", frozenset())
        objects.create("deployments", deployment(OLD))
        state = eventually(runtime, lambda state: state.health == "healthy")
        assert state.runs(OLD) and not state.runs(NEW) and not state.wants(NEW)
        objects.replace("deployments", deployment(NEW))
        state = runtime.read((NEW,))
        assert state.health == "progressing" and state.wants(NEW) and not state.runs(NEW)
        assert "old replicas still there" in state.message
        state = eventually(runtime, lambda state: state.health == "healthy")
        assert state.runs(NEW) and not state.runs(OLD)


def test_what_a_tag_was_resolved_to_is_what_runs(tmp_path: Path) -> None:
    """imageID names the digest even if the pod names a tag only."""
    tag = "registry.example/team/app:moving"
    resolved = {tag: f"docker-pullable://registry.example/team/app@{NEW.digest}"}
    with cluster(tmp_path, ready_after_s=0, resolved=resolved) as (api, objects, environ):
        api.images.add(tag)
        objects.create("deployments", deployment(Reference.parse(tag)))
        named = KubernetesHealth(deployment="app")
        runtime = open_runtime(section(kubernetes=named), environ, tmp_path)
        state = eventually(runtime, lambda state: state.health == "healthy")
        assert state.runs(NEW) and not state.runs(OLD)


def test_an_image_that_cannot_be_pulled_is_degraded_and_said(tmp_path: Path) -> None:
    with cluster(tmp_path, ready_after_s=0.1) as (api, objects, environ):
        api.images.clear()
        objects.create("deployments", deployment(NEW))
        named = KubernetesHealth(deployment="app")
        runtime = open_runtime(section(kubernetes=named), environ, tmp_path)
        state = eventually(runtime, lambda state: state.health == "degraded")
        assert "ImagePullBackOff" in state.message and state.wants(NEW) and not state.runs(NEW)


def test_an_exceeded_progress_deadline_is_degraded(tmp_path: Path) -> None:
    with cluster(tmp_path, ready_after_s=60, deadline_s=0.1) as (_, objects, environ):
        objects.create("deployments", deployment(NEW))
        named = KubernetesHealth(deployment="app")
        runtime = open_runtime(section(kubernetes=named), environ, tmp_path)
        state = eventually(runtime, lambda state: state.health == "degraded")
        assert "ProgressDeadlineExceeded" in state.message


def test_a_missing_right_is_said_with_where_the_role_is(tmp_path: Path) -> None:
    with cluster(tmp_path) as (api, objects, environ):
        objects.create("deployments", deployment(NEW))
        api.refused.add("list pods")
        named = KubernetesHealth(deployment="app")
        with pytest.raises(RuntimeUnreadable, match="cannot list resource") as refused:
            open_runtime(section(kubernetes=named), environ, tmp_path).read((NEW,))
        assert "docs/delivery.md" in refused.value.hint


def test_pods_that_nothing_rolls_out_count_once_all_run_the_same(tmp_path: Path) -> None:
    def pod(name: str, image: Reference, **metadata: Any) -> Object:
        ready = [{"type": "Ready", "status": "True"}]
        return {
            "metadata": {"name": name, "labels": {"app": "app"}, **metadata},
            "spec": {"containers": [{"name": "app", "image": str(image)}]},
            "status": {"phase": "Running", "conditions": ready},
        }

    with cluster(tmp_path) as (api, _, environ):
        named = KubernetesHealth(selector="app=app")
        runtime = open_runtime(section(kubernetes=named), environ, tmp_path)
        api.objects["pods", "default", "a"] = pod("a", OLD)
        api.objects["pods", "default", "b"] = pod("b", NEW)
        state = runtime.read((NEW,))
        assert state.health == "progressing"
        assert "different images of registry.example/team/app" in state.message
        api.objects["pods", "default", "a"] = pod(
            "a", OLD, deletionTimestamp="2026-11-29T20:00:00Z"
        )
        assert runtime.read((NEW,)).health == "healthy"


@pytest.mark.parametrize(
    ("kind", "generation", "spec", "status", "health", "message"),
    [
        ("deployment", 2, {}, {"observedGeneration": 1}, "progressing", "not seen yet"),
        ("deployment", 1, {"replicas": 0}, {"observedGeneration": 1}, "healthy", ""),
        ("deployment", 1, {"paused": True}, {"observedGeneration": 1}, "progressing", "paused"),
        (
            "deployment",
            1,
            {"replicas": 2},
            {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1},
            "progressing",
            "1 of 2 updated replicas are available",
        ),
        (
            "statefulset",
            1,
            {"replicas": 2},
            {
                "observedGeneration": 1,
                "readyReplicas": 2,
                "currentRevision": "a",
                "updateRevision": "b",
                "updatedReplicas": 1,
            },
            "progressing",
            "1 of 2 replicas are updated",
        ),
        (
            "statefulset",
            1,
            {"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}},
            {
                "observedGeneration": 1,
                "readyReplicas": 3,
                "currentRevision": "a",
                "updateRevision": "b",
                "updatedReplicas": 1,
            },
            "healthy",
            "",
        ),
        (
            "daemonset",
            1,
            {},
            {"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 1},
            "progressing",
            "1 of 2 pods are updated",
        ),
        (
            "daemonset",
            1,
            {},
            {
                "observedGeneration": 1,
                "desiredNumberScheduled": 2,
                "updatedNumberScheduled": 2,
                "numberAvailable": 2,
            },
            "healthy",
            "",
        ),
        ("rollout", 2, {}, {"observedGeneration": "1"}, "progressing", "not seen yet"),
        ("rollout", 2, {}, {"observedGeneration": "2", "phase": "Healthy"}, "healthy", ""),
        (
            "rollout",
            2,
            {},
            {"observedGeneration": "2", "phase": "Degraded", "message": "aborted"},
            "degraded",
            "rollout app: Degraded: aborted",
        ),
        (
            "rollout",
            2,
            {},
            {"observedGeneration": "2", "phase": "Paused", "message": "CanaryPauseStep"},
            "progressing",
            "Paused: CanaryPauseStep",
        ),
        ("rollout", 2, {}, {"observedGeneration": "5f6d", "phase": "Healthy"}, "healthy", ""),
    ],
)
def test_a_rollout_is_read_as_kubectl_reads_it(
    kind: str, generation: int, spec: Object, status: Object, health: str, message: str
) -> None:
    workload = {"metadata": {"name": "app", "generation": generation}, "spec": spec}
    found = rollout_status(kind, {**workload, "status": status})
    assert found.health == health and message in found.message


@pytest.mark.parametrize(
    "make",
    [
        lambda: HealthSection(),
        lambda: HealthSection(
            url=UrlHealth(address="http://a"), kubernetes=KubernetesHealth(deployment="a")
        ),
        lambda: KubernetesHealth(),
        lambda: KubernetesHealth(deployment="a", selector="b=c"),
        lambda: UrlHealth(address="app.example/healthz"),
        lambda: UrlHealth(address="http://a", header="X-Version"),
        lambda: ArgoCdHealth(server="argocd", application="app"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in a document."""
    inside = value if isinstance(value, dict) else {}
    for key, child in enumerate(value) if isinstance(value, list) else inside.items():
        yield (*at, key)
        yield from paths(child, (*at, key))


def changed(document: Object, place: tuple[Any, ...], value: Any) -> Object:
    copied: Object = json.loads(json.dumps(document))
    target: Any = copied
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return copied


@given(st.data(), JSON)
def test_no_answer_of_another_shape_is_a_crash(data: st.DataObject, value: Any) -> None:
    shown = application("app", revision="r", images=[str(NEW)], conditions=[{"type": "SyncError"}])
    place = data.draw(st.sampled_from([*paths(shown["status"])]))
    with suppress(RuntimeUnreadable), _understood("it"):
        _application_state("app", {**shown, "status": changed(shown["status"], place, value)})
    pod: Object = {
        "metadata": {"name": "a"},
        "spec": {"containers": [{"image": str(NEW)}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"imageID": str(NEW), "state": {"waiting": {"reason": "x"}}}],
        },
    }
    status: Object = {
        "observedGeneration": 1,
        "conditions": [{"type": "Progressing"}],
        "replicas": 2,
    }
    workload = {**deployment(NEW), "status": status}
    part = data.draw(st.sampled_from(["spec", "status"]))
    place = data.draw(st.sampled_from([*paths(pod[part])]))
    with suppress(RuntimeUnreadable), _understood("it"):
        _state([("deployment", workload)], [{**pod, part: changed(pod[part], place, value)}])
    place = data.draw(st.sampled_from([*paths(status)]))
    with suppress(RuntimeUnreadable), _understood("it"):
        _state([("deployment", {**workload, "status": changed(status, place, value)})], [pod])
