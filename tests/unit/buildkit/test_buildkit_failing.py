"""What a failed build of BuildKit means, by its message and details."""

from __future__ import annotations

import base64
import json

import pytest

from shipline.buildkit.messages import Any, Status
from shipline.buildkit.progress import SOURCE, ProgressReader, build_error
from shipline.errors import BuilderError, DockerfileError
from shipline.events import silent
from shipline.grpc.connection import Code, RpcError
from shipline.grpc.protobuf import encode


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("network bridge not found", BuilderError),
        ("failed to start: fork/exec /usr/bin/runc: no such file or directory", BuilderError),
        ("exit code: 1", DockerfileError),
    ],
)
def test_a_step_that_could_not_run_is_no_fault_of_the_dockerfile(
    said: str, kind: type[Exception]
) -> None:
    text = "FROM scratch\nRUN true\n"
    source = {
        "info": {"filename": "Dockerfile", "data": base64.b64encode(text.encode()).decode()},
        "ranges": [{"start": {"line": 2}, "end": {"line": 2}}],
    }
    details = Status(details=[Any(SOURCE, json.dumps(source).encode())])
    message = f'process "/bin/sh -c true" did not complete successfully: {said}'
    with silent() as step:
        failed = RpcError(Code.UNKNOWN, message, encode(details))
        error = build_error(failed, ProgressReader(step))
    assert type(error) is kind
    assert error.message == message and error.span is not None and error.span.line == 2
