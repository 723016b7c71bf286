"""The API of BuildKit, spoken to the daemon in a container engine."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from peers import Docker
from shipline.buildkit.connecting import open_engine
from shipline.buildkit.control import Control
from shipline.buildkit.messages import Exporter, PruneRequest, SolveRequest
from shipline.buildkit.progress import run_build
from shipline.buildkit.session import Services, open_session
from shipline.engines.docker import Address
from shipline.errors import BuilderError, Cancelled, DockerfileError, StepFailed
from shipline.events import Event, Finished, Logged, Started, Step, Stream, silent
from shipline.grpc.connection import Metadata
from shipline.tasks import TaskGroup

pytestmark = [pytest.mark.peers, pytest.mark.root]


@pytest.fixture(scope="module")
def control(docker: Docker) -> Iterator[Control]:
    with open_engine(Address(docker.host).connect, docker.host) as found:
        yield found


class Built:
    """A build whose files come back as a tar."""

    def __init__(self, control: Control, context: Path, step: Step, **services: object) -> None:
        self.archive = io.BytesIO()
        self._control = control
        self._step = step
        self.directories = {"context": context, "dockerfile": context}
        self._services = services

    def solve(self, attributes: Mapping[str, str] | None = None) -> dict[str, bytes]:
        def take(pieces: Iterator[bytes], metadata: Metadata) -> None:
            for piece in pieces:
                self.archive.write(piece)

        services = Services(self.directories, sinks={0: take}, **self._services)  # type: ignore[arg-type]
        ref = os.urandom(12).hex()
        key = f"tests:{self.directories['context']}"
        with open_session(self._control.connection, services, shared_key=key) as session:
            exporter = Exporter("tar", {})
            request = SolveRequest(
                ref=ref,
                exporter_deprecated="tar",
                session=session,
                frontend="dockerfile.v0",
                frontend_attrs={"force-network-mode": "none", **(attributes or {})},
                exporters=[exporter],
            )
            run_build(self._control, request, self._step)
        with tarfile.open(fileobj=io.BytesIO(self.archive.getvalue())) as archive:
            return {
                one.name: file.read()
                for one in archive
                if (file := archive.extractfile(one)) is not None
            }


def test_a_daemon_says_what_it_is(control: Control) -> None:
    (worker,) = control.workers()
    assert {f"{one.os}/{one.architecture}" for one in worker.platforms} >= {"linux/amd64"}
    assert control.version()


def test_files_secrets_and_output_cross_the_session(control: Control, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS made\n"
        "COPY . /app\n"
        "RUN --mount=type=secret,id=token cp /run/secrets/token /app/seen && echo spoken\n"
        "FROM scratch\nCOPY --from=made /app /\n"
    )
    (tmp_path / ".dockerignore").write_text("*.log\n!kept.log\n")
    (tmp_path / "big").write_bytes(os.urandom(3 << 20))
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/file").write_text("x")
    (tmp_path / "deep/link").symlink_to("er/file")
    os.link(tmp_path / "big", tmp_path / "deep/same")
    for name in ("dropped.log", "kept.log"):
        (tmp_path / name).write_text(name)
    events: list[Event] = []
    with Stream(events.append) as stream, stream.step("build") as step:
        built = Built(control, tmp_path, step, secret={"token": b"hunter2"}.get)
        files = built.solve()
    assert files["seen"] == b"hunter2"
    assert files["big"] == files["deep/same"] == (tmp_path / "big").read_bytes()
    assert files["deep/er/file"] == b"x" and "kept.log" in files and "dropped.log" not in files
    assert b"spoken\n" in b"".join(one.data for one in events if isinstance(one, Logged))
    started = {one.span for one in events if isinstance(one, Started)}
    assert started == {one.span for one in events if isinstance(one, Finished)}
    assert any("RUN --mount" in one.name for one in events if isinstance(one, Started))


def test_only_the_sources_of_copy_travel(control: Control, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY link/*.txt wanted /\n")
    for name in ("dir/one.txt", "dir/two.bin", "wanted", "other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("/dir")
    (tmp_path / "secret").write_text("x")
    os.chmod(tmp_path / "secret", 0)
    with silent() as step:
        assert set(Built(control, tmp_path, step).solve()) == {"one.txt", "wanted"}


def test_a_second_build_is_sent_nothing_again(control: Control, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    for number in range(300):
        (tmp_path / f"file-{number}").write_bytes(os.urandom(2000))
    events: list[Event] = []
    for _ in range(2):
        events.clear()
        with Stream(events.append) as stream, stream.step("build") as step:
            assert len(Built(control, tmp_path, step).solve()) == 301
    cached = [one for one in events if isinstance(one, Finished) and one.cached]
    assert cached, "the COPY of equal files is in the cache"


def test_a_failing_command_is_named_with_its_line_and_output(
    control: Control, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\n\nRUN echo oops >&2; exit 7\n")
    with pytest.raises(StepFailed) as caught, silent() as step:
        Built(control, tmp_path, step).solve()
    error = caught.value
    assert error.status == 7 and error.log == ("oops",)
    assert error.span is not None
    assert (error.span.line, error.span.text) == (3, "RUN echo oops >&2; exit 7")


def test_a_long_dockerfile_keeps_its_error(control: Control, tmp_path: Path) -> None:
    comments = "# as long as a Dockerfile can get\n" * 6000
    (tmp_path / "Dockerfile").write_text(f"{comments}FROM busybox\nRUNN true\n")
    with pytest.raises(DockerfileError) as caught, silent() as step:
        Built(control, tmp_path, step).solve()
    assert "RUNN" in caught.value.message
    assert caught.value.span is not None and caught.value.span.line == 6002


def test_many_ignore_rules_are_headers(control: Control, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    rules = "".join(f"ignored-{number}\n" for number in range(3000))
    (tmp_path / ".dockerignore").write_text(f"Dockerfile\n.dockerignore\n{rules}")
    (tmp_path / "ignored-2999").write_text("x")
    (tmp_path / "seen").write_text("x")
    with silent() as step:
        assert set(Built(control, tmp_path, step).solve()) == {"seen"}


def test_an_interrupt_ends_the_build_there_too(control: Control, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN sleep 987\n")
    started = time.monotonic()
    with pytest.raises(Cancelled), silent() as step, TaskGroup() as group:
        timer = threading.Timer(3, group.scope.cancel)
        timer.start()
        Built(control, tmp_path, step).solve()
    assert time.monotonic() - started < 60
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    with silent() as step:
        assert set(Built(control, tmp_path, step).solve()) == {"Dockerfile"}


def test_an_engine_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with (
        pytest.raises(BuilderError, match="cannot be reached"),
        open_engine(Address(f"unix://{tmp_path}/socket").connect, "the socket") as control,
    ):
        control.version()


def test_disk_is_listed_and_freed(control: Control, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    with silent() as step:
        Built(control, tmp_path, step).solve()
    before = control.disk_usage(["type==source.local"])
    assert before and all(one.record_type == "source.local" for one in before)
    freed = {one.id for one in control.prune(PruneRequest(["type==source.local"], all=True))}
    assert freed <= {one.id for one in before}
    left = {one.id for one in control.disk_usage(["type==source.local"])}
    assert not left & freed
