"""AWS: signatures equal to botocore's, credentials from every source in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import ReceivedRequest, Reply, Served, serving
from shipline.cachestores.aws import AwsCredentials, AwsEnvironment, AwsLogin, escape, sign
from shipline.cachestores.service import Service
from shipline.errors import AuthError, ConfigError
from shipline.registry import HostSettings, NoKeychain
from shipline.registry.http import HttpClient
from shipline.registry.request import ClientRequest, Url

NOW = datetime(2026, 11, 29, 8, 0, 5, tzinfo=UTC)
KEY = AwsCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
_TEXT = st.text(min_size=1, max_size=12)


@given(
    key=_TEXT,
    query=st.dictionaries(_TEXT, _TEXT, max_size=3),
    body=st.binary(max_size=20),
    token=st.sampled_from(["", "token/+="]),
    scheme=st.sampled_from(["http", "https"]),
)
def test_signatures_are_those_of_botocore(
    key: str, query: Mapping[str, str], body: bytes, token: str, scheme: str
) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.config import Config
    from botocore.credentials import Credentials

    target = f"/bucket/{escape(key, safe='/')}"
    if query:
        target += "?" + "&".join(f"{escape(a)}={escape(b)}" for a, b in query.items())
    url = Url(Url.parse(f"{scheme}://s3.example.com:9000/").origin, target)
    headers = {"x-amz-meta-b": "2", "If-Match": '"x"', "x-amz-copy-source": "/a/b"}
    ours = sign(
        ClientRequest("PUT", url, headers, body),
        AwsCredentials(KEY.key_id, KEY.secret, token),
        region="eu-central-1",
        service="s3",
        now=NOW,
    )
    theirs = AWSRequest("PUT", str(url), headers=headers, data=body)
    theirs.context["timestamp"] = f"{NOW:%Y%m%dT%H%M%SZ}"
    theirs.context["client_config"] = Config(s3={"payload_signing_enabled": scheme == "http"})
    auth = S3SigV4Auth(Credentials(KEY.key_id, KEY.secret, token or None), "s3", "eu-central-1")
    auth._modify_request_before_signing(theirs)
    if token:
        theirs.headers["X-Amz-Security-Token"] = token
    theirs.headers["X-Amz-Date"] = theirs.context["timestamp"]
    signed = {"host", "x-amz-content-sha256", "x-amz-date", "x-amz-meta-b", "x-amz-copy-source"}
    auth.headers_to_sign = lambda request: _subset(request, signed, token)
    canonical = auth.canonical_request(theirs)
    signature = auth.signature(auth.string_to_sign(theirs, canonical), theirs)
    assert ours.headers["Authorization"].endswith(f"Signature={signature}")


def _subset(request: object, names: set[str], token: str) -> object:
    from botocore.compat import HTTPHeaders

    wanted = {*names, "x-amz-security-token"} if token else names
    headers = HTTPHeaders()
    items = {name.lower(): text for name, text in request.headers.items()}  # type: ignore[attr-defined]
    items["host"] = "s3.example.com:9000"
    for name in wanted:
        headers[name] = items[name]
    return headers


def test_over_tls_the_body_is_not_hashed() -> None:
    url = Url.parse("https://bucket.s3.eu-central-1.amazonaws.com/key")
    signed = sign(ClientRequest("PUT", url, {}, b"x"), KEY, region="r", service="s3", now=NOW)
    assert signed.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


@dataclass
class Metadata:
    """STS, the container's and the instance's metadata at one address."""

    asked: list[str]
    minutes: float = 60

    def fields(self, name: str) -> dict[str, str]:
        until = (NOW + timedelta(minutes=self.minutes)).isoformat().replace("+00:00", "Z")
        return {
            "AccessKeyId": name,
            "SecretAccessKey": f"secret of {name}",
            "Token": "session",
            "Expiration": until,
        }

    def respond(self, request: ReceivedRequest) -> Reply:
        self.asked.append(f"{request.method} {request.path}")
        if request.path == "/sts/":
            form = request.all().decode()
            name = "role" if "AssumeRoleWithWebIdentity" in form else "assumed"
            if name == "assumed":
                assert "Credential=base/" in request.headers["authorization"]
            fields = "".join(
                f"<{key}>{text}</{key}>" for key, text in self.fields(name).items()
            ).replace("Token>", "SessionToken>")
            return 200, {}, f"<Credentials>{fields}</Credentials>".encode()
        if request.path == "/latest/api/token":
            return 200, {}, b"imds-token"
        if request.path.startswith("/latest/meta-data/iam/security-credentials/"):
            if request.headers.get("x-aws-ec2-metadata-token") != "imds-token":
                return 401, {}, b""
            role = request.path.rpartition("/")[2]
            body = json.dumps(self.fields("instance")) if role else "web-role\n"
            return 200, {}, body.encode()
        if request.path == "/container":
            wanted = request.headers.get("authorization") == "pod-token"
            return (200 if wanted else 401), {}, json.dumps(self.fields("container")).encode()
        return 404, {}, b""


@pytest.fixture
def metadata() -> Iterator[tuple[Metadata, Served]]:
    played = Metadata([])
    with serving(played.respond) as served:
        yield played, served


@pytest.fixture
def find(
    metadata: tuple[Metadata, Served], tmp_path: Path
) -> Iterator[Callable[..., AwsCredentials]]:
    http = HttpClient(HostSettings(connect_s=1), NoKeychain(), tries=1)
    service = Service(http, "s3 cache", "check the role")

    def credentials(**variables: str) -> AwsCredentials:
        off = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
        environment = AwsEnvironment(
            {**off, "AWS_ENDPOINT_URL_STS": f"{metadata[1].url}/sts/", **variables},
            service,
            service,
            "eu-central-1",
            lambda: NOW,
        )
        return AwsLogin(environment.sources(), lambda: NOW).credentials()

    yield credentials
    http.close()


def test_the_environment_comes_first(find: Callable[..., AwsCredentials], tmp_path: Path) -> None:
    write(
        tmp_path / ".aws/credentials", "[default]\naws_access_key_id=f\naws_secret_access_key=g\n"
    )
    found = find(
        AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_SESSION_TOKEN="c", AWS_PROFILE="no"
    )
    assert found == AwsCredentials("a", "b", "c")


def test_a_profile_is_read_from_both_files(
    find: Callable[..., AwsCredentials], tmp_path: Path
) -> None:
    write(tmp_path / ".aws/config", "[profile team]\nregion = eu-west-1\naws_access_key_id = x\n")
    write(
        tmp_path / "shared",
        "[default]\naws_access_key_id=d\naws_secret_access_key=e\n"
        "[team]\naws_access_key_id = t\naws_secret_access_key = s%+\n",
    )
    shared = str(tmp_path / "shared")
    assert find(AWS_SHARED_CREDENTIALS_FILE=shared).key_id == "d"
    found = find(AWS_SHARED_CREDENTIALS_FILE=shared, AWS_PROFILE="team")
    assert found == AwsCredentials("t", "s%+")


def test_a_profile_may_assume_a_role(find: Callable[..., AwsCredentials], tmp_path: Path) -> None:
    write(
        tmp_path / ".aws/config",
        "[profile deploy]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = base\n"
        "[profile base]\naws_access_key_id = base\naws_secret_access_key = s\n",
    )
    assert find(AWS_PROFILE="deploy").key_id == "assumed"


def test_a_workload_exchanges_its_token_for_a_role(
    find: Callable[..., AwsCredentials], tmp_path: Path
) -> None:
    write(tmp_path / "token", "a.b.c\n")
    found = find(
        AWS_WEB_IDENTITY_TOKEN_FILE=str(tmp_path / "token"), AWS_ROLE_ARN="arn:aws:iam::1:role/x"
    )
    assert (found.key_id, found.session_token) == ("role", "session")
    with pytest.raises(ConfigError, match="cannot be read"):
        find(AWS_WEB_IDENTITY_TOKEN_FILE=str(tmp_path / "none"), AWS_ROLE_ARN="arn")


def test_a_container_asks_with_its_token(
    find: Callable[..., AwsCredentials], metadata: tuple[Metadata, Served], tmp_path: Path
) -> None:
    write(tmp_path / "pod", "pod-token")
    url = f"{metadata[1].url}/container"
    token = str(tmp_path / "pod")
    found = find(
        AWS_CONTAINER_CREDENTIALS_FULL_URI=url, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=token
    )
    assert found.key_id == "container"
    with pytest.raises(ConfigError, match="without TLS"):
        find(AWS_CONTAINER_CREDENTIALS_FULL_URI="http://attacker.example/")


def test_an_instance_asks_its_metadata_service(
    find: Callable[..., AwsCredentials], metadata: tuple[Metadata, Served]
) -> None:
    found = find(AWS_EC2_METADATA_DISABLED="", AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata[1].url)
    assert found.key_id == "instance"
    assert metadata[0].asked[0] == "PUT /latest/api/token"


def test_without_any_credentials_the_hint_says_where_to_put_them(
    find: Callable[..., AwsCredentials],
) -> None:
    with pytest.raises(AuthError) as caught:
        find()
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_credentials_are_renewed_before_they_expire(metadata: tuple[Metadata, Served]) -> None:
    played, served = metadata
    http = HttpClient(HostSettings(), NoKeychain(), tries=1)
    service, now = Service(http, "", ""), [NOW]
    variables = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": served.url, "HOME": "/nonexistent"}
    environment = AwsEnvironment(variables, service, service, "eu-central-1")
    login = AwsLogin(environment.sources(), lambda: now[0])
    first = login.credentials()
    asked = len(played.asked)
    assert login.credentials() is first and len(played.asked) == asked
    now[0] += timedelta(minutes=56)
    assert login.credentials() is not first
    http.close()


def test_a_profile_that_cannot_be_parsed_is_not_quoted(
    find: Callable[..., AwsCredentials], tmp_path: Path
) -> None:
    write(tmp_path / ".aws/credentials", "aws_secret_access_key = hidden\n")
    with pytest.raises(ConfigError) as caught:
        find()
    assert "hidden" not in repr(caught.value) and "credentials" in caught.value.message


def test_a_key_does_not_show_its_secret() -> None:
    assert KEY.secret not in repr(KEY)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_time_without_a_zone_is_one_of_utc(metadata: tuple[Metadata, Served]) -> None:
    """As containers and STS may give it: `2026-11-29T09:00:00`."""
    body = {"AccessKeyId": "a", "SecretAccessKey": "b", "Expiration": "2026-11-29T09:00:00"}
    http = HttpClient(HostSettings(), NoKeychain(), tries=1)
    with serving(lambda _: (200, {}, json.dumps(body).encode())) as served:
        service = Service(http, "s3 cache", "check the role")
        given = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": served.url, "HOME": "/none"}
        environment = AwsEnvironment(given, service, service, "r", lambda: NOW)
        login = AwsLogin(environment.sources(), lambda: NOW)
        assert login.credentials().expires == datetime(2026, 11, 29, 9, tzinfo=UTC)
        assert login.credentials().key_id == "a" and len(served.requests) == 1
    http.close()


@pytest.mark.parametrize("text", ["a\nb", "\ud800", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_an_error_that_does_not_show_it(text: str) -> None:
    for parts in (("id", text), (text, "secret"), ("id", "secret", text)):
        with pytest.raises(AuthError) as caught:
            AwsCredentials(*parts)
        assert text not in caught.value.message and "line breaks" in caught.value.hint
