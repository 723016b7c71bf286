"""Object storages: moto plays S3, Azurite plays Azure's blob storage; both check signatures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection
from pathlib import Path

from peers.process import PeerFailed, free_port, listening, running

_SCRIPT = Path(__file__).parents[2] / "scripts" / "azurite.sh"
REGION = "eu-central-1"
ACCOUNT = "devstoreaccount1"  # Azurite's, with the key from its documentation
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@dataclass(frozen=True)
class S3Service:
    """A running S3 with empty buckets; all requests must be signed with this key."""

    port: int
    key_id: str
    secret: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def moto_server(*buckets: str) -> Iterator[S3Service]:
    """moto's S3, IAM and STS in this process, with a user who may do everything with S3."""
    import logging

    import boto3
    from moto.server import ThreadedMotoServer
    from werkzeug.serving import WSGIRequestHandler

    WSGIRequestHandler.disable_nagle_algorithm = True
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        of_all = {
            "endpoint_url": f"http://127.0.0.1:{port}",
            "region_name": REGION,
            "aws_access_key_id": "setup",
            "aws_secret_access_key": "setup",
        }
        s3, iam = boto3.client("s3", **of_all), boto3.client("iam", **of_all)
        for bucket in buckets:
            s3.create_bucket(
                Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
            )
        iam.create_user(UserName="cache")
        key = iam.create_access_key(UserName="cache")["AccessKey"]
        rule = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
        iam.put_user_policy(UserName="cache", PolicyName="cache", PolicyDocument=policy)
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/moto-api/reset-auth", b"0")  # from here on, check
        assert connection.getresponse().status == 200
        connection.close()
        yield S3Service(port, key["AccessKeyId"], key["SecretAccessKey"])
    finally:
        server.stop()


@cache
def _azurite() -> Path:
    done = subprocess.run(["sh", _SCRIPT], capture_output=True, text=True)
    if done.returncode:
        raise PeerFailed(f"Azurite cannot be fetched:\n{done.stderr}")
    return Path(done.stdout.strip()) / "node_modules/.bin/azurite-blob"


@contextmanager
def azurite(work: Path) -> Iterator[str]:
    """Azurite, whose account URL is given; what it keeps is in memory."""
    port = free_port()
    command: list[str | Path] = [
        "node",
        _azurite(),
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        str(port),
    ]
    command += ["--inMemoryPersistence", "--disableTelemetry", "--silent"]
    with running(command, ready=lambda: listening(port), log=work / "azurite.log"):
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
