"""Standard input is a context where it is an archive, else a Dockerfile."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from layers_for_tests import open_worker, remotes_of

from shipline.build import BuildRequest, Context, ContextKind
from shipline.build.contexts import main_rules, open_context, open_stdin, read_dockerfile
from shipline.content import Reader
from shipline.dockerfile import Dockerfile
from shipline.errors import ContentError, UsageError
from shipline.events import silent

STDIN = BuildRequest(Context(ContextKind.STDIN, ""))


def archive(**files: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name.replace("__", "."))
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return target.getvalue()


def dockerfile_of(request: BuildRequest, stdin: Reader | None, place: Path) -> Dockerfile:
    with open_worker(place / "home") as worker, silent() as step:
        return read_dockerfile(request, stdin, remotes_of(worker), step)


class Slow(io.BytesIO):
    """A pipe: gives little at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size, 7) if size and size > 0 else 7)


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress]
)
def test_an_archive_is_unpacked(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    sent = compress(archive(Dockerfile="FROM scratch\n", __dockerignore="a\n", a="content"))
    request, rest = open_stdin(STDIN, Slow(sent), tmp_path)
    place = Path(request.context.directory)
    assert (place / "a").read_text() == "content"
    assert place.is_relative_to(tmp_path)
    assert rest is None
    found = dockerfile_of(request, rest, tmp_path)
    assert found.file == "Dockerfile"
    assert not main_rules(request).ignores("a")  # as in BuildKit


def test_the_time_of_an_archive_is_that_of_its_newest_file(tmp_path: Path) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, kind, mtime in (("a", "0", 5), ("b", "0", 7), ("c", "0", 6), ("d", "5", 9)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mtime = kind.encode(), mtime
            tar.addfile(entry)
    sent = io.BytesIO(target.getvalue())
    assert open_stdin(STDIN, sent, tmp_path)[0].context.newest == 7


def test_file_names_a_file_of_the_archive(tmp_path: Path) -> None:
    request = BuildRequest(Context(ContextKind.STDIN, ""), dockerfile="Other")
    opened, rest = open_stdin(request, io.BytesIO(archive(Other="FROM scratch AS x\n")), tmp_path)
    assert dockerfile_of(opened, rest, tmp_path).stages[0].name == "x"


def test_anything_else_is_the_dockerfile_whole(tmp_path: Path) -> None:
    text = "FROM scratch\n" + "# a long comment\n" * 100 + "LABEL last=1\n"
    request, rest = open_stdin(STDIN, Slow(text.encode()), tmp_path)
    assert request.context.directory == ""
    assert list(tmp_path.iterdir()) == []
    assert len(dockerfile_of(request, rest, tmp_path).stages[0].instructions) == 1


def test_what_was_looked_at_is_read_again_in_pieces_of_any_size(tmp_path: Path) -> None:
    text = b"FROM scratch\n" * 100
    _, rest = open_stdin(STDIN, io.BytesIO(text), tmp_path)
    assert rest is not None
    parts = [rest.read(5), rest.read(600), rest.read()]
    assert b"".join(parts) == text
    assert len(parts[0]) == 5


def test_a_link_in_the_archive_leads_nowhere_outside(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("FROM scratch\n")
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(entry)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    request, rest = open_stdin(STDIN, io.BytesIO(target.getvalue()), scratch)
    with pytest.raises(UsageError, match="cannot read the Dockerfile"):
        dockerfile_of(request, rest, tmp_path)


def test_other_contexts_leave_standard_input_alone(tmp_path: Path) -> None:
    request = BuildRequest(Context(ContextKind.LOCAL, str(tmp_path)), dockerfile="-")
    sent = io.BytesIO(b"FROM scratch\n")
    with open_worker(tmp_path / "home") as worker, silent() as step:
        assert open_context(request, sent, remotes_of(worker), step) == (request, sent)
    assert sent.tell() == 0


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty"):
        open_stdin(STDIN, io.BytesIO(), tmp_path)
    with pytest.raises(UsageError, match="closed"):
        open_stdin(STDIN, None, tmp_path)
    with pytest.raises(UsageError, match="--file"):
        open_stdin(
            BuildRequest(STDIN.context, dockerfile="X"), io.BytesIO(b"FROM scratch"), tmp_path
        )
    with pytest.raises(ContentError):
        open_stdin(STDIN, io.BytesIO(gzip.compress(archive(a="b"))[:-30]), tmp_path)


def test_an_archive_without_a_dockerfile_is_refused_by_name(tmp_path: Path) -> None:
    request, rest = open_stdin(STDIN, io.BytesIO(archive(a="b")), tmp_path)
    with pytest.raises(UsageError, match="the Dockerfile Dockerfile: No such file"):
        dockerfile_of(request, rest, tmp_path)
