"""The smallest programs there are, one per architecture: each exits with status 0.

They tell what this machine executes, natively or through an emulator, by executing it. An ELF
header, one loadable segment, the system call exit(0). Reference: elf(5), syscall(2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from shipline.errors import SandboxError
from shipline.oci import Platform

_BASE = 0x400000  # where the file is mapped
_SEGMENT_ALIGNMENT = 0x10000  # bytes: the largest page size of these machines


@dataclass(frozen=True, slots=True)
class Machine:
    """How programs of an architecture look: `code` is the exit, `qemu` the emulator's suffix."""

    number: int  # e_machine
    wide: bool
    code: str
    qemu: str
    flags: int = 0  # e_flags
    little: bool = True

    def header(self, kind: int = 2) -> bytes:
        """The first 20 bytes of an ELF file of this machine; `kind` 2 is an executable."""
        order = "<" if self.little else ">"
        identity = b"\x7fELF" + bytes((2 if self.wide else 1, 1 if self.little else 2, 1))
        return identity.ljust(16, b"\0") + struct.pack(f"{order}HH", kind, self.number)


MACHINES = {
    "amd64": Machine(62, True, "b83c000000 31ff 0f05", "x86_64"),
    "386": Machine(3, False, "31db b801000000 cd80", "i386"),
    "arm64": Machine(183, True, "000080d2 a80b80d2 010000d4", "aarch64"),
    "arm": Machine(40, False, "0000a0e3 0170a0e3 000000ef", "arm", flags=0x05000200),
    "riscv64": Machine(243, True, "13050000 9308d005 73000000", "riscv64"),
    "ppc64le": Machine(21, True, "01000038 00006038 02000044", "ppc64le", flags=2),
    "s390x": Machine(22, True, "a7290000 0a01", "s390x", little=False),
    "loong64": Machine(258, True, "0b748103 04001500 00002b00", "loongarch64", flags=0x43),
}


def machine_of(platform: Platform) -> Machine:
    """Raises SandboxError for a platform that nothing here knows how to run."""
    machine = MACHINES.get(platform.architecture)
    if machine is None or platform.os != "linux":
        known = ", ".join(f"linux/{name}" for name in MACHINES)
        raise SandboxError(f"steps cannot run for {platform}", hint=f"these can: {known}")
    return machine


def exit_program(platform: Platform) -> bytes:
    """An executable file for `platform` that exits with status 0."""
    machine = machine_of(platform)
    code = bytes.fromhex(machine.code)
    order = "<" if machine.little else ">"
    header_size, entry_size = (64, 56) if machine.wide else (52, 32)
    start = header_size + entry_size
    word = "Q" if machine.wide else "I"
    rest = struct.pack(
        f"{order}I3{word}I6H",
        *(1, _BASE + start, header_size, 0, machine.flags),
        *(header_size, entry_size, 1, 0, 0, 0),
    )
    size = start + len(code)
    if machine.wide:
        fields = (1, 5, 0, _BASE, _BASE, size, size, _SEGMENT_ALIGNMENT)
        segment = struct.pack(f"{order}2I6Q", *fields)
    else:
        segment = struct.pack(f"{order}8I", 1, 0, _BASE, _BASE, size, size, 5, _SEGMENT_ALIGNMENT)
    return machine.header() + rest + segment + code


def machine_name(header: bytes) -> str:
    """The architecture of a program that begins with `header`, "" when it is none of ours."""
    for name, machine in MACHINES.items():
        if header[:7] == machine.header()[:7] and header[18:20] == machine.header()[18:20]:
            return name
    return ""
