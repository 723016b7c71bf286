"""The runtime is the first that works here; a bundle says no more than it must."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from roots import busybox_root
from sandboxes import RUNTIMES, SHELL, in_build, overlay, run_in, runtime_named
from shipline.errors import SandboxError
from shipline.sandbox import Sandbox, open_sandbox, open_workspace
from shipline.sandbox.runtime import search_runtime
from shipline.tasks import TaskGroup
from shipline.values import replace
from users import ordinary_user


@pytest.mark.root
def test_a_limit_above_ours_is_refused_with_the_most_there_is() -> None:
    program = """
        import resource
        from pathlib import Path
        from shipline.errors import SandboxError
        from shipline.oci import Ulimit
        from shipline.sandbox import StepSpec
        from shipline.sandbox.bundle import BundlePaths, config
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
        spec = StepSpec(("x",), ulimits=(Ulimit("nofile", 2000, 2000),))
        try:
            config(spec, BundlePaths(Path("/"), Path("/"), (), ()))
        except SandboxError as error:
            print(error, error.hint, sep="|")
    """
    without = ("setpriv", "--bounding-set=-sys_resource", sys.executable, "-c")
    done = subprocess.run([*without, textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert done.stdout == (
        "ulimit nofile=2000:2000 is above 1000, the limit here"
        "|use at most nofile=1000:1000, or raise it for this process\n"
    )


@pytest.mark.root
def test_the_first_runtime_that_works_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("setpriv", "unshare", "sh", "mount", "runc"):
        found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert found is not None
        (tools / name).symlink_to(found)
    (tools / "crun").write_text("#!/bin/sh\necho this one is broken >&2\nexit 1\n")
    (tools / "crun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    runtime = in_build(lambda: search_runtime(tmp_path))
    assert (runtime.name, runtime.path, runtime.control_groups) == ("runc", tools / "runc", True)

    (tools / "runc").unlink()
    with pytest.raises(SandboxError) as raised:
        in_build(lambda: search_runtime(tmp_path))
    for words in ("crun: this one is broken", "runc: not on the PATH", "youki: not on the PATH"):
        assert words in raised.value.message
    assert "install crun" in raised.value.hint

    (tools / "crun").write_text(
        "#!/bin/sh\necho sethostname: Operation not permitted >&2\nexit 1\n"
    )
    with pytest.raises(SandboxError, match="sethostname") as raised:
        in_build(lambda: search_runtime(tmp_path))
    assert "seccomp=unconfined" in raised.value.hint and "install" not in raised.value.hint


@pytest.mark.root
def test_a_hidden_proc_is_named_where_no_runtime_works() -> None:
    """As in the containers of Docker and Kubernetes, whose /proc is partly covered, and which have
    no other one: mount_too_revealing() in the kernel looks at all.
    """
    program = """
        import tempfile
        from pathlib import Path
        from shipline.errors import SandboxError
        from shipline.sandbox.rootless import enter_user_namespace
        from shipline.sandbox.runtime import search_runtime
        enter_user_namespace()
        try:
            search_runtime(Path(tempfile.mkdtemp()))
        except SandboxError as error:
            print(error.hint)
    """
    cover = """
        findmnt --types proc --noheadings --raw --output TARGET | grep -vx /proc |
            while read -r other; do umount --lazy "$other"; done
        mount --bind /dev/null /proc/keys
        exec "$@"
    """
    with ordinary_user(subids=False, outer=("unshare", "--mount", "sh", "-ec", cover, "-")) as user:
        said = user.command(user.python, "-c", textwrap.dedent(program)).stdout
    assert "procMount: Unmasked" in said and "install crun" not in said


# As if it had been built without libseccomp: what the bundle says of filters is not there.
DEAF = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
bundle = Path(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
document = json.loads(bundle.read_text())
document["linux"].pop("seccomp", None)
bundle.write_text(json.dumps(document))
os.execv("/usr/bin/crun", sys.argv)
"""


@pytest.mark.root
def test_a_runtime_that_ignores_the_filter_of_system_calls_runs_insecure_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "crun").write_text(DEAF)
    (tools / "crun").chmod(0o755)
    for name in ("setpriv", "unshare", "sh", "mount", "runc"):
        (tools / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(tools))
    runtime = in_build(lambda: search_runtime(tmp_path))
    assert (runtime.name, runtime.filters) == ("runc", True)
    (tools / "runc").unlink()
    deaf = in_build(lambda: search_runtime(tmp_path))
    assert (deaf.name, deaf.filters) == ("crun", False)

    def steps() -> int:
        with (
            open_workspace(tmp_path / "state") as scratch,
            open_sandbox(scratch, runtime=deaf) as sandbox,
            overlay(tmp_path, busybox_root()) as root,
        ):
            step = replace(SHELL, args=("/bin/true",))
            with pytest.raises(SandboxError, match="does not filter system calls") as refused:
                run_in(sandbox, root, step)
            assert "libseccomp" in refused.value.hint
            return run_in(sandbox, root, replace(step, insecure=True))[0]

    assert in_build(steps) == 0


@pytest.mark.root
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_steps_of_one_build_run_at_once(tmp_path: Path, runtime: str) -> None:
    def build() -> list[tuple[int, bytes, bytes]]:
        with (
            open_workspace(tmp_path / "state") as scratch,
            open_sandbox(scratch, runtime=runtime_named(runtime)) as sandbox,
            TaskGroup() as group,
        ):
            tasks = [group.start(one, sandbox, number) for number in range(8)]
            return [task.result() for task in tasks]

    def one(sandbox: Sandbox, number: int) -> tuple[int, bytes, bytes]:
        directory = tmp_path / str(number)
        directory.mkdir()
        with overlay(directory, busybox_root()) as root:
            script = f"echo {number} > /mine; cat /mine; echo $$ >&2; exit {number}"
            return run_in(sandbox, root, replace(SHELL, args=("/bin/sh", "-c", script)))

    expected = [(number, f"{number}\n".encode(), b"1\n") for number in range(8)]
    assert in_build(build) == expected
