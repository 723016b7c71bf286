"""Base images of a container engine: when it is asked, and what is believed of it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from layers_for_tests import AMD64, items_of, store_image

from serving import ReceivedRequest, Reply, Served, serving
from shipline.build.base_images import BaseImage, RegistryImages
from shipline.build.blobs import Blobs
from shipline.build.cache import open_records
from shipline.build.engine_images import EngineImages
from shipline.build.settings import Settings
from shipline.content import LocalStore, MemoryStore
from shipline.errors import AuthError, NotFound, RegistryError, ShiplineError
from shipline.events import Event, Stream, Warned
from shipline.layer import write_tar
from shipline.oci import Descriptor, Digest

LAYER = b"".join(write_tar(items_of({"a": "1"})))
OTHER = b"".join(write_tar(items_of({"a": "2"})))


class Refusing(MemoryStore):
    """A registry that answers with an error."""

    def __init__(self, error: ShiplineError) -> None:
        super().__init__()
        self.error = error

    def resolve(self, reference: str) -> Descriptor:
        raise self.error


class FakeEngine:
    """Answers as Docker with its own image store; what it saves may be something else."""

    def __init__(self, layer: bytes = LAYER, *, word: str = "", tags: Sequence[str] = ()) -> None:
        self.config = json.dumps(
            {
                "os": "linux",
                "architecture": "amd64",
                "config": {"Labels": {"word": word}},
                "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(LAYER))]},
            }
        ).encode()
        self.id = str(Digest.of(self.config))
        self.layer = layer
        self.tags = tags or ("localhost/base:latest", "example.com/base:latest")

    def __call__(self, request: ReceivedRequest) -> Reply:
        if request.path == "/info":
            return 200, {}, b"{}"
        if request.path.endswith("/json"):
            return 200, {}, json.dumps({"Id": self.id, "RepoTags": self.tags}).encode()
        return 200, {}, self.archive()

    def archive(self) -> bytes:
        entry = {"Config": "config.json", "RepoTags": [], "Layers": ["layer.tar"]}
        files = {
            "config.json": self.config,
            "layer.tar": self.layer,
            "manifest.json": json.dumps([entry]).encode(),
        }
        written = io.BytesIO()
        with tarfile.open(fileobj=written, mode="w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return written.getvalue()


def resolve(
    state: Path, registry: MemoryStore, engine: Served, name: str = "base", *, local: bool = True
) -> tuple[BaseImage, list[str]]:
    """The image, and the warnings."""
    events: list[Event] = []
    environment = {"DOCKER_HOST": f"tcp://{engine.host}"}
    with (
        open_records(state / "cache.db", print) as records,
        Stream(events.append) as stream,
        stream.step("test") as step,
    ):
        blobs = Blobs(LocalStore(state / "content"), step)
        settings = Settings(state, lambda reference: registry, environment)
        found = RegistryImages(
            settings.repositories, blobs, step, EngineImages(settings, blobs, records, state)
        )
        image = found.under_policy(None, local=local).resolve(name, AMD64)
        assert all(blobs.store.exists(one.descriptor) for one in image.layers)
    return image, [one.message for one in events if isinstance(one, Warned)]


def saves(engine: Served) -> int:
    return len(engine.to("GET", "/get"))


@pytest.mark.parametrize(
    ("error", "name", "warns"),
    [
        (NotFound("none"), "base", False),
        (NotFound("none"), "example.com/base", False),
        (AuthError("denied", host="h", code="login-refused"), "base", False),
        (AuthError("denied", host="h", code="login-insufficient"), "example.com/base", True),
        (RegistryError("no", host="h", code="connection-refused"), "base", True),
        (RegistryError("no", host="h", code="host-not-found"), "example.com/base", True),
    ],
)
def test_the_engine_is_asked_where_no_registry_has_the_name(
    error: ShiplineError, name: str, warns: bool, tmp_path: Path
) -> None:
    fake = FakeEngine()
    with serving(fake) as engine:
        image, warned = resolve(tmp_path, Refusing(error), engine, name)
        assert [one.diff_id for one in image.layers] == [Digest.of(LAYER)]
        assert [("may be old" in one) for one in warned] == [True] * warns
        with pytest.raises(ShiplineError):
            resolve(tmp_path, Refusing(error), engine, name, local=False)
        again, _ = resolve(tmp_path, Refusing(error), engine, name)
        assert again == image and saves(engine) == 1


@pytest.mark.parametrize(
    "error",
    [
        RegistryError("failed", host="h", code="registry-failed", status=503),
        RegistryError("refused", host="h", code="certificate-refused"),
        AuthError("broken", host="h", code="credential-helper"),
    ],
)
def test_other_errors_of_a_registry_stand(error: ShiplineError, tmp_path: Path) -> None:
    with serving(FakeEngine()) as engine:
        with pytest.raises(type(error)) as caught:
            resolve(tmp_path, Refusing(error), engine)
        assert caught.value is error and not engine.requests


def test_what_a_registry_has_comes_from_there(tmp_path: Path) -> None:
    registry = MemoryStore()
    registry.tags["latest"] = store_image(registry).manifest
    with serving(FakeEngine()) as engine:
        image, _ = resolve(tmp_path, registry, engine)
        assert image.reference.digest == registry.tags["latest"].digest and not engine.requests


@pytest.mark.parametrize("name", ["base", "cafe"])
def test_an_image_that_the_engine_knows_by_another_name_is_another(
    name: str, tmp_path: Path
) -> None:
    """Engines take the beginning of an ID for a name, and Podman the end of a longer name."""
    fake = FakeEngine(tags=["registry.example/team/base:latest", "<none>:<none>"])
    with serving(fake) as engine:
        with pytest.raises(NotFound, match=f"{name}:latest was not found"):
            resolve(tmp_path, Refusing(NotFound("none")), engine, name)
        (asked,) = engine.to("GET", "/json")
    assert asked.path == f"/images/{name}%3Alatest/json"


def test_a_name_that_moved_is_its_new_image(tmp_path: Path) -> None:
    registry = Refusing(NotFound("none"))
    one, two = FakeEngine(word="one"), FakeEngine(word="two")
    found = []
    for fake in (one, two, one):
        with serving(fake) as engine:
            image, _ = resolve(tmp_path, registry, engine)
            found.append((image.config.run["Labels"]["word"], saves(engine)))
    assert found == [("one", 1), ("two", 1), ("one", 0)]


def test_an_image_of_which_a_blob_is_gone_is_read_again(tmp_path: Path) -> None:
    registry = Refusing(NotFound("none"))
    with serving(FakeEngine()) as engine:
        image, _ = resolve(tmp_path, registry, engine)
        store = LocalStore(tmp_path / "content")
        for digest in (image.layers[0].descriptor.digest, image.manifest.manifest):
            store.path(digest).unlink()
            assert resolve(tmp_path, registry, engine)[0] == image
        assert saves(engine) == 3


def test_an_archive_that_is_not_the_image_leaves_the_error_of_the_registry(tmp_path: Path) -> None:
    registry = Refusing(NotFound("none"))
    wrong = FakeEngine()
    wrong.config += b" "  # and so has another digest than its ID
    for fake in (FakeEngine(OTHER), wrong):
        with (
            serving(fake) as engine,
            pytest.raises(NotFound, match="base:latest was not found") as caught,
        ):
            resolve(tmp_path, registry, engine)
        assert "was asked, too" in "".join(caught.value.__notes__)
    with serving(FakeEngine()) as engine:
        resolve(tmp_path, registry, engine)
        assert saves(engine) == 1
        with pytest.raises(NotFound):
            resolve(tmp_path, registry, engine, f"base@{Digest.of(b'other')}")
