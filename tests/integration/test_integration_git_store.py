"""Trees of repositories that a real server has: what is fetched, written, refused and run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from peers import GitRepository, GitServer, git_server
from peers.git import COMMIT_TIME_S
from shipline.errors import Cancelled, UsageError
from shipline.git import (
    GitError,
    GitStore,
    IsolatedGit,
    RefNotFound,
    RemoteUnreachable,
    SshAccess,
    checkout,
    commit_time,
    parse_git_source,
)
from shipline.tasks import TaskGroup


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "server") as found:
        yield found


@pytest.fixture
def repository(server: GitServer) -> GitRepository:
    """A branch `main`, a branch and a tag that are both called `both`, an annotated tag, links."""
    found = server.repository("repo")
    found.commit({"a.txt": "one\n", "run.sh": "#!/bin/sh\n", "d/e/b.txt": "b\n"})
    os.chmod(found.path / "run.sh", 0o755)
    os.symlink("a.txt", found.path / "link")
    os.symlink("d", found.path / "to-d")
    found.commit({"a.txt": "two\n"})
    found.git("tag", "--annotate", "--message", "t", "v1")
    found.git("tag", "both")
    found.git("checkout", "--quiet", "-b", "both")
    found.commit({"a.txt": "both\n"})
    found.git("checkout", "--quiet", "main")
    return found


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return GitStore(tmp_path / "store", IsolatedGit(dict(os.environ)))


def tree(store: GitStore, url: str, place: Path) -> dict[str, str]:
    """The files of a source: content by path, links as `-> target`."""
    source = parse_git_source(url)
    assert source is not None
    shutil.rmtree(place, ignore_errors=True)
    top = checkout(store, store.resolve(source), place)
    return {
        str(path.relative_to(top)): f"-> {os.readlink(path)}"
        if path.is_symlink()
        else path.read_text()
        for path in sorted(top.rglob("*"))
        if (path.is_symlink() or path.is_file()) and ".git" not in path.relative_to(top).parts[:1]
    }


def test_a_ref_is_a_tree(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    url, place = f"{server.url}/repo.git", tmp_path / "tree"
    whole = {
        "a.txt": "two\n",
        "d/e/b.txt": "b\n",
        "link": "-> a.txt",
        "run.sh": "#!/bin/sh\n",
        "to-d": "-> d",
    }
    first = repository.git("rev-parse", "HEAD~")
    assert tree(store, url, place) == whole
    assert (place / "run.sh").stat().st_mode & 0o7777 == 0o755
    assert (place / "a.txt").stat().st_mode & 0o7777 == 0o644
    for ref in ("#main", "#refs/heads/main", "#v1", "?tag=v1", f"#{repository.head}", "?tag=both"):
        assert tree(store, url + ref, place) == whole, ref
    assert tree(store, f"{url}#both", place)["a.txt"] == "both\n"  # a branch, as in BuildKit
    assert tree(store, f"{url}#{first}", place)["a.txt"] == "one\n"
    assert tree(store, f"{url}#main:d/e", place) == {"b.txt": "b\n"}
    assert tree(store, f"{url}#main:/d/../d/./e/", place) == {"b.txt": "b\n"}


def test_one_commit_is_fetched_and_only_once(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    for number in range(30):
        repository.commit({"a.txt": f"{number}\n"})
    url = f"{server.url}/repo.git#{repository.head}"
    tree(store, url, tmp_path / "tree")
    bare = next(store.root.glob("*/HEAD")).parent
    counted = subprocess.run(
        ["git", f"--git-dir={bare}", "rev-list", "--all", "--count"], capture_output=True, text=True
    )
    assert counted.stdout == "1\n"
    asked = len(server.asked)
    assert tree(store, url, tmp_path / "tree")["a.txt"] == "29\n"
    assert len(server.asked) == asked


def test_a_server_that_gives_no_single_commit_gives_all(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    first = repository.git("rev-parse", "HEAD~")
    bare = server.root / "dumb"
    repository.git("clone", "--quiet", "--bare", str(repository.path), str(bare))
    subprocess.run(["git", f"--git-dir={bare}", "update-server-info"], check=True)
    (server.root / "files.git").mkdir()  # plain files: the dumb protocol
    shutil.move(bare, server.root / "files.git/.plain")
    server.plain["files.git"] = server.root / "files.git/.plain"
    found = tree(store, f"{server.url}/files.git#{first}", tmp_path / "tree")
    assert found["a.txt"] == "one\n"
    assert tree(store, f"{server.url}/files.git#main", tmp_path / "tree")["a.txt"] == "two\n"


def test_keys_tell_trees_apart(
    server: GitServer, repository: GitRepository, store: GitStore
) -> None:
    def key(more: str) -> str:
        source = parse_git_source(f"{server.url}/repo.git{more}")
        assert source is not None
        return store.resolve(source).key

    tag, head = repository.git("rev-parse", "v1"), repository.head
    assert key("") == key("#v1") == key("?ref=main&mtime=checkout") == head
    assert key("?ref=v1&keep-git-dir=1") == f"{tag}.git#refs/tags/v1"
    assert key("#main:d") == f"{head}:d"
    assert key("?submodules=0") == f"{head}(skip-submodules)"
    assert key("?mtime=commit") == f"{head}(mtime=commit)"


def test_files_may_have_the_time_of_the_commit(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    url, place = f"{server.url}/repo.git", tmp_path / "tree"
    tree(store, url, place)
    assert (place / "a.txt").stat().st_mtime > time.time() - 600
    tree(store, f"{url}?mtime=commit", place)
    assert {path.lstat().st_mtime for path in place.rglob("*")} == {COMMIT_TIME_S}
    source = parse_git_source(url)
    assert source is not None
    assert commit_time(store, store.resolve(source)) == COMMIT_TIME_S


def test_a_kept_git_directory_is_a_clean_clone(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    sub = server.repository("sub")
    sub.commit({"s.txt": "s\n"})
    repository.submodule("m", sub.head, "../sub.git")
    repository.git("tag", "v2")
    place = tmp_path / "tree"
    with_login = server.url.replace("//", "//me:secret@")
    tree(store, f"{with_login}/repo.git?tag=v2&keep-git-dir", place)

    def git(*words: str, at: str = "") -> str:
        command = ["git", "-C", str(place / at), "-c", "safe.directory=*", *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert git("status", "--porcelain") == ""
    assert git("describe", "--tags") == "v2"
    assert git("rev-parse", "HEAD", at="m") == sub.head
    assert git("submodule", "foreach", "--quiet", "git rev-parse HEAD") == sub.head
    assert git("submodule", "status").split()[:2] == [sub.head, "m"]
    assert git("config", "remote.origin.url") == f"{server.url}/repo.git"
    assert not [
        path for path in place.rglob("*") if path.is_file() and b"secret" in path.read_bytes()
    ]
    assert not (place / ".git/hooks").exists()


def test_submodules_are_written_at_their_commits(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    deep, sub = server.repository("deep"), server.repository("sub")
    old = deep.commit({"x": "old\n"})
    deep.commit({"x": "new\n"})
    sub.commit({"s.txt": "s\n"})
    sub.submodule("inner/n", old, "../deep.git")
    repository.submodule("lib/m", sub.head, "../sub.git")
    repository.submodule("off", sub.head, "../none.git", "update = none")
    url = f"{server.url}/repo.git"
    found = tree(store, url, tmp_path / "tree")
    assert (found["lib/m/s.txt"], found["lib/m/inner/n/x"]) == ("s\n", "old\n")
    assert found["lib/m/inner/n/.git"] == "gitdir: ../../../../.git/modules/lib/m/modules/inner/n\n"
    assert list((tmp_path / "tree/off").iterdir()) == []
    assert "lib/m/s.txt" not in tree(store, f"{url}?submodules=false", tmp_path / "tree")


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc", "/etc", "ext::sh -c 'touch {mark}'", "fd::17/x", "../../../../x", ""),
        *("--upload-pack=touch {mark}", "ssh://-oProxyCommand=touch{mark}/x"),
    ],
)
def test_a_hostile_submodule_is_refused(
    url: str, server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    repository.submodule("m", repository.head, url.format(mark=mark))
    with pytest.raises(GitError, match="the submodule 'm'"):
        tree(store, f"{server.url}/repo.git", tmp_path / "tree")
    assert not mark.exists()


def test_a_submodule_without_a_section_is_refused_as_in_buildkit(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{repository.head},m")
    repository.git("commit", "--quiet", "--message", "m")
    with pytest.raises(GitError, match="no URL in") as caught:
        tree(store, f"{server.url}/repo.git", tmp_path / "tree")
    assert "submodules=false" in caught.value.hint


def test_a_submodule_is_named_inside_of_the_git_directory(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    repository.submodule("m", repository.head, "../repo.git")
    settings = (repository.path / ".gitmodules").read_text().replace('"m"', '"../../hooks"')
    repository.commit({".gitmodules": settings})
    with pytest.raises(GitError, match="the submodule 'm'"):
        tree(store, f"{server.url}/repo.git?keep-git-dir", tmp_path / "tree")


def test_nothing_of_a_repository_or_of_the_user_is_run(
    server: GitServer, repository: GitRepository, tmp_path: Path
) -> None:
    mark, home = tmp_path / "mark", tmp_path / "home"
    home.mkdir()
    hooks = home / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (hooks / name).chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[core]\nhooksPath = {hooks}\nfsmonitor = touch {mark}\nsshCommand = touch {mark}\n"
        f'[filter "x"]\nsmudge = touch {mark}\nprocess = touch {mark}\nrequired = true\n'
        f'[credential]\nhelper = "!touch {mark}"\n[init]\ntemplateDir = {home}\n'
        f'[url "file:///"]\ninsteadOf = {server.url}\n'
    )
    repository.commit({".gitattributes": "* filter=x\n"})
    environ = {**os.environ, "HOME": str(home), "GIT_ASKPASS": f"touch {mark}"}
    environ |= {"GIT_EXTERNAL_DIFF": f"touch {mark}", "GIT_SSH_COMMAND": f"touch {mark}"}
    store = GitStore(tmp_path / "store", IsolatedGit(environ))
    assert tree(store, f"{server.url}/repo.git?keep-git-dir", tmp_path / "tree")["a.txt"] == "two\n"
    with pytest.raises(RemoteUnreachable):
        tree(store, f"{server.url}/none.git", tmp_path / "tree")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("#none", "contain ref none"),
        ("#0123456", "contain ref 0123456"),
        (f"#{'1' * 40}", "no commit 1111"),
        ("#main:none", "'none' does not exist"),
        ("#main:a.txt", "'a.txt' is a file"),
        ("#main:to-d/e", "'to-d' is a link"),
        ("#main:link", "'link' is a link"),
    ],
)
def test_what_is_not_there_is_named(
    more: str,
    named: str,
    server: GitServer,
    repository: GitRepository,
    store: GitStore,
    tmp_path: Path,
) -> None:
    with pytest.raises(RefNotFound, match=named) as caught:
        tree(store, f"{server.url}/repo.git{more}", tmp_path / "tree")
    assert f"{server.url}/repo.git" in caught.value.message


def test_a_checksum_is_held(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    url, tag = f"{server.url}/repo.git", repository.git("rev-parse", "v1")
    for checksum in (repository.head, repository.head[:5], tag, tag[:8].upper()):
        tree(store, f"{url}?tag=v1&checksum={checksum}", tmp_path / "tree")
    short = tree(store, f"{url}?commit={repository.head[:7]}", tmp_path / "tree")
    assert short == tree(store, url, tmp_path / "tree")
    with pytest.raises(GitError, match="expected checksum to match"):
        tree(store, f"{url}?commit=ffffff", tmp_path / "tree")
    with pytest.raises(GitError, match=f"is {repository.head}, not ffff"):
        tree(store, f"{url}?tag=v1&checksum=ffff", tmp_path / "tree")
    first = repository.git("rev-parse", "HEAD~")
    more = f"?branch=main&checksum={first}&fetch-by-commit=1"
    assert tree(store, f"{url}{more}", tmp_path / "tree")["a.txt"] == "one\n"


def test_a_login_goes_to_its_server_alone(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    server.login = "me:s3cret"
    with pytest.raises(RemoteUnreachable, match="asks for a login") as caught:
        tree(store, f"{server.url}/repo.git", tmp_path / "tree")
    assert "GIT_AUTH_TOKEN" in caught.value.hint
    with git_server(tmp_path / "other") as other:
        foreign = other.repository("sub")
        foreign.commit({"s.txt": "s\n"})
        repository.submodule("m", foreign.head, f"{other.url}/sub.git")
        repository.submodule("near", repository.git("rev-parse", "v1^{}"), "../repo.git")
        url = f"{server.url.replace('//', '//me:s3cret@')}/repo.git"
        found = tree(store, url, tmp_path / "tree")
        assert (found["m/s.txt"], found["near/a.txt"]) == ("s\n", "two\n")
        assert other.asked and not other.logins
    with pytest.raises(RemoteUnreachable) as refused:
        tree(store, url.replace("s3cret", "wr0ng"), tmp_path / "tree")
    assert "wr0ng" not in str(refused.value)
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in texts if b"s3cret" in text]


def test_ssh_needs_a_login(store: GitStore) -> None:
    source = parse_git_source("git@127.0.0.1:x.git")
    assert source is not None
    with pytest.raises(UsageError, match="SSH") as caught:
        store.resolve(source)
    assert caught.value.hint == "pass one with --ssh default"


def test_ssh_runs_without_questions_and_with_the_given_login(
    repository: GitRepository, tmp_path: Path
) -> None:
    """With a program in the place of ssh, which runs the command on this machine."""
    programs, told = tmp_path / "bin", tmp_path / "told"
    programs.mkdir()
    (programs / "ssh").write_text(
        '#!/bin/sh\ncase "$*" in *" -G "*) exec echo stricthostkeychecking ask ;; esac\n'
        f'echo "$SSH_AUTH_SOCK $*" >> {told}\nfor last; do :; done\nexec sh -c "$last"\n'
    )
    (programs / "ssh").chmod(0o755)
    environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "SSH_AUTH_SOCK": "/users"}
    environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory"}
    url = f"ssh://git@host{repository.path}"
    for ssh, shown in (
        (SshAccess("/agent"), "/agent "),
        (SshAccess(keys=("/a key",)), " -i /a key -o IdentitiesOnly=yes "),
    ):
        store = GitStore(tmp_path / "store", IsolatedGit(environ, ssh=ssh))
        assert tree(store, url, tmp_path / "tree")["a.txt"] == "two\n"
        lines = told.read_text().splitlines()
        assert all("-o BatchMode=yes" in line and "/users" not in line for line in lines)
        assert shown in lines[-1] and "git@host" in lines[-1]
        assert " -o StrictHostKeyChecking=accept-new " in lines[-1]


def test_a_damaged_store_is_made_anew(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    url = f"{server.url}/repo.git#main"
    whole = tree(store, url, tmp_path / "tree")
    damage(store, repository)
    assert tree(store, url, tmp_path / "tree") == whole


def test_several_builds_make_a_damaged_store_anew(
    server: GitServer, repository: GitRepository, store: GitStore, tmp_path: Path
) -> None:
    """None removes what another one has fetched meanwhile, or reads."""
    url = f"{server.url}/repo.git#main"
    whole = tree(store, url, tmp_path / "tree")
    for _ in range(5):
        damage(store, repository)
        ready = threading.Barrier(6)

        def begin(number: int, ready: threading.Barrier = ready) -> dict[str, str]:
            ready.wait()
            return tree(store, url, tmp_path / str(number))

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(begin, range(6))) == [whole] * 6


def damage(store: GitStore, repository: GitRepository) -> None:
    blob = repository.git("rev-parse", "HEAD:a.txt")
    for damaged in [*store.root.glob("*/objects/??/*"), *store.root.glob("*/objects/pack/*.pack")]:
        if blob.startswith(damaged.parent.name) or damaged.suffix == ".pack":
            damaged.chmod(0o600)
            damaged.write_bytes(b"")


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize("protocol", ["git", "http"])
def test_a_server_that_says_nothing_is_given_up(
    protocol: str, silent_server: int, tmp_path: Path
) -> None:
    store = GitStore(tmp_path / "store", IsolatedGit(dict(os.environ), silence_s=1.5))
    source = parse_git_source(f"{protocol}://127.0.0.1:{silent_server}/x.git")
    assert source is not None
    with pytest.raises(RemoteUnreachable) as caught:
        store.resolve(source)
    assert f"127.0.0.1:{silent_server}" in caught.value.message


def test_git_ends_with_the_build(silent_server: int, tmp_path: Path, store: GitStore) -> None:
    source = parse_git_source(f"http://127.0.0.1:{silent_server}/x.git")
    assert source is not None
    started = time.monotonic()
    with pytest.raises(Cancelled), TaskGroup() as group:
        task = group.start(store.resolve, source)
        threading.Timer(0.5, group.scope.cancel).start()
        task.result()
    assert time.monotonic() - started < 20
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert f"127.0.0.1:{silent_server}" not in running
