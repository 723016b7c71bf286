"""Devices by name are those of the files that describe them, and nothing else of the host."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shipline.errors import SandboxError, UsageError
from shipline.sandbox import Devices, devices
from shipline.sandbox.bundle import BindMount, DeviceNode

KIND = "vendor.example/card"


def describe(directory: Path, *names: str, file: str = "a.json", **more: Any) -> Path:
    """A file with devices that each set a variable of their name; `more` are edits of the first."""
    directory.mkdir(parents=True, exist_ok=True)
    found = [{"name": name, "containerEdits": {"env": [f"N_{name}=1"]}} for name in names]
    found[0]["containerEdits"] = {"env": [f"N_{names[0]}=1"], **more}
    document = {"cdiVersion": "0.6.0", "kind": KIND, "devices": found}
    (directory / file).write_text(json.dumps(document))
    return directory


def test_names_are_exact_or_any_or_the_first(tmp_path: Path) -> None:
    known = Devices([describe(tmp_path, "b", "a")])
    assert known.find(f"{KIND}=a") == (f"{KIND}=a",)
    assert known.find(f"{KIND}=*") == (f"{KIND}=a", f"{KIND}=b")
    assert known.find(KIND) == (f"{KIND}=a",)
    assert known.find(f"{KIND}=c", required=False) == ()
    with pytest.raises(UsageError, match=f'required device "{KIND}=c" is not registered'):
        known.find(f"{KIND}=c")


def test_a_class_of_buildkit_names_several(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        f"kind: {KIND}\nannotations: {{org.mobyproject.buildkit.device.autoallow: 'true'}}\n"
        "devices:\n"
        "- {name: a, annotations: {org.mobyproject.buildkit.device.class: fast}}\n"
        "- {name: b, annotations: {org.mobyproject.buildkit.device.autoallow: 'false'}}\n"
    )
    known = Devices([tmp_path])
    assert known.find(f"{KIND}=fast") == (f"{KIND}=a",)
    assert known.guarded(known.find(f"{KIND}=*")) == [f"{KIND}=b"]


@pytest.mark.parametrize("name", ["", "gpu", "/card", "vendor.example/", "a/b/c", "../x/y=z"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="invalid device"):
        Devices([tmp_path]).find(name, required=False)


def test_later_directories_replace_what_earlier_ones_say(tmp_path: Path) -> None:
    places = [describe(tmp_path / "etc", "a", env=["FROM=etc"]), tmp_path / "missing"]
    places.append(describe(tmp_path / "run", "a", env=["FROM=run"]))
    assert Devices(places).edits([f"{KIND}=a"]).env == ("FROM=run",)


def test_edits_of_a_file_are_for_all_its_devices_once(tmp_path: Path) -> None:
    document = {
        "kind": KIND,
        "containerEdits": {"env": ["COMMON=1"], "additionalGids": [44]},
        "devices": [
            {"name": "null", "containerEdits": {"deviceNodes": [{"path": "/dev/null"}]}},
            {
                "name": "zero",
                "containerEdits": {
                    "deviceNodes": [
                        {"path": "/dev/mine", "hostPath": "/dev/zero", "fileMode": 0o640, "gid": 7}
                    ],
                    "mounts": [{"hostPath": str(tmp_path), "containerPath": "/lib/x"}],
                },
            },
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    edits = Devices([tmp_path]).edits([f"{KIND}=null", f"{KIND}=zero"])
    assert (edits.env, edits.groups) == (("COMMON=1",), (44,))
    assert edits.mounts == (
        DeviceNode(Path("/dev/null"), "/dev/null"),
        DeviceNode(Path("/dev/zero"), "/dev/mine", 0o640, None, 7),
        BindMount(tmp_path, "/lib/x"),
    )


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"hooks": [{"hookName": "createContainer", "path": "/bin/sh"}]}, "needs hooks"),
        ({"intelRdt": {"closID": "x"}}, "needs intelRdt"),
        ({"deviceNodes": [{"path": "/dev/../etc/shadow"}]}, "not an absolute, plain path"),
        ({"deviceNodes": [{"path": "/dev/x", "hostPath": "dev/null"}]}, "not an absolute"),
        ({"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/../dev/null"}]}, "plain path"),
        ({"deviceNodes": [{"path": "/"}]}, "not an absolute, plain path"),
        ({"deviceNodes": [{}]}, "not an absolute, plain path"),
        ({"deviceNodes": [{"path": "/etc/passwd"}]}, "/etc/passwd is not a device"),
        ({"deviceNodes": [{"path": "/dev/no-such"}]}, "/dev/no-such: No such file"),
        ({"deviceNodes": [{"path": "/dev/null", "major": 8, "minor": 0}]}, r"is \(1, 3\), not"),
        ({"mounts": [{"hostPath": "/etc/../", "containerPath": "/x"}]}, "plain path"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "../x"}]}, "plain path"),
    ],
)
def test_what_steps_cannot_have_is_refused(tmp_path: Path, edit: dict[str, Any], said: str) -> None:
    known = Devices([describe(tmp_path, "a", "b", **edit)])
    with pytest.raises(SandboxError, match=said):
        known.edits([f"{KIND}=a"])
    assert known.edits([f"{KIND}=b"]).env == ("N_b=1",)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("x.json", "{"),
        ("x.json", "[]"),
        ("x.json", '{"kind": 3}'),
        ("x.json", '{"kind": "a/b", "devices": [1]}'),
        ("x.json", "[" * 100_000),
        ("x.yaml", "a: [b"),
        ("x.yml", "\0"),
    ],
)
def test_a_broken_file_hides_no_other_and_is_named(tmp_path: Path, file: str, content: str) -> None:
    describe(tmp_path, "a", file="z.json")
    (tmp_path / file).write_text(content)
    known = Devices([tmp_path])
    assert known.find(f"{KIND}=a")
    with pytest.raises(UsageError) as caught:
        known.find(f"{KIND}=missing")
    assert f"{tmp_path / file} cannot be read" in caught.value.hint


def test_places_are_those_of_buildkit() -> None:
    assert [os.fspath(one) for one in devices.DIRECTORIES] == [
        "/etc/cdi",
        "/etc/buildkit/cdi",
        "/var/run/cdi",
    ]
