"""An ordinary user ships: the project's commands are the user's, the build is root of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from secrets import token_hex

import pytest

from builds import tags
from peers import Registry
from users import UID, User, ordinary_user

pytestmark = [pytest.mark.peers, pytest.mark.root]

SCRIPT = """\
export HOME=$PWD GIT_CONFIG_SYSTEM=/dev/null
git config --global user.name n; git config --global user.email n@example.org
mkdir clone && git init -q --bare -b main remote.git && cd clone && git init -q -b main
git remote add origin ../remote.git
cp ../Dockerfile ../shipline.yaml . && echo out > .gitignore
git add -A && git commit -q -m "feat: begin" && git push -q origin main
exec "$@"
"""


@pytest.fixture
def user() -> Iterator[User]:
    if not shutil.which("newuidmap"):
        pytest.skip("needs newuidmap")
    with ordinary_user(subids=True) as somebody:
        yield somebody


def configure(user: User, registry: Registry, repository: str, run: str) -> None:
    (user.home / "Dockerfile").write_text(f"FROM busybox\nRUN {run}\n")
    (user.home / "shipline.yaml").write_text(
        f"image: {registry.address}/{repository}\nsteps: {{who: 'id -u > out'}}\n"
    )
    user.give(user.home)


def ship(user: User, registry: Registry) -> tuple[int, str]:
    words = (user.python, "-m", "shipline", "ship", "--progress", "plain")
    mirrors = f"docker.io=http://{registry.address}"
    done = user.command("sh", "-ec", SCRIPT, "sh", *words, SHIPLINE_MIRRORS=mirrors)
    return done.returncode, done.stdout


def test_commands_are_the_users_and_the_build_is_roots(user: User, base_images: Registry) -> None:
    repository = f"user/{token_hex(4)}"
    configure(user, base_images, repository, "id -u && chown 7:7 /bin/busybox && test $(id -u) = 0")
    status, said = ship(user, base_images)
    assert status == 0, said
    assert (user.home / "clone/out").read_text() == f"{UID}\n"
    assert "2/2] RUN id -u" in said  # the events of the child are those of the run
    assert tags(base_images, repository) == ["v0.1.0"]
    assert not any(user.processes())


def test_failure_of_the_build_comes_through(user: User, base_images: Registry) -> None:
    repository = f"user/{token_hex(4)}"
    configure(user, base_images, repository, "echo no good >&2 && exit 42")
    status, said = ship(user, base_images)
    assert status == 5, said
    assert "no good" in said.partition("failed ─")[2]
    assert "Dockerfile:2" in said
    assert tags(base_images, repository) == []
