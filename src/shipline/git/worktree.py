"""The files of a fetched commit, written into a new directory; with submodules, and with `.git`.

Submodules are read from the commit, not by `git submodule`: nothing that a repository holds decides
where git writes, and each submodule is fetched as one commit, too.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath

from msgspec import Struct

from shipline.errors import UsageError
from shipline.git.run import GitError, RemoteUnreachable
from shipline.git.source import GitSource, clean_directory, join_remote, parse_remote
from shipline.git.store import GitCommit, GitStore, RefNotFound, naming

_DEEPEST = 20  # submodules inside of submodules
_MOST = 2000  # submodules of one checkout
_TREE, _SUBMODULE, _LINK, _FILES = "040000", "160000", "120000", ("100644", "100755")
_KINDS = {"": "does not exist", _SUBMODULE: "is a submodule", _LINK: "is a link"}
_LOCAL = ("fetch", "--quiet", "--no-tags", "--force", "--update-head-ok", "--depth=1")


def checkout(store: GitStore, found: GitCommit, place: Path) -> Path:
    """Write the files of `found` to `place`, which does not exist, and return the directory that
    the source names.

    Files have the modes 0644 and 0755 and belong to this user. A damaged repository of the store is
    made again. Raises RefNotFound for a directory that does not exist, RemoteUnreachable, GitError.
    """
    work = _Checkout(store.with_login_of(found.source), place)
    with naming(found.source):
        try:
            return work.write(found)
        except (RemoteUnreachable, RefNotFound):
            raise
        except GitError:
            if not work.used:
                raise
            for repository, seen in work.used.items():
                store.remove(repository, seen)
        shutil.rmtree(place)
        return _Checkout(work.store, place).write(found)


def commit_time(store: GitStore, found: GitCommit) -> int:
    """When the commit was made, in seconds since 1970; it is fetched for this.

    Raises RefNotFound, RemoteUnreachable, GitError.
    """
    store = store.with_login_of(found.source)
    with naming(found.source), store.fetched(found) as repository:
        return _seconds(store, repository, found.object)


class _Module(Struct, frozen=True):
    """A submodule: its source, commit, name and path, and the `.git` directory of the repository
    that has it, both relative to the top of the tree.
    """

    source: GitSource
    commit: str
    name: str
    path: str
    owner: str

    @property
    def git_dir(self) -> str:
        """Where its own one belongs."""
        return f"{self.owner}/modules/{self.name}"


class _Checkout(Struct):
    """One checkout; `used` are the repositories of the store that it has used, as they were."""

    store: GitStore
    place: Path
    used: dict[Path, os.stat_result] = {}
    submodules: int = 0

    def write(self, found: GitCommit) -> Path:
        source = found.source
        self.place.mkdir(mode=0o755)
        subdir = clean_directory(source.subdir)
        keep = found.keeps_git_dir and not subdir
        with self.store.fetched(found) as repository:
            self.used[repository] = repository.stat()
            commit = self._commit(repository, found.object)
            if not (commit.startswith(source.checksum) or found.object.startswith(source.checksum)):
                raise RefNotFound(
                    f"expected checksum to match: the commit is {commit}, not {source.checksum}",
                    code="checksum-mismatch",
                )
            self._require_directory(repository, commit, subdir)
            if keep:
                self._keep(repository, found, commit)
            self._write_files(repository, commit, self.place, self.place / ".git" if keep else None)
            modules = self._modules(repository, source, commit) if source.submodules else []
            seconds = _seconds(self.store, repository, commit)
        for module in modules:
            self._write_module(module, keep=keep, depth=1)
        if source.mtime == "commit":
            _set_times(self.place, seconds)
        return self.place / subdir

    def _commit(self, repository: Path, object: str) -> str:
        """The commit that `object` is or, as a tag, stands for."""
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{object}^{{commit}}")
        return self._git(repository, *words).decode().strip()

    def _require_directory(self, repository: Path, commit: str, subdir: str) -> None:
        """Raises RefNotFound where `subdir` is not a directory of the commit."""
        done = PurePosixPath()
        for part in PurePosixPath(subdir).parts:
            done /= part
            if (mode := self._mode(repository, commit, str(done))) != _TREE:
                raise RefNotFound(
                    f"the subdirectory {subdir!r} cannot be used:"
                    f" {str(done)!r} {_KINDS.get(mode, 'is a file')}",
                    code="git-subdirectory",
                )

    def _mode(self, repository: Path, commit: str, path: str) -> str:
        """The mode of `path` in the commit; empty where nothing is."""
        words = ("--literal-pathspecs", "ls-tree", "-z", "--full-tree", commit, "--", path)
        return os.fsdecode(self._git(repository, *words)).partition(" ")[0]

    def _write_files(
        self, repository: Path, commit: str, place: Path, git_dir: Path | None
    ) -> None:
        """Write the files of the commit to `place`; `git_dir` then has their index."""
        index = None if git_dir else self.place.with_name(f"{self.place.name}.index")
        words = (f"--work-tree={place}", "read-tree", "--reset", "-u", commit)
        try:
            self._git(git_dir or repository, *words, protocols=(), index=index)
        finally:
            if index is not None:
                index.unlink(missing_ok=True)

    def _keep(self, repository: Path, found: GitCommit, commit: str) -> None:
        """Make `.git` of the tree, with the commit and its ref, but no history."""
        ref = found.ref if found.ref.startswith("refs/") else ""
        refspec = f"{found.object}:{ref}" if ref else found.object
        git_dir = self.place / ".git"
        self._init(git_dir, self.place, found.source, commit)
        self._copy_objects(repository, git_dir, refspec)
        self._git(git_dir, "update-ref", "--no-deref", "HEAD", commit)

    def _init(self, git_dir: Path, place: Path, source: GitSource, hash: str) -> None:
        algorithm = "sha1" if len(hash) == 40 else "sha256"
        git_dir.mkdir(parents=True)
        init = ("init", "--quiet", "--template=", f"--object-format={algorithm}")
        self._git(git_dir, f"--work-tree={place}", *init)
        settings = {
            "remote.origin.url": source.remote,
            "remote.origin.fetch": "+refs/heads/*:refs/remotes/origin/*",
        }
        if git_dir.parent != place:
            settings["core.worktree"] = os.path.relpath(place, git_dir)
        for key, value in settings.items():
            self._git(git_dir, "config", key, value)

    def _copy_objects(self, repository: Path, git_dir: Path, refspec: str) -> None:
        url = f"file://{repository.resolve()}"
        self._git(git_dir, *_LOCAL, "--", url, refspec, protocols=("file",))
        (git_dir / "FETCH_HEAD").unlink(missing_ok=True)

    def _write_module(self, module: _Module, *, keep: bool, depth: int) -> None:
        """Write a submodule and its own ones. Raises GitError."""
        self.submodules += 1
        if depth > _DEEPEST or self.submodules > _MOST:
            raise GitError(
                f"{module.path!r} cannot be fetched: too many submodules, or nested too deeply",
                code="git-submodule",
            )
        place, git_dir = self.place / module.path, self.place / module.git_dir
        with (
            naming(module.source),
            self.store.repository(module.source.remote, module.commit) as repository,
        ):
            self.used[repository] = repository.stat()
            self.store.fetch(repository, module.source, module.commit)
            if keep:
                self._register(module)
                self._init(git_dir, place, module.source, module.commit)
                self._copy_objects(repository, git_dir, module.commit)
                self._git(git_dir, "update-ref", "--no-deref", "HEAD", module.commit)
            self._write_files(repository, module.commit, place, git_dir if keep else None)
            upwards = os.path.relpath(module.git_dir, module.path)
            (place / ".git").write_text(f"gitdir: {upwards}\n")
            nested = self._modules(repository, module.source, module.commit, module)
        for one in nested:
            self._write_module(one, keep=keep, depth=depth + 1)

    def _register(self, module: _Module) -> None:
        """What `git submodule init` writes, without which `git submodule foreach` leaves it out."""
        for key, value in (("active", "true"), ("url", module.source.remote)):
            setting = (f"submodule.{module.name}.{key}", value)
            self._git(self.place / module.owner, "config", *setting)

    def _modules(
        self, repository: Path, source: GitSource, commit: str, inside: _Module | None = None
    ) -> list[_Module]:
        """The submodules of a commit. Raises GitError for one without a usable URL."""
        links = self._links(repository, commit)
        settings = self._settings(repository, commit) if links else {}
        by_path = {values.get("path", ""): (name, values) for name, values in settings.items()}
        found = []
        for path, hash in links.items():
            name, values = by_path.get(path, ("", {}))
            shown = f"{inside.path}/{path}" if inside else path
            if values.get("update") == "none":
                continue
            if not values.get("url") or not _is_name(name):
                raise GitError(
                    f"the submodule {shown!r} has no URL in .gitmodules",
                    code="git-submodule",
                    hint="?submodules=false leaves submodules out",
                )
            owner = inside.git_dir if inside else ".git"
            module = self._source(source, shown, values["url"])
            found.append(_Module(module, hash, name, shown, owner))
        return found

    def _source(self, parent: GitSource, shown: str, url: str) -> GitSource:
        try:
            remote, login = parse_remote(join_remote(parent.remote, url))
        except UsageError as error:
            raise GitError(
                f"the submodule {shown!r}: {error.message}", code="git-submodule", hint=error.hint
            ) from None
        self.store.require_ssh(remote, f"the submodule {shown!r} at")
        return GitSource(remote, login or (parent.login if remote != url else ""))

    def _links(self, repository: Path, commit: str) -> dict[str, str]:
        """The commits of submodules by path."""
        listing = self._git(repository, "ls-tree", "-r", "-z", "--full-tree", commit)
        found = {}
        for line in listing.split(b"\0"):
            if line.startswith(_SUBMODULE.encode()):
                head, _, path = line.partition(b"\t")
                found[os.fsdecode(path)] = head.split()[2].decode()
        return found

    def _settings(self, repository: Path, commit: str) -> dict[str, dict[str, str]]:
        """The sections of .gitmodules by name; none unless it is a file."""
        if self._mode(repository, commit, ".gitmodules") not in _FILES:
            return {}
        words = ("config", "-z", f"--blob={commit}:.gitmodules", "--get-regexp", r"^submodule\.")
        found: dict[str, dict[str, str]] = {}
        for line in os.fsdecode(self._git(repository, *words, allowed=(0, 1))).split("\0"):
            key, _, value = line.partition("\n")
            name, _, last = key.removeprefix("submodule.").rpartition(".")
            found.setdefault(name, {})[last] = value
        return found

    def _git(
        self,
        git_dir: Path,
        *words: str,
        allowed: tuple[int, ...] = (0,),
        protocols: tuple[str, ...] = (),
        index: Path | None = None,
    ) -> bytes:
        return self.store.git.run(
            f"--git-dir={git_dir}", *words, allowed=allowed, protocols=protocols, index=index
        )


def _is_name(name: str) -> bool:
    """Whether a submodule may have this name, which is a path below `.git/modules`."""
    parts = name.split("/")
    return bool(name) and "\\" not in name and not {"", ".", ".."} & {*parts}


def _seconds(store: GitStore, repository: Path, object: str) -> int:
    words = ("show", "--no-patch", "--format=%ct", "--end-of-options", f"{object}^{{commit}}")
    return int(store.git.run(f"--git-dir={repository}", *words).split()[-1])


def _set_times(place: Path, seconds: int) -> None:
    for directory, names, files in os.walk(place, topdown=False):
        for name in (*names, *files):
            with suppress(OSError):
                path = os.path.join(directory, name)
                os.utime(path, (seconds, seconds), follow_symlinks=False)
    os.utime(place, (seconds, seconds))
