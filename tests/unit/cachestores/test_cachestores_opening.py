"""Attributes of caches: those that exist, those that are needed, and what stands in for them."""

from __future__ import annotations

import base64
import json
import time

import pytest

from serving import serving
from shipline.cachestores.aws import domain
from shipline.cachestores.opening import KINDS, open_store
from shipline.cachestores.s3 import bucket_url
from shipline.content import MemoryStore
from shipline.content.cache_store import CacheStore
from shipline.errors import AuthError, UsageError
from shipline.oci import Descriptor
from shipline.registry import Client

S3 = {"bucket": "b", "region": "eu-central-1"}
AZURE = {"account_url": "https://account.blob.core.windows.net"}


def token(expires: float) -> str:
    listed = json.dumps([{"Scope": "refs/heads/main", "Permission": 3}])
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires, "ac": listed}).encode())
    return f"e30.{claims.decode().rstrip('=')}.c2ln"


def opened(kind: str, given: dict[str, str], **variables: str) -> CacheStore:
    with Client() as client:
        return open_store(kind, given, client=client, variables={"HOME": "/none", **variables})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_unknown_attribute_is_an_error_that_lists_the_known_ones(kind: str) -> None:
    with pytest.raises(UsageError, match=f"type={kind} has no buckte=") as caught:
        opened(kind, {"buckte": "x"})
    assert "mode" in caught.value.hint and "ignore-error" in caught.value.hint


def test_what_is_missing_may_come_from_the_environment() -> None:
    with pytest.raises(UsageError, match="needs bucket= or AWS_BUCKET"):
        opened("s3", {"region": "x"})
    with pytest.raises(UsageError, match="needs region= or AWS_REGION"):
        opened("s3", {"bucket": "x"})
    opened("s3", {}, AWS_BUCKET="b", AWS_DEFAULT_REGION="eu-central-1")
    with pytest.raises(UsageError, match="needs account_url="):
        opened("azblob", {})
    opened("azblob", {}, BUILDKIT_AZURE_STORAGE_ACCOUNT_URL=AZURE["account_url"])


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("s3", {**S3, "touch_refresh": "soon"}),
        ("s3", {**S3, "upload_parallelism": "0"}),
        ("s3", {**S3, "use_path_style": "maybe"}),
        ("s3", {**S3, "endpoint_url": "minio:9000"}),
        ("s3", {**S3, "bucket": "a b"}),
        ("s3", {**S3, "access_key_id": "only"}),
        ("azblob", {"account_url": "ftp://x"}),
        ("azblob", {**AZURE, "secret_access_key": "not base64!"}),
        ("azblob", {**AZURE, "secret_access_key": "schlüssel"}),
        ("azblob", {**AZURE, "prefix": "a\nb"}),
        ("s3", {**S3, "name": "\udcff"}),
        ("s3", {**S3, "bucket": "\udcff"}),
        ("gha", {"version": "1"}),
    ],
)
def test_a_value_that_cannot_be_used_is_an_error(kind: str, given: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        opened(kind, given)


def test_outside_of_actions_the_cache_says_what_is_missing_when_it_is_used() -> None:
    with pytest.raises(AuthError, match="ACTIONS_RUNTIME_TOKEN is not set"):
        opened("gha", {}).documents()
    with pytest.raises(AuthError, match="ACTIONS_RESULTS_URL is not set"):
        opened("gha", {}, ACTIONS_RUNTIME_TOKEN=token(time.time() + 60)).documents()


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "e30.e30.x", token(time.time() - 60)])
def test_a_token_that_cannot_be_used_is_not_shown(text: str) -> None:
    store = opened("gha", {"url_v2": "https://results.example/", "token": text})
    target = Descriptor.of(b"", "x")
    for work in (
        store.documents,
        lambda: store.update(lambda _: b""),
        lambda: store.exists(target),
        lambda: store.push(target, MemoryStore(b"")),
        lambda: store.fetch(target).__enter__(),
    ):
        with pytest.raises(AuthError) as caught:
            work()
        assert len(text) < 4 or text not in repr(caught.value)


def test_no_store_shows_its_secrets() -> None:
    secret = base64.b64encode(b"hidden").decode()
    for store in (
        opened("s3", {**S3, "access_key_id": "id", "secret_access_key": secret}),
        opened("azblob", {**AZURE, "secret_access_key": secret}),
    ):
        assert secret not in repr(vars(store))


@pytest.mark.parametrize(
    ("bucket", "region", "endpoint", "path_style", "url"),
    [
        ("b", "eu-west-1", "", False, "https://b.s3.eu-west-1.amazonaws.com/"),
        ("b", "eu-west-1", "", True, "https://s3.eu-west-1.amazonaws.com/b/"),
        ("a.b", "eu-west-1", "", False, "https://s3.eu-west-1.amazonaws.com/a.b/"),
        ("b", "cn-north-1", "", False, "https://b.s3.cn-north-1.amazonaws.com.cn/"),
        ("b", "auto", "https://minio:9000", False, "https://b.minio:9000/"),
        ("b", "auto", "http://minio:9000/s3/", True, "http://minio:9000/s3/b/"),
    ],
)
def test_a_bucket_is_part_of_the_host_or_of_the_path(
    bucket: str, region: str, endpoint: str, path_style: bool, url: str
) -> None:
    assert str(bucket_url(bucket, region, endpoint, domain(region), path_style=path_style)) == url


@pytest.mark.parametrize(
    ("given", "key_id", "session"),
    [
        ({}, "env-id", "env-session"),
        ({"access_key_id": "own", "secret_access_key": "key"}, "own", ""),
        ({"access_key_id": "own"}, "own", "env-session"),
        ({"session_token": "own-session"}, "env-id", "own-session"),
    ],
)
def test_the_environment_has_what_is_missing_of_a_key(
    given: dict[str, str], key_id: str, session: str
) -> None:
    """As in buildx: a key that is given whole has no session of the environment."""
    variables = {
        "AWS_ACCESS_KEY_ID": "env-id",
        "AWS_SECRET_ACCESS_KEY": "env-key",
        "AWS_SESSION_TOKEN": "env-session",
    }
    with serving(lambda _: (404, {}, b"")) as served, Client() as client:
        endpoint = {"endpoint_url": served.url, "use_path_style": "true"}
        open_store(
            "s3", {**S3, **endpoint, **given}, client=client, variables=variables
        ).documents()
        (request,) = served.requests
    assert f"Credential={key_id}/" in request.headers["authorization"]
    assert request.headers.get("x-amz-security-token", "") == session
