"""The weights of two versions in files of a GitOps repository."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.deliver.canary.section import Weights
from shipline.deliver.canary.weights import set_weight, shares
from shipline.deliver.gitops import UnsuitableFile

ROLLOUT = """\
    kind: Rollout   # of Argo Rollouts
    spec:
      strategy:
        canary:
          maxSurge: "25%"
          steps:
          - setWeight: 100   # shipline's
          - pause: {duration: 1}   # this one, too
      template: {spec: {containers: [{name: app, image: none}]}}
    """
HTTPROUTE = """\
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    spec:
      rules:
        - backendRefs:
            - {name: app, port: 80, weight: 100}
            - name: app-canary
              port: 80   # the same
        - matches: [{path: {value: /admin}}]
          backendRefs: [{name: app, port: 80}]
    """
VIRTUALSERVICE = """\
    kind: VirtualService
    spec:
      http:
      - route:
        - destination:
            host: app.team.svc.cluster.local
            subset: v1
          weight: 100
        - destination: {host: app.team.svc.cluster.local, subset: v2}
          weight: "0"
    """
DEPLOYMENTS = """\
    kind: Deployment
    metadata: {name: app}
    spec:
      replicas: 10  # at most
    ---
    kind: Deployment
    metadata: {name: app-canary}
    spec: {replicas: 0}
    """
KUSTOMIZATION = """\
    resources: [base]
    replicas:
    - name: app
      count: 10
    - {name: app-canary, count: 0}
    """
PAIR: dict[str, Any] = {"stable": "app", "canary": "app-canary"}


def tree(files: Mapping[str, str]) -> dict[str, Callable[[], bytes]]:
    return {path: dedent(text).encode for path, text in files.items()}


def changed(weights: Weights, text: str, weight: int, *, is_full: bool = False) -> list[str]:
    """The lines that are new."""
    path = weights.place
    contents = set_weight(weights, tree({path: text}), weight, is_full=is_full)
    if not contents:
        return []
    before, after = dedent(text).splitlines(), contents[path].decode().splitlines()
    assert len([line for line in before if line not in after]) <= 2
    return [line.strip() for line in after if line not in before]


@pytest.mark.parametrize(
    ("weights", "text", "lines"),
    [
        (Weights(rollout="r"), ROLLOUT, ["setWeight: 25   # shipline's", "pause: {}   # this"]),
        (
            Weights(httproute="h", **PAIR),
            HTTPROUTE,
            ["- {name: app, port: 80, weight: 75}", "weight: 25"],
        ),
        (
            Weights(virtualservice="v", stable="v1", canary="v2"),
            VIRTUALSERVICE,
            ["weight: 75", "weight: 25"],
        ),
        (
            Weights(replicas="d", **PAIR),
            DEPLOYMENTS,
            ["replicas: 8  # at most", "spec: {replicas: 2}"],
        ),
        (
            Weights(replicas="k", **PAIR),
            KUSTOMIZATION,
            ["count: 8", "- {name: app-canary, count: 2}"],
        ),
    ],
    ids=["rollout", "httproute", "virtualservice", "deployments", "kustomization"],
)
def test_only_the_weights_change_and_go_back(weights: Weights, text: str, lines: list[str]) -> None:
    found = changed(weights, text, 25)
    assert len(found) == len(lines)
    assert all(line in there for line, there in zip(lines, found, strict=True))
    (content,) = set_weight(weights, tree({weights.place: text}), 25).values()
    assert set_weight(weights, {weights.place: lambda: content}, 25) == {}
    (back,) = set_weight(weights, {weights.place: lambda: content}, 0).values()
    assert set_weight(weights, {weights.place: lambda: back}, 0) == {}
    if weights.kind in ("rollout", "replicas"):
        assert back.decode() == dedent(text)


def test_a_rollout_pauses_without_end_until_it_is_over() -> None:
    weights = Weights(rollout="r")
    running = set_weight(weights, tree({"r": ROLLOUT}), 5)["r"].decode()
    assert "- setWeight: 5   #" in running and "- pause: {}   #" in running
    over = set_weight(weights, {"r": running.encode}, 0)["r"].decode()
    assert over == dedent(ROLLOUT)


def test_a_destination_of_istio_is_found_by_its_host() -> None:
    text = VIRTUALSERVICE.replace("\n            subset: v1", "").replace(
        "app.team.svc.cluster.local, subset: v2", "app-canary"
    )
    weights = Weights(virtualservice="v", **PAIR)
    assert changed(weights, text, 1) == ["weight: 99", "weight: 1"]


@given(st.integers(2, 50), st.integers(0, 100), st.booleans())
def test_pods_are_shared_out_and_each_version_with_traffic_has_one(
    total: int, weight: int, is_full: bool
) -> None:
    weights = Weights(replicas="d", total=total, **PAIR)
    found = shares(weights, weight, is_full=is_full)
    assert found.stable == total if is_full else found.stable + found.canary == total
    assert (found.canary > 0) == (weight > 0)
    assert is_full or (found.stable > 0) == (weight < 100)
    exact = total * weight / 100
    assert abs(found.canary - exact) <= 1


@pytest.mark.parametrize(
    ("weights", "text", "message"),
    [
        (Weights(rollout="f"), DEPLOYMENTS, "needs exactly one Rollout"),
        (
            Weights(rollout="f"),
            ROLLOUT.replace("- pause", "- analysis: {}\n          - pause"),
            "its steps are not setWeight and pause",
        ),
        (
            Weights(rollout="f"),
            ROLLOUT.replace("pause: {duration: 1}", "pause:\n              duration: 1"),
            "is not a mapping in braces",
        ),
        (Weights(rollout="f"), f"{ROLLOUT}---\n{ROLLOUT}", "needs exactly one Rollout"),
        (Weights(httproute="f", **PAIR), ROLLOUT, "exactly one route to app and app-canary"),
        (
            Weights(httproute="f", **PAIR),
            HTTPROUTE.replace("- {name: app,", "- {name: other}\n            - {name: app,"),
            "a route to app-canary needs app beside it, and no others",
        ),
        (Weights(replicas="f", stable="app", canary="x"), DEPLOYMENTS, "of app and of x"),
        (Weights(replicas="f", **PAIR), f"{DEPLOYMENTS}---\n{DEPLOYMENTS}", "each once"),
        (
            Weights(replicas="f", **PAIR),
            DEPLOYMENTS.replace("replicas: 10", "replicas: {{ .Values.n }}"),
            "",
        ),
    ],
)
def test_what_is_not_there_once_is_an_error(weights: Weights, text: str, message: str) -> None:
    with pytest.raises(UnsuitableFile) as raised:
        set_weight(weights, tree({"f": text}), 5)
    assert message in str(raised.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UnsuitableFile, match=r"has no routes/app\.yaml"):
        set_weight(Weights(rollout="./routes/app.yaml"), {}, 5)


def test_a_directory_may_have_the_two_deployments_in_two_files() -> None:
    stable, canary = dedent(DEPLOYMENTS).split("---\n")
    files = {"d/a.yaml": stable, "d/b.yml": canary, "d/c.txt": "{", "e/a.yaml": stable}
    found = set_weight(Weights(replicas="d", **PAIR), tree(files), 50)
    assert {path: "replicas: 5" in content.decode() for path, content in found.items()} == {
        "d/a.yaml": True,
        "d/b.yml": True,
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_kustomize_reads_the_replicas_that_were_written(tmp_path: Path, newline: str) -> None:
    text = dedent(KUSTOMIZATION).replace("[base]", "[d.yaml]").replace("\n", newline)
    read = text.encode
    done = set_weight(Weights(replicas=".", **PAIR), {"kustomization.yaml": read}, 30)
    (tmp_path / "kustomization.yaml").write_bytes(done["kustomization.yaml"])
    manifests = dedent(DEPLOYMENTS).replace("kind:", "apiVersion: apps/v1\nkind:")
    (tmp_path / "d.yaml").write_text(manifests)
    command = ["kustomize", "build", str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line for line in built.splitlines() if "replicas" in line] == [
        "  replicas: 7",
        "  replicas: 3",
    ]
