"""`targets` in shipline.yaml: what is wrong with them is one message, what they share is merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipline.config import loads
from shipline.errors import ConfigError, UsageError
from shipline.oci import Descriptor, Digest, Platform, media
from shipline.ship.section import Pipeline
from shipline.ship.steps.build import PushedImage, build_request
from shipline.ship.steps.command import image_variables

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")
TARGETS = """\
build: {platforms: [linux/amd64, linux/arm64], args: {A: shared, B: shared}, file: Dockerfile}
targets:
  base: {file: base.Dockerfile, needs: [lint]}
  web: {image: r.example/web, args: {B: own}, contexts: {base: target:base}}
  worker: {image: r.example/worker, copies: [c.example/worker], platforms: [linux/amd64]}
steps: {lint: "true"}
"""


def pipeline(text: str) -> Pipeline:
    return loads(text.encode(), "shipline.yaml", {}).pipeline


def test_targets_have_what_the_build_has_unless_they_say_otherwise() -> None:
    found = pipeline(TARGETS)
    web, worker, base = (found.builds[name] for name in ("web", "worker", "base"))
    assert web.args == {"A": "shared", "B": "own"} and web.file == "Dockerfile"
    assert base.file == "base.Dockerfile" and base.image is None
    assert web.platforms == (AMD64, ARM64) and worker.platforms == (AMD64,)
    assert list(found.images) == ["web", "worker"] and found.build_needs == ("lint",)
    assert [str(one) for one in worker.places] == ["r.example/worker", "c.example/worker"]


def test_a_release_is_not_based_on_what_an_engine_has() -> None:
    build = pipeline(TARGETS).builds["web"]
    request = build_request(Path("/"), build, {}, labels={}, annotations={}, push=True)
    assert not request.local_images


def test_only_targets_for_a_platform_are_images_of_its_machine() -> None:
    found = pipeline(TARGETS).only_for((ARM64,))
    assert list(found.images) == ["web"]
    assert all(build.platforms == (ARM64,) for build in found.builds.values())
    others = "targets:\n  all: {}\n  base: {contexts: {all: target:all}}\n"
    others += "  web: {image: r.e/a, contexts: {base: target:base}, platforms: [linux/amd64]}\n"
    left = pipeline(f"{others}  worker: {{image: r.e/b}}\n").only_for((ARM64,))
    assert list(left.builds) == ["worker"]
    with pytest.raises(UsageError, match="no target is for linux/s390x"):
        pipeline(TARGETS).only_for((Platform.parse("linux/s390x"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targets: {a: {image: r.e/a, contexts: {x: target:b}}}", "there is no target 'b'"),
        (
            "targets: {a: {image: r.e/a, contexts: {x: target:b}}, b: {contexts: {y: target:a}}}",
            "contexts of each other: a -> b -> a",
        ),
        ("targets: {a: {image: r.e/a}, b: {image: r.e/a}}", "targets.b.image"),
        ("targets: {a: {image: r.e/a, copies: [r.e/b]}, b: {image: r.e/b}}", "targets.b.image"),
        ("targets: {a: {image: r.e/a, copies: [r.e/a]}}", "the image itself"),
        ("targets: {a: {image: r.e/a:1}}", "name the repository alone"),
        ("targets: {a-b: {image: r.e/a}, a_b: {image: r.e/b}}", "names of variables"),
        ("targets: {a/b: {image: r.e/a}}", "not a name"),
        ("targets: {a: {file: x}}", "none of them has an image"),
        ("targets: {a: {image: r.e/a}, b: {file: x}}", "targets.b: it has no image"),
        ("image: r.e/x\ntargets: {a: {image: r.e/a}}", "move image into one of them"),
        ("copies: [r.e/x]\ntargets: {a: {image: r.e/a}}", "move copies into one of them"),
        ("targets: {a: {image: r.e/a, needs: [b]}}", "'b', which is not a step"),
        ("targets: {a: {imag: r.e/a}}", "did you mean image"),
        ("targets: 5", "targets"),
    ],
)
def test_wrong_targets_are_one_message(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        pipeline(text)
    assert message in str(found.value)


def test_many_targets_that_use_each_other_are_checked_at_once() -> None:
    names = [f"t{number}" for number in range(60)]
    targets = {
        name: f"{{contexts: {{{', '.join(f'{one}: target:{one}' for one in names[at + 1 :])}}}}}"
        for at, name in enumerate(names)
    }
    lines = "".join(f"  {name}: {target}\n" for name, target in targets.items())
    last = "  last: {image: r.e/a, contexts: {t: target:t0}}\n"
    assert len(pipeline(f"targets:\n{lines}{last}").builds) == 61


def test_variables_of_several_images_name_their_target() -> None:
    images = pipeline(TARGETS).images
    digest = Digest.of(b"x")
    built = PushedImage(Descriptor(media.OCI_INDEX, digest, 1), (("linux/arm64", digest),))
    found = image_variables({"web": built, "worker": built}, images)
    assert found["SHIPLINE_TARGETS"] == "web,worker" and "SHIPLINE_IMAGE" not in found
    assert found["SHIPLINE_WEB_IMAGE"] == f"r.example/web@{digest}"
    assert found["SHIPLINE_WORKER_IMAGE_LINUX_ARM64"] == f"r.example/worker@{digest}"
