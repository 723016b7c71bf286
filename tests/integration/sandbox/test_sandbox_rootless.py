"""Inside a user namespace the same code runs the same steps."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from roots import busybox_root
from sandboxes import RUNTIMES

pytestmark = pytest.mark.root  # only to be able to map ids without newuidmap
_TESTS = Path(__file__).parents[2]


@pytest.mark.parametrize("network", ["host", "none"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_step_runs_in_a_user_namespace(tmp_path: Path, runtime: str, network: str) -> None:
    busybox_root()
    program = f"""
        import sys
        sys.path.insert(0, {str(_TESTS)!r})
        from sandboxes import *
        step = StepSpec(("/bin/sh",), network={network!r})
        script = '''
            id -u; echo new > /etc/new; chown app /tmp; rm -r /home; mkdir /home; ls /sys/kernel >&2
            su app -c 'id -u'; mknod /device c 1 5; echo x > /sys/kernel/mm/ksm/run; exit 3
        '''
        outcome = run_step(Path({str(tmp_path)!r}), {runtime!r}, step, script=script)
        print(outcome.status, outcome.out.split(), sorted(outcome.written))
    """
    maps = ("--map-users=0:0:65536", "--map-groups=0:0:65536")
    command = ("unshare", "--user", *maps, "--mount", sys.executable, "-c")
    done = subprocess.run(
        [*command, textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, check=True
    )
    expected = ["etc", "etc/new", "home", "tmp"]
    assert done.stdout == f"3 ['0', '1000'] {expected}\n"
