"""Setting an image in files of a GitOps repository."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent

import pytest

from shipline.deliver.gitops import UnsuitableFile, Update
from shipline.errors import ConfigError
from shipline.oci import Reference

DIGEST = "sha256:" + "ab" * 32
NEW = Reference.parse(f"registry.example/team/app:1.5.0@{DIGEST}")


def tree(files: Mapping[str, str]) -> dict[str, object]:
    return {path: (lambda text=text: dedent(text).encode()) for path, text in files.items()}


def changed(update: Update, files: Mapping[str, str], image: Reference = NEW) -> dict[str, str]:
    """The lines that differ in each changed file, as `-old` and `+new`."""
    contents = update.apply(tree(files), image)  # type: ignore[arg-type]
    return {
        path: difference(dedent(files[path]), content.decode())
        for path, content in contents.items()
    }


def difference(before: str, after: str) -> str:
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    removed = [f"-{line}" for line in old if line not in new]
    return "".join(removed + [f"+{line}" for line in new if line not in old])


KUSTOMIZATION = """\
    # the whole of staging
    resources: [ ../../base ]
    images:
    - name: other
      newTag: "1"   # stays
    - name: registry.example/team/app # ours
      newTag: 1.4.2   # {"why": "as released"}
    commonLabels: {env: 'staging'}
    """


def test_an_entry_of_a_kustomization_keeps_all_other_lines() -> None:
    update = Update(kustomization="envs/staging")
    assert changed(update, {"envs/staging/kustomization.yaml": KUSTOMIZATION}) == {
        "envs/staging/kustomization.yaml": (
            '-  newTag: 1.4.2   # {"why": "as released"}\n'
            '+  newTag: 1.5.0   # {"why": "as released"}\n'
            f"+  digest: {DIGEST}\n"
        )
    }


def test_an_image_that_is_set_already_changes_nothing() -> None:
    update = Update(kustomization="envs/staging")
    once = update.apply(tree({"envs/staging/kustomization.yaml": KUSTOMIZATION}), NEW)  # type: ignore[arg-type]
    (content,) = once.values()
    assert update.apply({"envs/staging/kustomization.yaml": lambda: content}, NEW) == {}


HELM = """\
    replicas: 2
    image:
      repository: registry.example/team/app
      pullPolicy: IfNotPresent
      tag: "1.4.2" # the release
    sidecar:
      image: registry.example/team/proxy:2
    """


@pytest.mark.parametrize(
    "text",
    [
        "image:\n  repository: r.example/app\n  tag:\n",
        "image:\n  repository: r.example/app\n  tag:   # see: the release\n\n  # other\nb: 1\n",
        "image:\n  tag:\r\n\r\n  repository: r.example/app\r\n",
        "image: {repository: r.example/app, tag: }\n",
        "image: {tag: , repository: r.example/app}\n",
    ],
)
def test_an_empty_value_is_set_in_its_place(text: str) -> None:
    image = Reference.parse(f"r.example/app:1.5.0@{DIGEST}")
    content = Update(values="v.yaml").apply({"v.yaml": text.encode}, image)["v.yaml"].decode()
    assert content == text.replace("tag:", f"tag: 1.5.0@{DIGEST}", 1)


def test_the_digest_follows_the_tag_of_a_chart_without_one() -> None:
    assert changed(Update(values="values.yaml"), {"values.yaml": HELM}) == {
        "values.yaml": f'-  tag: "1.4.2" # the release\n+  tag: "1.5.0@{DIGEST}" # the release\n'
    }


def test_a_digest_of_its_own_is_set_beside_the_tag() -> None:
    values = 'app:\n  image: {registry: old.example, repository: x, tag: 1, digest: ""}\n'
    assert changed(Update(values="v.yaml", path="app.image"), {"v.yaml": values})["v.yaml"] == (
        f"-{values.splitlines()[1]}\n"
        "+  image: {registry: registry.example, repository: team/app, tag: 1.5.0, "
        f'digest: "{DIGEST}"}}\n'
    )


def test_a_whole_name_in_a_value_is_replaced() -> None:
    update = Update(values="values.yaml", path="apps[1].image")
    files = {"values.yaml": "apps:\n- image: a\n- image: b\n"}
    assert changed(update, files)["values.yaml"] == f"-- image: b\n+- image: {NEW}\n"


@pytest.mark.parametrize(
    ("update", "text", "foreign"),
    [
        (Update(values="f"), "image: {repository: other.example/db, tag: 1}", "other.example/db"),
        (
            Update(values="f"),
            "image: {registry: o.example, repository: db, tag: 1}",
            "o.example/db",
        ),
        (
            Update(values="f"),
            "image: {registry: registry.example, repository: team/db, tag: 1}",
            "registry.example/team/db",
        ),
        (Update(values="f"), 'image: "postgres:17"', "docker.io/library/postgres"),
        (
            Update(manifests="f", container="web"),
            "containers: [{name: web, image: x.example/y}]",
            "x.example/y",
        ),
        (
            Update(kustomization="f", image="app"),
            "images: [{name: app, newName: x.example/y, newTag: '1'}]",
            "x.example/y",
        ),
        (Update(values="f"), "image: {repository: registry.example/team/app, tag: 1}", ""),
        (Update(values="f"), "image: {repository: '', tag: 1}", ""),
        (Update(values="f"), "image: {repository:, tag: 1}", ""),
        (Update(values="f"), "image: {tag: 1}", ""),
        (Update(values="f"), "image: none", ""),
        (Update(values="f"), "image: 'other.example/db:none'", ""),
        (Update(kustomization="f", image="app"), "images: [{name: app, newTag: '1'}]", ""),
    ],
)
def test_an_image_of_another_repository_is_refused_by_name(
    update: Update, text: str, foreign: str
) -> None:
    files = {"f": text.encode}
    if not foreign:
        update.require_same(files, NEW, ())
        return
    with pytest.raises(UnsuitableFile, match=f"f:1 has an image of {foreign}, not of {NEW.name}"):
        update.require_same(files, NEW, ())
    update.require_same(files, NEW, {foreign})


DEPLOYMENT = """\
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: app}
    spec:
      template:
        spec:
          initContainers: [{name: migrate, image: "registry.example/team/migrate:1"}]
          containers:
          - name: web
            image: registry.example/team/app:1.4.2
    ---
    kind: ConfigMap
    data:
      text: |
        containers: [{name: web, image: registry.example/team/app:1}]
    """


@pytest.mark.parametrize("container", ["", "web"])
def test_a_container_is_found_by_its_image_or_name(container: str) -> None:
    update = Update(manifests="apps", container=container)
    other = "kind: Service\nspec: {ports: [80]}\n"
    files = {"apps/app.yaml": DEPLOYMENT, "apps/service.yaml": other, "apps/broken.yaml": "{{ x }}"}
    (lines,) = changed(update, files).values()
    assert lines == (
        "-        image: registry.example/team/app:1.4.2\n" + f"+        image: {NEW}\n"
    )


def test_the_parts_that_comments_mark_are_set() -> None:
    text = (
        'a: x:1 # {"$shipline": "app"}\nb: 2 # {"$shipline": "app:tag"}\n'
        'c: d # {"$imagepolicy": "flux-system:app:digest"}\n'
        'd: y # {"$shipline": "web"}\n'
    )
    assert changed(Update(markers="."), {"a.yaml": text})["a.yaml"] == (
        '-a: x:1 # {"$shipline": "app"}\n-b: 2 # {"$shipline": "app:tag"}\n'
        f'+a: {NEW} # {{"$shipline": "app"}}\n+b: 1.5.0 # {{"$shipline": "app:tag"}}\n'
    )
    flux = Update(markers="", marker="flux-system:app")
    assert changed(flux, {"a.yaml": text})["a.yaml"] == (
        '-c: d # {"$imagepolicy": "flux-system:app:digest"}\n'
        f'+c: {DIGEST} # {{"$imagepolicy": "flux-system:app:digest"}}\n'
    )


APPLICATION = """\
    apiVersion: argoproj.io/v1alpha1
    kind: Application
    spec:
      source:
        path: app
        %s
    """


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("kustomize: {images: [app=x:1]}", f"kustomize: {{images: [app={NEW}]}}"),
        ("kustomize: {images: [registry.example/team/app:1]}", f"kustomize: {{images: [{NEW}]}}"),
        (
            "helm: {parameters: [{name: image.tag, value: '1'}]}",
            f"helm: {{parameters: [{{name: image.tag, value: '1.5.0@{DIGEST}'}}]}}",
        ),
        (
            "helm: {valuesObject: {image: {tag: '1', digest: x}}}",
            f"helm: {{valuesObject: {{image: {{tag: '1.5.0', digest: {DIGEST}}}}}}}",
        ),
    ],
)
def test_the_source_of_an_application_is_set(source: str, line: str) -> None:
    update = Update(application="app.yaml", image="app" if "app=" in source else "")
    (lines,) = changed(update, {"app.yaml": APPLICATION % source}).values()
    assert lines == f"-    {source}\n+    {line}\n"


@pytest.mark.parametrize(
    ("update", "text", "message"),
    [
        (Update(kustomization="a.yaml"), "images: [{name: x}]", "a.yaml has no image named"),
        (
            Update(kustomization="a.yaml"),
            "images:\n- name: registry.example/team/app\n- name: registry.example/team/app\n",
            "stands in 2 places: a.yaml:2, a.yaml:3",
        ),
        (Update(values="a.yaml"), "x: 1\n", "a.yaml has no value image"),
        (Update(values="b.yaml"), "", "has no b.yaml"),
        (
            Update(values="a.yaml"),
            "base: &x {tag: 1}\nimage: *x\n",
            "a.yaml:1: image.tag is used in several places",
        ),
        (
            Update(values="a.yaml"),
            "base: &x {tag: 1}\nimage:\n  <<: *x\n",
            "image has neither a tag nor a digest",
        ),
        (Update(values="a.yaml"), "image: {{ .Values.x }}\n", "a key is a collection"),
        (Update(values="a.yaml"), 'image: "{{ .Values.x }}"\n', "filled in by a template"),
        (Update(values="a.yaml"), "image: |\n  x\n", "is not a value on one line"),
        (Update(values="a.yaml"), "x: " + "[" * 20_000, "brackets within each other"),
        (Update(values="a.yaml"), "image: x\nimage: y\n", "the key 'image' is there twice"),
        (Update(manifests="a.yaml"), f"{DEPLOYMENT}---\n{DEPLOYMENT}", "stands in 2 places"),
        (Update(markers="a.yaml"), "x: 1 # {}\n", "no comment that marks a value for app"),
        (Update(application="a.yaml"), APPLICATION % "x: y", "neither a Kustomize image"),
    ],
)
def test_what_cannot_be_set_is_an_error(update: Update, text: str, message: str) -> None:
    with pytest.raises(UnsuitableFile, match=message):
        changed(update, {"a.yaml": text})


def test_an_anchor_that_nothing_uses_stays() -> None:
    files = {"v.yaml": "image: &image registry.example/team/app:1\n"}
    assert changed(Update(values="v.yaml"), files)["v.yaml"] == (
        f"-image: &image registry.example/team/app:1\n+image: &image {NEW}\n"
    )


@pytest.mark.parametrize("tag", ["1.20", "1e3", "0x10", "007", "2026-11-29", "1", "on", "latest"])
def test_a_tag_is_read_as_a_string(tag: str) -> None:
    from ruamel.yaml import YAML

    image = Reference.parse(f"registry.example/team/app:{tag}@{DIGEST}")
    files = tree({"k.yaml": "images:\n- name: registry.example/team/app\n"})
    (content,) = Update(kustomization="k.yaml").apply(files, image).values()  # type: ignore[arg-type]
    for version in ("1.1", "1.2"):
        reader = YAML(typ="safe", pure=True)
        reader.version = version
        assert reader.load(content)["images"][0]["newTag"] == tag


def test_an_update_is_of_one_kind() -> None:
    with pytest.raises(ConfigError, match="needs one of kustomization, values"):
        Update(kustomization="a", values="b")
