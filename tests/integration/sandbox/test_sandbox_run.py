"""Steps behave as Docker's do, with either runtime."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roots import busybox_root
from sandboxes import RUNTIMES, SHELL, run_step
from shipline.errors import SandboxError, UsageError
from shipline.oci import Ulimit
from shipline.sandbox import StepSpec, find_user
from shipline.values import replace

pytestmark = pytest.mark.root
both_runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


@both_runtimes
def test_output_is_told_apart_and_the_status_is_the_commands(tmp_path: Path, runtime: str) -> None:
    outcome = run_step(tmp_path, runtime, SHELL, script="echo out; echo err >&2; exit 3")
    assert (outcome.status, outcome.out, outcome.err) == (3, "out\n", "err\n")


@both_runtimes
def test_a_signal_gives_128_and_its_number(tmp_path: Path, runtime: str) -> None:
    assert run_step(tmp_path, runtime, SHELL, script="sh -c 'kill -9 $$'; exit $?").status == 137


@both_runtimes
def test_the_tail_of_a_large_output_arrives(tmp_path: Path, runtime: str) -> None:
    outcome = run_step(tmp_path, runtime, SHELL, script="seq 200000; printf end")
    assert outcome.out.endswith("\n200000\nend") and outcome.out.count("\n") == 200_000


@both_runtimes
def test_a_background_process_does_not_hold_the_step(tmp_path: Path, runtime: str) -> None:
    outcome = run_step(tmp_path, runtime, SHELL, script="sleep 1000 & echo started")
    assert (outcome.status, outcome.out) == (0, "started\n")


@both_runtimes
def test_privileges_are_dockers(tmp_path: Path, runtime: str) -> None:
    outcome = run_step(tmp_path, runtime, SHELL, script="grep -E ':' /proc/self/status")
    facts = dict(line.split(":\t", 1) for line in outcome.out.splitlines() if "\t" in line)
    assert facts["CapEff"] == facts["CapBnd"] == "00000000a80425fb"
    assert int(facts["CapInh"], 16) == int(facts["CapAmb"], 16) == 0
    assert facts["NoNewPrivs"] == "0"
    assert facts["Seccomp"] == "2"


@both_runtimes
def test_new_privileges_can_be_denied(tmp_path: Path, runtime: str) -> None:
    spec = replace(SHELL, no_new_privileges=True)
    outcome = run_step(tmp_path, runtime, spec, script="grep NoNewPrivs /proc/self/status")
    assert outcome.out == "NoNewPrivs:\t1\n"


@both_runtimes
def test_a_user_has_its_groups_home_and_no_capability(tmp_path: Path, runtime: str) -> None:
    user = find_user(busybox_root(), "app")
    script = "id; echo $HOME; grep CapEff /proc/self/status; echo >/dev/stderr; touch /x"
    outcome = run_step(tmp_path, runtime, replace(SHELL, user=user), script=script)
    assert outcome.out.splitlines() == [
        "uid=1000(app) gid=1000(app) groups=10(wheel),29(audio),1000(app)",
        "/home/app",
        "CapEff:\t0000000000000000",
    ]
    assert outcome.status == 1 and "Permission denied" in outcome.err


@both_runtimes
def test_the_step_sees_only_itself(tmp_path: Path, runtime: str) -> None:
    script = "echo $$; ls /proc | grep -c '^[0-9]'; hostname; cat; ls /sys/kernel/uevent_helper"
    outcome = run_step(tmp_path, runtime, SHELL, script=script)
    pid, processes, hostname = outcome.out.splitlines()[:3]
    assert (pid, hostname) == ("1", "buildkitsandbox") and int(processes) <= 4


@both_runtimes
def test_kernel_files_are_read_only_or_masked(tmp_path: Path, runtime: str) -> None:
    script = """
        echo 1 > /proc/sys/vm/drop_caches || echo sys read-only
        mkdir /sys/fs/cgroup/*/x || echo cgroup read-only
        cat /proc/keys /proc/timer_list
        mount -t tmpfs none /tmp || echo no mount
        echo b > /proc/sysrq-trigger || echo no sysrq
    """
    outcome = run_step(tmp_path, runtime, SHELL, script=script)
    expected = ["sys read-only", "cgroup read-only", "no mount", "no sysrq"]
    assert outcome.out.splitlines() == expected


@both_runtimes
def test_devices_made_by_a_step_cannot_be_opened(tmp_path: Path, runtime: str) -> None:
    script = """
        for place in /dev/shm /dev / /tmp; do
            mknod $place/zero2 c 1 5 && head -c 1 $place/zero2 || echo refused
        done
        head -c 2 /dev/zero | wc -c; echo x > /dev/null; ls /dev/pts/ptmx; test -c /dev/tty
    """
    outcome = run_step(tmp_path, runtime, SHELL, script=script)
    assert outcome.out.split() == ["refused"] * 4 + ["2", "/dev/pts/ptmx"]
    assert outcome.status == 0


@both_runtimes
def test_the_devices_of_a_step_are_not_those_of_the_machine(tmp_path: Path, runtime: str) -> None:
    before = os.stat("/dev/full")
    script = """
        chmod 640 /dev/full && chown 1:1 /dev/full && touch -d 2001-01-01 /dev/full || echo refused
        stat -c %a /dev/null; head -c 1 /dev/full | wc -c; echo >/dev/null && echo written
    """
    outcome = run_step(tmp_path, runtime, SHELL, script=script)
    after = os.stat("/dev/full")
    try:
        assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
            before.st_mode,
            before.st_uid,
            before.st_mtime_ns,
        )
    finally:
        os.chmod("/dev/full", 0o666)
        os.chown("/dev/full", 0, 0)
    assert outcome.out.split() == ["666", "1", "written"], outcome.err


@both_runtimes
def test_an_insecure_step_may_mount_and_use_devices(tmp_path: Path, runtime: str) -> None:
    script = "mount -t tmpfs none /tmp && mknod /d c 1 5 && head -c 1 /d | wc -c; ls /proc/keys"
    outcome = run_step(tmp_path, runtime, replace(SHELL, insecure=True), script=script)
    assert outcome.out.split() == ["1", "/proc/keys"], outcome.err


@both_runtimes
def test_without_network_there_is_only_loopback(tmp_path: Path, runtime: str) -> None:
    spec = replace(SHELL, network="none")
    outcome = run_step(tmp_path, runtime, spec, script="ip -o link; ping -c 1 127.0.0.1 >/dev/null")
    assert outcome.out.count("\n") == 1 and "LOOPBACK,UP" in outcome.out and outcome.status == 0


@both_runtimes
def test_host_network_is_the_hosts(tmp_path: Path, runtime: str) -> None:
    outcome = run_step(tmp_path, runtime, SHELL, script="readlink /proc/self/ns/net")
    assert outcome.out.strip() == os.readlink("/proc/self/ns/net")


@both_runtimes
def test_limits_come_only_when_asked_for(tmp_path: Path, runtime: str) -> None:
    plain = run_step(tmp_path, runtime, SHELL, script="ulimit -n; ulimit -Hn")
    assert plain.out == os.popen("ulimit -n; ulimit -Hn").read()
    spec = replace(SHELL, ulimits=(Ulimit("nofile", 100, 200),))
    assert run_step(tmp_path, runtime, spec, script="ulimit -n; ulimit -Hn").out == "100\n200\n"
    with pytest.raises(UsageError, match="'nofiles'"):
        run_step(tmp_path, runtime, replace(SHELL, ulimits=(Ulimit("nofiles", 1, 1),)))


@pytest.mark.parametrize("name", ["nofile", "stack"])
def test_limits_that_are_too_low_to_start_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SandboxError, match=f"within --ulimit {name}=1:1: [^{{]*$") as caught:
        run_step(tmp_path, "crun", replace(SHELL, ulimits=(Ulimit(name, 1, 1),)), script="true")
    assert caught.value.hint == "raise the limits: crun needs more before the command starts"


@both_runtimes
def test_a_missing_command_is_127_in_dockers_words(tmp_path: Path, runtime: str) -> None:
    for args, status, words in (
        (("nope",), 127, 'exec: "nope": executable file not found in $PATH\n'),
        (("/nope",), 127, 'exec: "/nope": stat /nope: no such file or directory\n'),
        (("/etc",), 126, 'exec: "/etc": is a directory: permission denied\n'),
        (("/etc/passwd",), 126, 'exec: "/etc/passwd": permission denied\n'),
    ):
        outcome = run_step(tmp_path, runtime, StepSpec(args))
        assert (outcome.status, outcome.err) == (status, words)
        assert outcome.written == set()


@both_runtimes
def test_a_script_without_its_interpreter_is_127(tmp_path: Path, runtime: str) -> None:
    script = "printf '#!/no/such/shell\\n' > /s; chmod +x /s; exec /s"
    lower = run_step(tmp_path, runtime, SHELL, script=script).upper
    assert run_step(tmp_path, runtime, StepSpec(("/s",)), lower=lower).status == 127


@both_runtimes
def test_what_is_no_program_is_an_error_with_a_hint(tmp_path: Path, runtime: str) -> None:
    lower = tmp_path / "lower"
    lower.mkdir()
    (lower / "program").write_bytes(b"\x7fELF nonsense")
    (lower / "program").chmod(0o755)
    with pytest.raises(SandboxError, match="for this architecture") as raised:
        run_step(tmp_path, runtime, StepSpec(("/program",)), lower=lower)
    assert "emulator" in raised.value.hint
