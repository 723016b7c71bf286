"""Programs of foreign processors run in any root once a handler is registered."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipline.errors import SandboxError
from shipline.oci import Platform
from shipline.sandbox import can_execute, require_execution, supported_platforms
from shipline.sandbox.emulation import BinfmtEntry, exit_program

ARM64, AMD64 = Platform("linux", "arm64"), Platform("linux", "amd64")


_SHOWN = """\
enabled
interpreter /usr/bin/qemu-aarch64-static
flags: OCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def test_what_the_kernel_shows_is_understood() -> None:
    handler = BinfmtEntry.parse("qemu-aarch64", _SHOWN)
    assert handler.works_in_any_root and handler.interpreter == "/usr/bin/qemu-aarch64-static"
    program = exit_program(ARM64)
    assert handler.handles(program) and not handler.handles(exit_program(AMD64))
    position_independent = program[:16] + b"\x03" + program[17:]
    assert handler.handles(position_independent) and not handler.handles(b"\x7fELF")


@pytest.mark.parametrize(
    "shown", [_SHOWN.replace("OCF", "OC"), _SHOWN.replace("enabled", "disabled"), "", "enabled\n"]
)
def test_a_handler_off_or_without_flag_f_is_of_no_use(shown: str) -> None:
    assert not BinfmtEntry.parse("x", shown).works_in_any_root


def test_the_program_of_this_machine_has_the_header_of_its_programs() -> None:
    ours, own = exit_program(Platform.local()), Path("/proc/self/exe").read_bytes()
    assert (ours[:7], ours[18:20]) == (own[:7], own[18:20])  # class, byte order, machine


def test_the_local_platform_comes_first() -> None:
    assert supported_platforms()[0] == Platform.local()
    require_execution(Platform.local())


def test_what_nothing_executes_is_an_error_with_the_cure() -> None:
    for platform in (Platform("windows", "amd64"), Platform("linux", "wasm")):
        assert not can_execute(platform)
        with pytest.raises(SandboxError) as raised:
            require_execution(platform)
        assert "linux/arm64" in raised.value.hint
