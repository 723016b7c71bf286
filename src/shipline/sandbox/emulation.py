"""Programs for other architectures: which of them run here, and how emulators are registered.

The kernel hands such a program to the interpreter that binfmt_misc names for it. Flag F keeps the
interpreter open from registration on, so it works in any root file system; without F it is of no
use to us. Reference: Documentation/admin-guide/binfmt-misc.rst.

Handlers are registered as OPF, without C: with C a setuid program of a foreign architecture would
run the whole emulator with its owner's privileges, everywhere on the host. The price is that sudo
does not elevate privileges in an emulated step, as with Debian's own handlers.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from msgspec import Struct

from shipline.errors import SandboxError
from shipline.oci import Platform
from shipline.sandbox import kernel
from shipline.tasks import TaskGroup

_BASE = 0x400000  # where the file is mapped
_SEGMENT_ALIGNMENT = 0x10000  # bytes: the largest page size of these machines


class Machine(Struct, frozen=True):
    """The ELF header of an architecture; `code` exits with 0, `qemu` is the emulator's suffix.

    `probe_code` exits with the error number of munlockall(2), which is 0 where no filter refuses
    the call; empty if it is not known.
    """

    number: int  # e_machine
    wide: bool
    code: str
    qemu: str
    flags: int = 0  # e_flags
    little: bool = True
    probe_code: str = ""

    def header(self, kind: int = 2) -> bytes:
        """The first 20 bytes of an ELF file of this machine; `kind` 2 is an executable."""
        order = "<" if self.little else ">"
        identity = b"\x7fELF" + bytes((2 if self.wide else 1, 1 if self.little else 2, 1))
        return identity.ljust(16, b"\0") + struct.pack(f"{order}HH", kind, self.number)


MACHINES = {
    "amd64": Machine(
        *(62, True, "b83c000000 31ff 0f05", "x86_64"),
        probe_code="b898000000 0f05 f7d8 89c7 b83c000000 0f05",
    ),
    "386": Machine(3, False, "31db b801000000 cd80", "i386"),
    "arm64": Machine(
        *(183, True, "000080d2 a80b80d2 010000d4", "aarch64"),
        probe_code="e81c80d2 010000d4 e00300cb a80b80d2 010000d4",
    ),
    "arm": Machine(40, False, "0000a0e3 0170a0e3 000000ef", "arm", flags=0x05000200),
    "riscv64": Machine(243, True, "13050000 9308d005 73000000", "riscv64"),
    "ppc64le": Machine(21, True, "01000038 00006038 02000044", "ppc64le", flags=2),
    "s390x": Machine(22, True, "a7290000 0a01", "s390x", little=False),
    "loong64": Machine(258, True, "0b748103 04001500 00002b00", "loongarch64", flags=0x43),
}


def machine_of(platform: Platform) -> Machine:
    """Raises SandboxError for a platform that is not known here."""
    machine = MACHINES.get(platform.architecture)
    if machine is None or platform.os != "linux":
        known = ", ".join(f"linux/{name}" for name in MACHINES)
        raise SandboxError(
            f"steps cannot run for {platform}",
            code="emulator",
            hint=f"these platforms can: {known}",
        )
    return machine


def exit_program(platform: Platform) -> bytes:
    """An executable file for `platform` that exits with status 0."""
    machine = machine_of(platform)
    return _executable(machine, bytes.fromhex(machine.code))


def probe_program(platform: Platform) -> bytes | None:
    """An executable file for `platform` that runs `Machine.probe_code`; None if not known."""
    machine = machine_of(platform)
    code = bytes.fromhex(machine.probe_code)
    return _executable(machine, code) if code else None


def _executable(machine: Machine, code: bytes) -> bytes:
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


BINFMT = Path("/proc/sys/fs/binfmt_misc")
_DEFINITIONS = Path("/usr/lib/binfmt.d")
_FLAGS = "OPF"
_MASK = bytes([0xFF] * 7 + [0] + [0xFF] * 8 + [0xFE, 0xFF, 0xFF, 0xFF])  # any ABI; static or PIE
_SWAPPED_MASK = _MASK[:16] + bytes([0xFF, 0xFE, 0xFF, 0xFF])  # the same for big endian
_VARIANTS = {"arm": ("v7", "v6")}
_ETXTBSY_ATTEMPTS = 20
_REGISTERING = threading.Lock()


class BinfmtEntry(Struct, frozen=True):
    """One entry of binfmt_misc."""

    name: str
    enabled: bool
    interpreter: str
    flags: str
    offset: int = 0
    magic: bytes = b""
    mask: bytes = b""

    @property
    def works_in_any_root(self) -> bool:
        return self.enabled and "F" in self.flags

    def handles(self, header: bytes) -> bool:
        """Whether a file that begins with `header` is given to this handler."""
        part = header[self.offset : self.offset + len(self.magic)]
        mask = self.mask or b"\xff" * len(self.magic)
        return (
            bool(self.magic)
            and len(part) == len(self.magic)
            and all(
                have & bits == want & bits
                for have, want, bits in zip(part, self.magic, mask, strict=True)
            )
        )

    def definition(self) -> str:
        """The text that registers the same handler in another instance of binfmt_misc."""
        pattern = f"{self.offset}:{_escaped(self.magic)}:{_escaped(self.mask)}"
        return f":{self.name}:M:{pattern}:{self.interpreter}:{self.flags}"

    @classmethod
    def parse(cls, name: str, text: str) -> BinfmtEntry:
        """Read what the kernel shows of an entry."""
        first, *lines = text.splitlines() or [""]
        fields = dict(line.rstrip().partition(" ")[::2] for line in lines)
        return cls(
            name,
            first == "enabled",
            fields.get("interpreter", ""),
            fields.get("flags:", ""),
            int(fields.get("offset", "0")),
            bytes.fromhex(fields.get("magic", "")),
            bytes.fromhex(fields.get("mask", "")),
        )


def handlers() -> tuple[BinfmtEntry, ...]:
    """The registered handlers, newest first, as the kernel tries them; none where binfmt_misc is
    not mounted.
    """
    try:
        names = [path.name for path in BINFMT.iterdir()]
    except OSError:
        return ()
    entries = (name for name in names if name not in ("register", "status"))
    return tuple(BinfmtEntry.parse(name, (BINFMT / name).read_text()) for name in entries)


def handler_for(platform: Platform) -> BinfmtEntry | None:
    """The handler that the kernel chooses for programs of `platform`."""
    header = machine_of(platform).header()
    return next((one for one in handlers() if one.enabled and one.handles(header)), None)


def can_execute(platform: Platform) -> bool:
    """Whether a program of `platform` runs in another root directory; tested by running one."""
    return platform.os == "linux" and platform.architecture in MACHINES and _executes(platform)


def supported_platforms() -> tuple[Platform, ...]:
    """The platforms whose programs run here: this machine's own first, then emulated ones."""
    return tuple(dict.fromkeys(filter(can_execute, (Platform.local(), *_all_platforms()))))


def emulators() -> tuple[Platform, ...]:
    """Foreign platforms that an emulator is installed for, registered or not."""
    found = []
    for platform in _all_platforms():
        with suppress(SandboxError):
            _interpreter(machine_of(platform).qemu)
            found.append(platform)
    return tuple(found)


def require_execution(platform: Platform) -> None:
    """Raises SandboxError, with a command that helps, where programs of `platform` do not run."""
    machine = machine_of(platform)
    if can_execute(platform):
        return
    handler = handler_for(platform)
    if handler is not None and not handler.works_in_any_root:
        raise SandboxError(
            f"the emulator for {platform}, {handler.interpreter}, was registered without flag F,"
            " so it is not found inside an image",
            code="emulator",
            hint="run `shipline builder bootstrap` as root to register it again",
        )
    raise SandboxError(
        f"this machine does not execute {platform} programs",
        code="emulator",
        hint=_help(machine.qemu),
    )


def register(platform: Platform) -> str:
    """Register an emulator for `platform`, for every container and root directory of the host.

    Returns the command that undoes it, empty where the host was not changed: where such programs
    run already, and in a user namespace, which has a binfmt_misc of its own. Root cannot have its
    own without such a namespace, in which a build could create no device nodes and mount no sysfs.
    Handlers of others stay; the kernel tries the newest one first.

    Mounts binfmt_misc where it is missing. Raises SandboxError when not root, when the kernel has
    no binfmt_misc for user namespaces (before 6.7), or when no emulator is installed.
    """
    machine = machine_of(platform)
    with _REGISTERING:
        if can_execute(platform):
            return ""
        mounted = (BINFMT / "register").exists()
        name = _register(platform, machine.qemu)
        require_execution(platform)
    if kernel.in_user_namespace():
        return ""
    mount = "" if mounted else f"mount -t binfmt_misc none {BINFMT}; "
    return f"{mount}echo -1 > {BINFMT}/{name}"


def _register(platform: Platform, qemu: str) -> str:
    """The name of the new entry."""
    name = f"qemu-{qemu}"
    try:
        _open_binfmt()
        if (BINFMT / name).exists():  # another program's, and of no use in an image
            name = f"shipline-{name}"
            if (BINFMT / name).exists():
                (BINFMT / name).write_text("-1")
        (BINFMT / "register").write_text(_definition(platform, _interpreter(qemu), name))
    except OSError as error:
        raise SandboxError(
            f"cannot register an emulator for {platform}: {error.strerror}",
            code="emulator",
            hint="run `shipline builder bootstrap` as root, on the host: " + _help(qemu),
        ) from error
    finally:
        _executes.cache_clear()
    return name


def _help(qemu: str) -> str:
    return (
        "as root: `apt-get install qemu-user-static && shipline builder bootstrap`,"
        f" or `docker run --privileged --rm tonistiigi/binfmt --install qemu-{qemu}`"
    )


def _open_binfmt() -> None:
    """Mount an instance of binfmt_misc of our own where that of the host cannot be written.

    The host's handlers are no longer used then, so they are registered there again.
    """
    if os.access(BINFMT / "register", os.W_OK):
        return
    known = [one for one in handlers() if one.works_in_any_root and one.magic]
    kernel.mount("binfmt_misc", BINFMT, "binfmt_misc", kernel.MS_NOSUID | kernel.MS_NODEV)
    for handler in known:
        with suppress(OSError):  # its interpreter may be in another root
            (BINFMT / "register").write_text(handler.definition())


def _interpreter(qemu: str) -> str:
    """The path of the emulator: the distribution's choice for binfmt, else from the PATH."""
    try:
        line = (_DEFINITIONS / f"qemu-{qemu}.conf").read_text().strip()
        interpreter = line.split(":")[6]
        if os.access(interpreter, os.X_OK):
            return interpreter
    except (OSError, IndexError):
        pass
    for name in (f"qemu-{qemu}-static", f"qemu-{qemu}"):
        if (path := shutil.which(name)) is not None:
            return path
    raise SandboxError(
        f"no qemu-{qemu}-static on the PATH", code="program-missing", hint=_help(qemu)
    )


def _definition(platform: Platform, interpreter: str, name: str) -> str:
    machine = machine_of(platform)
    mask = _MASK if machine.little else _SWAPPED_MASK
    pattern = f"{_escaped(machine.header())}:{_escaped(mask)}"
    return f":{name}:M::{pattern}:{interpreter}:{_FLAGS}"


def _escaped(part: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in part)


def _all_platforms() -> Iterator[Platform]:
    for architecture in MACHINES:
        for variant in _VARIANTS.get(architecture, ("",)):
            yield Platform.normal("linux", architecture, variant)


@cache
def _executes(platform: Platform) -> bool:
    with tempfile.TemporaryDirectory() as name:
        program = Path(name, "exit")
        program.write_bytes(exit_program(platform))
        program.chmod(0o755)
        with TaskGroup() as group:  # on a new thread, which can have another root
            return group.start(_exits, program).result()


def _exits(program: Path) -> bool:
    path = str(program)
    try:
        kernel.unshare(kernel.CLONE_FS)
        os.chroot(program.parent)
        path = f"/{program.name}"
    except PermissionError:  # an ordinary user: flag F cannot be tested
        pass
    for _ in range(_ETXTBSY_ATTEMPTS):
        try:
            child = os.posix_spawn(path, [path], {})
        except OSError as error:
            if error.errno != errno.ETXTBSY:
                return False
            time.sleep(0.005)  # another thread's child still holds the file open for writing
        else:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return False
