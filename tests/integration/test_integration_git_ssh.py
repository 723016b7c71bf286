"""Repositories behind a real sshd: logins, host keys, and what an error says to do."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import context
from openssh import make_key, ssh_add, ssh_agent
from peers import GitRepository
from peers.sshd import SshServer, sshd
from shipline.git import GitStore, IsolatedGit, RemoteUnreachable, SshAccess, parse_git_source
from users import ordinary_user

pytestmark = [pytest.mark.peers, pytest.mark.root]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with sshd(tmp_path_factory.mktemp("ssh") / "server") as running:
        yield running


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    found = GitRepository.create(tmp_path / "repo.git")
    found.commit({"a.txt": "a\n"})
    return found


def resolve(
    server: SshServer, url: str, access: SshAccess, place: Path, *settings: str
) -> RemoteUnreachable | None:
    """The error of asking `url` for its commit; `settings` are the user's configuration of ssh."""
    program = next(one for one in ("/usr/bin/ssh", shutil.which("ssh")) if one)
    text = f"UserKnownHostsFile {place}/known\nIdentityFile none\n"
    (place / "config").write_text("".join(f"{one}\n" for one in settings) + text)
    (place / "bin").mkdir(exist_ok=True)
    (place / "bin/ssh").write_text(f'#!/bin/sh\nexec {program} -F {place}/config "$@"\n')
    (place / "bin/ssh").chmod(0o755)
    environ = {**os.environ, "PATH": f"{place}/bin:{os.environ['PATH']}"}
    store = GitStore(place / "store", IsolatedGit(environ, ssh=access))
    source = parse_git_source(url)
    assert source is not None
    try:
        store.resolve(source)
    except RemoteUnreachable as error:
        return error
    return None


def test_a_server_is_known_after_the_first_contact(
    server: SshServer, repository: GitRepository, tmp_path: Path
) -> None:
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{server.port}{repository.path}"
    access = SshAccess(keys=(f"{server.programs.parent}/user",))
    strict = resolve(server, url, access, tmp_path, "StrictHostKeyChecking yes")
    assert strict is not None and "the SSH host key of 127.0.0.1 is unknown" in strict.message
    assert not (tmp_path / "known").exists()
    assert resolve(server, url, access, tmp_path) is None
    assert resolve(server, url, access, tmp_path, "StrictHostKeyChecking yes") is None
    known = tmp_path / "known"
    other = (server.programs.parent / "other.pub").read_text().split()[:2]
    known.write_text(f"[127.0.0.1]:{server.port} {' '.join(other)}\n")
    changed = resolve(server, url, access, tmp_path)
    assert changed is not None
    assert f"is not the known one, {known}:1" in changed.message
    assert f"ssh-keygen -f '{known}' -R '[127.0.0.1]:{server.port}'" in changed.hint


def test_an_error_says_what_to_do_about_keys(
    server: SshServer, repository: GitRepository, tmp_path: Path
) -> None:
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{server.port}{repository.path}"
    wrong, user = make_key(tmp_path), server.programs.parent / "user"
    refused = resolve(server, url, SshAccess(keys=(str(wrong),)), tmp_path)
    assert refused is not None and refused.message == f"{url}: the server refuses the SSH login"
    assert "--ssh default=KEY" in refused.hint
    missing = resolve(server, f"{url}x", SshAccess(keys=(str(user),)), tmp_path)
    assert missing is not None and "GIT_AUTH_TOKEN" not in missing.hint
    assert "the key of --ssh or of the agent may read the repository" in missing.hint
    opened = Path(shutil.copy(user, tmp_path / "opened"))
    opened.chmod(0o644)
    readable = resolve(server, url, SshAccess(keys=(str(opened),)), tmp_path)
    assert readable is not None and readable.hint == f"chmod 600 '{opened}'"
    with ssh_agent(tmp_path / "agent", user) as agent:
        assert resolve(server, url, SshAccess(str(agent)), tmp_path) is None
        ssh_add(agent, "-D")
        for number in range(8):
            (tmp_path / str(number)).mkdir()
            ssh_add(agent, str(make_key(tmp_path / str(number))))
        ssh_add(agent, str(user))
        many = resolve(server, url, SshAccess(str(agent)), tmp_path)
        assert many is not None and "the SSH login after too many keys" in many.message
    broken = resolve(server, url, SshAccess(keys=(str(user),)), tmp_path, "Nonsense yes")
    assert broken is not None and broken.hint == "correct the configuration of ssh"


@pytest.mark.parametrize("subids", (True, False))
def test_an_ordinary_user_has_the_own_keys_and_configuration(
    server: SshServer, repository: GitRepository, subids: bool
) -> None:
    """In the namespace of the build, ssh would read /root/.ssh, and refuse /etc/ssh."""
    with ordinary_user(subids=subids) as user:
        ssh = user.home / ".ssh"
        ssh.mkdir(mode=0o700)
        shutil.copy(server.programs.parent / "user", ssh / "deploy")
        login = f"HostName 127.0.0.1\nPort {server.port}\nUser {getpass.getuser()}\n"
        (ssh / "config").write_text(f"Host lab\n{login}IdentityFile ~/.ssh/deploy\n")
        place = context(
            user.home / "context",
            f"FROM scratch\nADD {getpass.getuser()}@lab:{repository.path} /\n",
        )
        user.give(user.home)
        words = ("build", "-q", "-o", "type=cacheonly", "--ssh", f"default={ssh}/deploy")
        added = user.run(*words, str(place))
        assert added.returncode == 0, added.stdout
        cloned = user.run(*words[:4], f"ssh://lab{repository.path}")
        assert "cannot read the Dockerfile" in cloned.stdout  # but the repository
        assert f"[127.0.0.1]:{server.port} " in (ssh / "known_hosts").read_text()
