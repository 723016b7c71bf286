"""What a driver waits for has the limit of --timeout."""

from __future__ import annotations

import os
import socket
import time

import pytest

from shipline.builders.container import ContainerDriver
from shipline.builders.instances import Node
from shipline.errors import BuilderError


def test_an_engine_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        driver = ContainerDriver(Node("n", endpoint), os.environ, timeout_s=0.2)
        began = time.monotonic()
        with pytest.raises(BuilderError, match=r"no answer within 0\.2 seconds"):
            driver.state()
        assert time.monotonic() - began < 25  # an answer has 30 seconds otherwise
