"""Everything that runs one build step in a root file system."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipline.lazy import load_when_named
from shipline.sandbox.kernel import in_user_namespace, sync_file_system
from shipline.sandbox.rooted import held_in_root, read_in_root, resolve_in_root
from shipline.sandbox.rootless import (
    enter_user_namespace,
    owners_suffix,
    private_mounts,
    require_ids,
)
from shipline.sandbox.workspace import open_workspace, remove_stale, remove_tree

if TYPE_CHECKING:
    from shipline.sandbox.bundle import (
        HOSTNAME,
        BindMount,
        SecretFile,
        StepMount,
        StepSpec,
        TmpfsMount,
    )
    from shipline.sandbox.devices import DeviceEdits, Devices
    from shipline.sandbox.emulation import (
        can_execute,
        emulators,
        register,
        require_execution,
        supported_platforms,
    )
    from shipline.sandbox.limits import ControlGroups
    from shipline.sandbox.mounts import (
        Bind,
        Erofs,
        Mount,
        Overlay,
        Tmpfs,
        bound,
        can_mount_files,
        freeze,
        make_erofs_index,
        mounted,
    )
    from shipline.sandbox.network import find_connector
    from shipline.sandbox.run import Sandbox, open_sandbox
    from shipline.sandbox.runtime import Runtime, search_runtime
    from shipline.sandbox.users import (
        ProcessUser,
        find_owner,
        find_user,
        needs_files,
        owner_of,
        user_of,
    )
else:
    __getattr__ = load_when_named(
        __name__,
        bundle="HOSTNAME BindMount SecretFile StepMount StepSpec TmpfsMount",
        devices="DeviceEdits Devices",
        emulation="can_execute emulators register require_execution supported_platforms",
        limits="ControlGroups",
        mounts="Bind Erofs Mount Overlay Tmpfs"
        " bound can_mount_files freeze make_erofs_index mounted",
        network="find_connector",
        run="Sandbox open_sandbox",
        runtime="Runtime search_runtime",
        users="ProcessUser find_owner find_user needs_files owner_of user_of",
    )
