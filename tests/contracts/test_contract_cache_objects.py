"""Caches in S3 and Azure: BuildKit's names, refreshed objects, services that know less."""

from __future__ import annotations

import base64
import hmac
import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from caches import azure_place, s3_place
from peers import S3Service
from peers.object_storage import ACCOUNT, ACCOUNT_KEY, REGION
from proxy import Answer, FaultProxy
from shipline.cachestores.azblob import sign_shared_key
from shipline.cachestores.opening import open_store
from shipline.content import MemoryStore, fetch_all
from shipline.content.cache_store import CacheStore
from shipline.errors import AuthError, RegistryError
from shipline.oci import Descriptor, media
from shipline.registry import Client
from shipline.registry.request import ClientRequest, Url
from shipline.values import replace

pytestmark = pytest.mark.peers
BLOB = b"a layer"
TARGET = Descriptor.of(BLOB, media.OCI_LAYER)


@dataclass
class Bucket:
    """The bucket `cache` seen by another client, boto3, and stores that keep a cache in it."""

    service: S3Service
    client: Client
    prefix: str

    def store(self, port: int = 0, **given: str) -> CacheStore:
        attributes = {
            "bucket": "cache",
            "region": REGION,
            "endpoint_url": f"http://127.0.0.1:{port or self.service.port}",
            "use_path_style": "true",
            "prefix": self.prefix,
            "access_key_id": self.service.key_id,
            "secret_access_key": self.service.secret,
            **given,
        }
        return open_store("s3", attributes, client=self.client, variables={})

    def boto(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.service.url,
            region_name=REGION,
            aws_access_key_id=self.service.key_id,
            aws_secret_access_key=self.service.secret,
        )

    def keys(self) -> list[str]:
        listed = self.boto().list_objects_v2(Bucket="cache", Prefix=self.prefix)
        return [one["Key"].removeprefix(self.prefix) for one in listed.get("Contents", ())]

    def uploads(self) -> list[str]:
        """The keys under the prefix that have an unfinished upload."""
        listed = self.boto().list_multipart_uploads(Bucket="cache").get("Uploads", ())
        return [one["Key"] for one in listed if one["Key"].startswith(self.prefix)]


@pytest.fixture
def bucket(s3_service: S3Service, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    with Client() as client:
        yield Bucket(s3_service, client, f"{request.node.name}/")


def test_names_in_s3_are_those_of_buildkit(bucket: Bucket) -> None:
    store = bucket.store(name="main;topic/x")
    store.push(TARGET, MemoryStore(BLOB))
    store.update(lambda _: b"{}")
    assert bucket.keys() == [f"blobs/{TARGET.digest}", "manifests/main", "manifests/topic/x"]


def test_prefixes_in_s3_are_joined_as_they_are(bucket: Bucket) -> None:
    store = bucket.store(blobs_prefix="b-", manifests_prefix="")
    store.push(TARGET, MemoryStore(BLOB))
    store.update(lambda _: b"{}")
    assert bucket.keys() == [f"b-{TARGET.digest}", "buildkit"]


def test_what_another_client_of_s3_wrote_is_read(bucket: Bucket) -> None:
    put = bucket.boto().put_object
    put(Bucket="cache", Key=f"{bucket.prefix}blobs/{TARGET.digest}", Body=BLOB)
    put(Bucket="cache", Key=f"{bucket.prefix}manifests/buildkit", Body=b"{}")
    store = bucket.store()
    assert fetch_all(store, TARGET, 100) == BLOB
    assert list(store.documents()) == [b"{}"]


def test_what_a_writer_finds_there_is_touched_when_it_is_old(bucket: Bucket) -> None:
    def changed() -> datetime:
        key = f"{bucket.prefix}blobs/{TARGET.digest}"
        found: datetime = bucket.boto().head_object(Bucket="cache", Key=key)["LastModified"]
        return found

    store = bucket.store(touch_refresh="1s")
    store.push(TARGET, MemoryStore(BLOB))
    first = changed()
    store.update(lambda _: b"{}")
    time.sleep(2.1)
    assert store.exists(TARGET) and changed() == first
    store.update(lambda _: b"{}")
    assert changed() > first
    assert fetch_all(store, TARGET, 100) == BLOB


def test_an_upload_that_fails_leaves_no_parts(bucket: Bucket) -> None:
    content = bytes(9 << 20)
    with FaultProxy(bucket.service.port) as proxy:
        proxy.break_next(Answer(400), method="PUT", target="partNumber=2")
        with pytest.raises(RegistryError, match="writing"):
            bucket.store(proxy.port).push(Descriptor.of(content, "x"), MemoryStore(content))
    assert bucket.uploads() == bucket.keys() == []


def test_a_service_without_conditions_is_written_and_read_again(bucket: Bucket) -> None:
    with FaultProxy(bucket.service.port) as proxy:
        store = bucket.store(proxy.port)
        proxy.break_next(Answer(501), method="PUT")
        store.update(lambda present: present or b"mine")
        assert [one.method for one in proxy.requests] == ["GET", "PUT", "PUT", "GET"]
        assert "if-none-match" not in proxy.requests[2].headers
    assert list(bucket.store().documents()) == [b"mine"]


def test_a_bucket_elsewhere_is_named_in_the_hint(bucket: Bucket) -> None:
    with FaultProxy(bucket.service.port) as proxy:
        there = Answer(301, headers=(("x-amz-bucket-region", "us-west-2"),))
        proxy.break_next(there)
        with pytest.raises(RegistryError) as caught:
            bucket.store(proxy.port).exists(TARGET)
    assert "region=us-west-2" in caught.value.hint


def test_a_missing_bucket_is_an_error_and_no_empty_cache(bucket: Bucket) -> None:
    with pytest.raises(RegistryError, match="NoSuchBucket"):
        list(bucket.store(bucket="nowhere").documents())


def test_a_wrong_key_of_s3_is_an_error_with_the_reason(bucket: Bucket) -> None:
    with pytest.raises(AuthError, match="SignatureDoesNotMatch"):
        list(bucket.store(secret_access_key="wrong").documents())


def test_names_in_azure_are_those_of_buildkit(azure_account: str) -> None:
    place = azure_place(azure_account)
    given = {**place.attributes(place.port), "prefix": "a//b/", "name": "main;x"}
    with Client() as client:
        store = open_store("azblob", given, client=client, variables={})
        store.push(TARGET, MemoryStore(BLOB))
        store.update(lambda _: b"{}")
        assert listed(client, azure_account, given["container"]) == [
            f"a/b/blobs/{TARGET.digest}",
            "a/b/manifests/main",
            "a/b/manifests/x",
        ]


def listed(client: Client, account_url: str, container: str) -> list[str]:
    """The blobs of a container, by a request that the store itself never sends."""
    url = Url.parse(f"{account_url}/{container}?restype=container&comp=list")
    key = base64.b64decode(ACCOUNT_KEY)
    request = ClientRequest("GET", url, {"x-ms-version": "2023-11-03"})
    signed = sign_shared_key(ACCOUNT, key, datetime.now(UTC), request)
    with closing(client.http.call(signed, expect={200}, operation="listing")) as response:
        return re.findall(r"<Name>([^<]+)</Name>", response.content(1 << 20).decode())


def signature(container: str, permissions: str) -> str:
    """A shared access signature for a container ("Create a service SAS")."""
    until = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    resource = f"/blob/{ACCOUNT}/{container}"
    version = "2023-11-03"
    fields = [
        permissions,
        "",
        until,
        resource,
        "",
        "",
        "",
        version,
        "c",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
    ]
    digest = hmac.digest(base64.b64decode(ACCOUNT_KEY), "\n".join(fields).encode(), "sha256")
    query = {"sv": version, "sr": "c", "sp": permissions, "se": until}
    return urlencode({**query, "sig": base64.b64encode(digest).decode()}, quote_via=quote)


def test_a_shared_access_signature_allows_what_it_says(azure_account: str) -> None:
    place = azure_place(azure_account)
    given = place.attributes(place.port)
    container = given["container"]
    with Client() as client:
        place.open(client).update(lambda _: b"1")
        without = {name: text for name, text in given.items() if name != "secret_access_key"}
        writer = {**without, "sas": signature(container, "rcw")}
        store = open_store("azblob", writer, client=client, variables={})
        store.push(TARGET, MemoryStore(BLOB))
        store.update(lambda present: (present or b"") + b"2")
        in_url = f"{given['account_url']}?{signature(container, 'r')}"
        reader = open_store(
            "azblob", {**without, "account_url": in_url}, client=client, variables={}
        )
        assert fetch_all(reader, TARGET, 100) == BLOB
        assert list(reader.documents()) == [b"12"]
        with pytest.raises(AuthError) as caught:
            reader.update(lambda _: b"3")
        assert "sig=" not in repr(caught.value)


def test_a_blob_of_another_size_is_replaced(bucket: Bucket) -> None:
    bucket.boto().put_object(
        Bucket="cache", Key=f"{bucket.prefix}blobs/{TARGET.digest}", Body=BLOB[:3]
    )
    store = bucket.store()
    assert not store.exists(TARGET)
    store.push(TARGET, MemoryStore(BLOB))
    assert fetch_all(store, replace(TARGET, annotations={}), 100) == BLOB


def test_s3_credentials_may_come_from_the_environment(s3_service: S3Service) -> None:
    place = s3_place(s3_service)
    given = dict(place.attributes(place.port))
    variables = {
        "AWS_ACCESS_KEY_ID": given.pop("access_key_id"),
        "AWS_SECRET_ACCESS_KEY": given.pop("secret_access_key"),
    }
    with Client() as client:
        store = open_store("s3", given, client=client, variables=variables)
        store.push(TARGET, MemoryStore(BLOB))
        assert store.exists(TARGET)
