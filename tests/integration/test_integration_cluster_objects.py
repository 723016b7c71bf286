"""The objects for a cluster against the schemas of Argo CD and Flux, and with real pulls."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from commands import run_shipline
from peers import Account, docker_registry
from peers.argocd import application
from shipline.deliver.canary.section import Weights
from shipline.deliver.canary.weights import set_weight
from toolboxes import node_packages

PACKAGES = tuple(
    f"@kubernetes-models/{name}"
    for name in ("argo-cd@4", "flux-cd@4", "argo-rollouts@2", "gateway-api@2", "istio@3")
)
VALIDATE = """\
import { readFileSync } from 'fs'
for (const [name, kind, object] of JSON.parse(readFileSync(0, 'utf8')))
  new (await import(name))[kind](object).validate()
"""
CONFIGURATION = """\
image: registry.example/team/app
environments:
  staging:
    gitops:
      repository: git@git.example:team/deploy.git
      branch: main
      updates: [{kustomization: envs/staging}]
  chart:
    gitops:
      repository: https://git.example/team/deploy.git
      updates: [{values: envs/chart.yaml}]
"""
MODULES = {
    "argoproj.io/v1alpha1": "@kubernetes-models/argo-cd/argoproj.io/v1alpha1",
    "source.toolkit.fluxcd.io/v1": "@kubernetes-models/flux-cd/source.toolkit.fluxcd.io/v1",
    "helm.toolkit.fluxcd.io/v2": "@kubernetes-models/flux-cd/helm.toolkit.fluxcd.io/v2",
    "kustomize.toolkit.fluxcd.io/v1": "@kubernetes-models/flux-cd/kustomize.toolkit.fluxcd.io/v1",
    "Rollout": "@kubernetes-models/argo-rollouts/argoproj.io/v1alpha1",
    "HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
    "VirtualService": "@kubernetes-models/istio/networking.istio.io/v1",
}
PAIR: dict[str, Any] = {"stable": "app", "canary": "app-canary"}
WEIGHTED = {
    "rollout": """\
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  strategy: {canary: {steps: [{setWeight: 100}, {pause: {duration: 1}}]}}
  template:
    metadata: {labels: {app: app}}
    spec: {containers: [{name: app, image: none}]}
""",
    "httproute": """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app}
spec: {rules: [{backendRefs: [{name: app, port: 80}, {name: app-canary, port: 80}]}]}
""",
    "virtualservice": """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http: [{route: [{destination: {host: app}}, {destination: {host: app-canary}}]}]
""",
}


@pytest.fixture(scope="module")
def packages(pytestconfig: pytest.Config) -> Path:
    return node_packages(pytestconfig.cache.mkdir("kubernetes-models"), *PACKAGES)


def validated(objects: list[Any], packages: Path) -> subprocess.CompletedProcess[str]:
    words = [
        [MODULES.get(one["kind"]) or MODULES[one["apiVersion"]], one["kind"], one]
        for one in objects
    ]
    script = packages / "validate.mjs"
    script.write_text(VALIDATE)
    return subprocess.run(["node", script], input=json.dumps(words), capture_output=True, text=True)


@pytest.mark.parametrize("environment", ["staging", "chart"])
@pytest.mark.parametrize("words", [("argocd", "application"), ("flux", "--secret", "git")])
def test_the_objects_pass_the_schemas_of_their_controllers(
    tmp_path: Path, packages: Path, words: tuple[str, ...], environment: str
) -> None:
    (tmp_path / "shipline.yaml").write_text(CONFIGURATION)
    done = run_shipline(*words, "--env", environment, "--path", "charts/app", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    read = YAML(typ="safe", pure=True).load_all(done.stdout)
    objects = [one for one in read if one["kind"] != "Namespace"]
    assert validated(objects, packages).returncode == 0
    assert objects[0]["metadata"]["name"] == f"app-{environment}"
    if environment == "chart":
        shown = objects[-1]["spec"]
        chart = shown["source"] if words[0] == "argocd" else shown["chart"]["spec"]
        files = chart["helm"]["valueFiles"] if words[0] == "argocd" else chart["valuesFiles"]
        assert files == ["../../envs/chart.yaml" if words[0] == "argocd" else "envs/chart.yaml"]
    objects[0]["spec"]["source" if words[0] == "argocd" else "interval"] = 3
    assert validated(objects, packages).returncode != 0


@pytest.mark.parametrize("kind", WEIGHTED)
def test_weights_pass_the_schemas_of_what_reads_them(packages: Path, kind: str) -> None:
    options: dict[str, Any] = {kind: "f"} | ({} if kind == "rollout" else PAIR)
    weights, content = Weights(**options), WEIGHTED[kind].encode()
    for weight in (25, 100, 0):
        tree = {"f": partial(bytes, content)}
        content = set_weight(weights, tree, weight).get("f", content)
        (written,) = YAML(typ="safe", pure=True).load_all(content.decode())
        done = validated([written], packages)
        assert done.returncode == 0, done.stderr
    wrong = content.decode().replace("100", '"much"').replace("weight: 0", "weight: much")
    assert validated([YAML(typ="safe", pure=True).load(wrong)], packages).returncode != 0


def test_a_manifest_of_an_image_is_ready_for_kustomize_and_deploy(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as registry:
        image = f"{registry.address}/team/app"
        (tmp_path / "Dockerfile").write_text(
            "FROM scratch\nCOPY Dockerfile /\nEXPOSE 8080\nUSER 1000\n"
            'HEALTHCHECK --interval=5s CMD ["/healthy"]\n'
        )
        (tmp_path / "shipline.yaml").write_text(f"image: {image}\n")
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
        done = run_shipline("build", "--push", "-t", f"{image}:1", str(tmp_path))
        assert done.returncode == 0, done.stderr
        done = run_shipline("k8s", "manifest", f"{image}:1", "-o", "base", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        shown = run_shipline("k8s", "manifest", f"{image}:1", cwd=tmp_path)
        missing = run_shipline("k8s", "manifest", f"{image}:2", cwd=tmp_path)
    assert missing.returncode == 8 and "Traceback" not in missing.stderr
    objects = list(YAML(typ="safe", pure=True).load_all(shown.stdout))
    built = subprocess.run(
        ["kustomize", "build", "base"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    rendered = {one["kind"]: one for one in YAML(typ="safe", pure=True).load_all(built.stdout)}
    (container,) = rendered["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith(f"{image}:1@sha256:")
    assert container["readinessProbe"]["exec"]["command"] == ["/healthy"]
    assert rendered == {one["kind"]: one for one in objects}


def test_the_applications_that_tests_answer_with_pass_the_schema_of_argo_cd(packages: Path) -> None:
    image = f"registry.example/app:1@sha256:{'a' * 64}"
    shown = [
        application("app", revision="r", images=[image], **facts)
        for facts in (
            {},
            {"phase": "Running", "sync": "OutOfSync"},
            {"phase": "Failed", "message": "no", "health": "Degraded", "resource": "Back-off"},
            {"conditions": [{"type": "ComparisonError", "message": "no kustomization.yaml"}]},
        )
    ]
    assert validated(shown, packages).returncode == 0
    shown[0]["status"]["sync"]["status"] = 3
    assert validated(shown, packages).returncode != 0


def test_a_pull_with_the_content_of_the_secret_works(tmp_path: Path) -> None:
    """skopeo reads what the kubelet would: the file .dockerconfigjson."""
    account = Account("robot", "p#ss: word")
    with docker_registry(tmp_path, account=account) as registry:
        config = tmp_path / "docker"
        environ = {**os.environ, "DOCKER_CONFIG": str(config)}
        login = ("login", "--store", "plain", "-u", account.user, "--password-stdin")
        done = run_shipline(*login, registry.address, environ=environ, stdin=account.password)
        assert done.returncode == 0, done.stderr
        dockerfile = "FROM scratch\nCOPY Dockerfile /\n"
        (tmp_path / "Dockerfile").write_text(dockerfile)
        image = f"{registry.address}/team/app:1"
        done = run_shipline("build", "--push", "-t", image, str(tmp_path), environ=environ)
        assert done.returncode == 0, done.stderr
        output = tmp_path / "secret.yaml"
        words = ("k8s", "pull-secret", registry.address, "-o", str(output))
        done = run_shipline(*words, environ=environ)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert output.stat().st_mode & 0o777 == 0o600
        secret = next(iter(YAML(typ="safe", pure=True).load_all(output.read_text())))
        auth = tmp_path / "auth.json"
        for content, status in (
            (base64.b64decode(secret["data"][".dockerconfigjson"]), 0),
            (b"{}", 1),
        ):
            auth.write_bytes(content)
            inspect = ("skopeo", "inspect", "--raw", "--tls-verify=false", "--authfile", auth)
            got = subprocess.run([*inspect, f"docker://{image}"], capture_output=True)
            assert got.returncode == status
