"""The OCI runtime that runs steps: the first on the PATH that works on this machine.

crun and youki can be built without libseccomp; they then ignore the filter of a bundle and say
nothing (runc refuses the bundle). So the trial of a runtime makes a call that its filter refuses.

Reference: runc(8), crun(1): all take `--root`, `--log`, `run --bundle`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from shipline.errors import SandboxError
from shipline.oci import Platform
from shipline.sandbox.bundle import BundlePaths, StepSpec, config, make_device_directory
from shipline.sandbox.emulation import exit_program, probe_program
from shipline.sandbox.supervisor import OnOutput, supervise
from shipline.tasks import Once
from shipline.values import replace

_OPTIONS = {
    "crun": ("--cgroup-manager=disabled",),
    "runc": ("--rootless=true",),  # control groups are used where they can be, not required
    "youki": (),
}
_LONGEST = 64 << 10  # bytes of an error message
_PREFIXES = {"crun": (b'{"msg":"exec ',), "runc": (b"exec ",)}


class Runtime(Struct, frozen=True):
    """A program that runs bundles; `control_groups` says whether it can mount their hierarchy,
    `filters` whether it filters system calls.
    """

    name: str
    path: Path
    control_groups: bool = True
    filters: bool = True

    def run(
        self,
        bundle: Path,
        state: Path,
        on_output: OnOutput,
        join: Callable[[int], None] = lambda process: None,
    ) -> tuple[int, str]:
        """Run a bundle: the status of its command, and why it could not be started, or "".

        `join` is called with the process ID before anything of the bundle runs.
        """
        log = bundle / "log"
        command = [
            *(str(self.path), *_OPTIONS[self.name], "--root", str(state)),
            *("--log", str(log), "--log-format", "json"),
            *("run", "--bundle", str(bundle), f"shipline-{os.getpid()}-{bundle.name}"),
        ]
        words = _FirstWords(on_output, _PREFIXES.get(self.name, ()))
        status = supervise(command, words, join)
        if status and words.complaint:
            return status, _entry(words.complaint.decode(errors="replace"))[1]
        words.release()
        return status, _errors(log) if status else ""


class _FirstWords:
    """Holds back what looks like an error message of the runtime, until more output disproves it.

    Once the runtime has entered the root, it can write errors only where the command writes: one
    line, in any number of pieces.
    """

    def __init__(self, on_output: OnOutput, prefixes: tuple[bytes, ...]) -> None:
        self._on_output = on_output
        self._prefixes = prefixes
        self._held = b""

    @property
    def complaint(self) -> bytes:
        """The error message of the runtime; empty if the command wrote the output."""
        return self._held if self._held.startswith(self._prefixes) else b""

    def __call__(self, data: bytes, stream: int) -> None:
        if stream == 2 and self._prefixes and self._may_be_complaint(self._held + data):
            self._held += data
            return
        self._prefixes = ()
        self.release()
        self._on_output(data, stream)

    def _may_be_complaint(self, words: bytes) -> bool:
        begins = any(words.startswith(one) or one.startswith(words) for one in self._prefixes)
        return begins and b"\n" not in words[:-1] and len(words) <= _LONGEST

    def release(self) -> None:
        if self._held:
            self._on_output(self._held, 2)
        self._held = b""


_found: Once[Runtime] = Once()


def find_runtime(directory: Path) -> Runtime:
    """The first of crun, runc and youki that runs a container and filters its system calls; if
    none filters, the first that runs one. Tested once, in `directory`.

    Raises SandboxError with the reason why each failed.
    """
    return _found.get("runtime", lambda: search_runtime(directory))


def search_runtime(directory: Path) -> Runtime:
    """As `find_runtime`, without remembering the result."""
    failures, unfiltered = [], None
    for name in _OPTIONS:
        path = shutil.which(name)
        if path is None:
            failures.append(f"{name}: not on the PATH")
            continue
        for control_groups in (True, False):
            runtime = Runtime(name, Path(path), control_groups)
            failure = _try(runtime, directory)
            if not failure:
                return runtime
            if failure == _NO_FILTER:
                unfiltered = unfiltered or replace(runtime, filters=False)
                break
        failures.append(f"{path}: {failure}")
    if unfiltered is not None:
        return unfiltered
    raise SandboxError(
        "no OCI runtime works here\n" + "\n".join(f"  {failure}" for failure in failures),
        code="runtime-missing",
        hint=_cure(failures),
    )


def _cure(failures: Sequence[str]) -> str:
    if any(_PROC in failure for failure in failures):
        return _MASKED_PROC
    refused = any(os.strerror(errno.EPERM) in failure for failure in failures)
    return _CONTAINED if refused else _INSTALL


_INSTALL = "install crun (apt-get install crun), as root or with user namespaces allowed"
_PROC = "mount /proc failed"
_MASKED_PROC = (
    "parts of /proc are hidden here, as in containers, and the kernel allows no other one then: in"
    " Kubernetes set procMount: Unmasked, for docker run --security-opt systempaths=unconfined,"
    " for podman run --security-opt unmask=ALL"
)
_CONTAINED = (
    "the seccomp profile or the capabilities of a container keep a runtime from working: run it as"
    " another user than root, with --security-opt seccomp=unconfined and what else"
    " docs/kubernetes.md lists"
)


_NO_FILTER = "it does not filter system calls: it was built without libseccomp"
_PROBED = "munlockall"  # the call that `probe_program` makes
_REFUSED = errno.ENOMSG  # an error that no kernel gives for it


def _try(runtime: Runtime, directory: Path) -> str:
    bundle = directory / f"try-{runtime.name}-{runtime.control_groups}"
    try:
        return _trial(runtime, bundle, directory / "state")
    except SandboxError as error:
        return error.message
    finally:
        shutil.rmtree(bundle, ignore_errors=True)


def _trial(runtime: Runtime, bundle: Path, state: Path) -> str:
    """Why the runtime cannot be used, or "": run a program in a bundle like that of a step."""
    root, devices = bundle / "root", bundle / "dev"
    for path in (*(root / name for name in ("proc", "sys", "dev")), devices):
        path.mkdir(parents=True)
    program = root / "exit"
    calling = probe_program(Platform.local())
    program.write_bytes(calling or exit_program(Platform.local()))
    program.chmod(0o755)
    make_device_directory(devices)
    paths = BundlePaths(root, devices, (), (), runtime.control_groups)
    document = config(StepSpec(("/exit",)), paths)
    filtered = calling is not None and "seccomp" in document["linux"]
    if filtered:
        document["linux"]["seccomp"] = _refusing(document["linux"]["seccomp"])
    (bundle / "config.json").write_text(json.dumps(document))
    words: list[bytes] = []
    status, error = runtime.run(bundle, state, lambda data, _: words.append(data))
    if status == (_REFUSED if filtered else 0):
        return ""
    if status == 0:
        return _NO_FILTER
    return error or b"".join(words).decode(errors="replace").strip() or f"status {status}"


def _refusing(rules: Mapping[str, Any]) -> dict[str, Any]:
    """The filter with the call of `probe_program` refused."""
    others = [
        {**rule, "names": names}
        for rule in rules["syscalls"]
        if (names := [one for one in rule["names"] if one != _PROBED])
    ]
    refused = {"names": [_PROBED], "action": "SCMP_ACT_ERRNO", "errnoRet": _REFUSED}
    return {**rules, "syscalls": [*others, refused]}


def _errors(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    entries = [_entry(line) for line in lines]
    return "; ".join(text for level, text in entries if level in ("error", "fatal") and text)


def _entry(line: str) -> tuple[str, str]:
    """The level and the message of a log line, which crun may have wrapped in another."""
    try:
        entry = json.loads(line)
        level, text = str(entry.get("level", "error")), str(entry.get("msg", ""))
    except (json.JSONDecodeError, AttributeError):
        return "error", line.strip()
    return _entry(text) if text.startswith('{"msg"') else (level, text)
