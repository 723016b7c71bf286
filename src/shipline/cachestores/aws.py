"""AWS: Signature Version 4, and the credentials to sign with, found where its SDKs find them.

Sources, in this order: parameters, environment, web identity, shared profile files, container and
instance metadata ("AWS SDKs and Tools Reference Guide", "Standardized credential providers").
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlencode

from shipline.cachestores.service import Clock, Service, element, json_object, small_file, utc_now
from shipline.errors import AuthError, ConfigError, RegistryError
from shipline.net import is_loopback
from shipline.registry.request import ClientRequest, Url
from shipline.values import replace

_PRINTABLE = re.compile(r"[ -~]*\Z")
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_EARLY = timedelta(minutes=5)  # before they expire, credentials are fetched again
_CONTAINERS = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23")  # of ECS, of EKS
_METADATA = "http://169.254.169.254"


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """A key to sign with; `expires` is None for one that stays valid."""

    key_id: str
    secret: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    expires: datetime | None = None

    def __post_init__(self) -> None:
        """Raises AuthError for what cannot be signed with, or sent."""
        if not _PRINTABLE.match(f"{self.key_id}{self.secret}{self.session_token}"):
            raise AuthError(
                "the AWS credentials have characters that no key has",
                code="cloud-credentials",
                host="",
                hint="check the key, its secret and the session token for line breaks",
            )


def sign(
    request: ClientRequest, credentials: AwsCredentials, *, region: str, service: str, now: datetime
) -> ClientRequest:
    """The request with its signature. The body is signed unless TLS protects it already.

    The target of the URL must be escaped as it is signed: each byte but `A-Za-z0-9-._~`, and in a
    path the slash (AWS, "Create a signed AWS API request").
    """
    assert isinstance(request.body, bytes)
    timestamp, day = f"{now:%Y%m%dT%H%M%SZ}", f"{now:%Y%m%d}"
    payload = UNSIGNED_PAYLOAD
    if request.url.origin.scheme != "https" or service != "s3":
        payload = hashlib.sha256(request.body).hexdigest()
    headers = {"x-amz-date": timestamp, "x-amz-content-sha256": payload}
    if credentials.session_token:
        headers["x-amz-security-token"] = credentials.session_token
    signed = {name.lower(): text for name, text in {**request.headers, **headers}.items()}
    signed = {name: text for name, text in signed.items() if name.startswith("x-amz-")}
    signed["host"] = request.url.origin.authority
    names = sorted(signed)
    path, _, query = request.url.target.partition("?")
    canonical = "\n".join(
        (
            request.method,
            path,
            "&".join(sorted(filter(None, query.split("&")), key=_name_and_value)),
            *(f"{name}:{signed[name].strip()}" for name in names),
            "",
            ";".join(names),
            payload,
        )
    )
    scope = f"{day}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{credentials.secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key_id}/{scope}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return replace(request, headers={**request.headers, **headers, "Authorization": authorization})


def _name_and_value(pair: str) -> tuple[str, str]:
    name, _, value = pair.partition("=")
    return name, value


def escape(text: str, safe: str = "") -> str:
    """Percent-encoded as it is signed."""
    return quote(text, safe=f"{safe}-._~")


Source = Callable[[], AwsCredentials | None]


class AwsLogin:
    """The credentials of the first source that has some, renewed before they expire.

    Safe to use from any thread.
    """

    def __init__(self, sources: Iterator[Source], clock: Clock = utc_now) -> None:
        self._sources = tuple(sources)
        self._clock = clock
        self._lock = threading.Lock()
        self._current: AwsCredentials | None = None

    def credentials(self) -> AwsCredentials:
        """Raises AuthError if no source has credentials."""
        with self._lock:
            current = self._current
            if current is None or (
                current.expires is not None and current.expires - self._clock() < _EARLY
            ):
                current = self._current = self._find()
            return current

    def _find(self) -> AwsCredentials:
        for source in self._sources:
            found = source()
            if found is not None:
                return found
        raise AuthError(
            "no AWS credentials were found",
            code="cloud-credentials",
            host="",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; a profile that "
            "uses SSO or a credential process is read with `aws configure export-credentials`",
        )


@dataclass(frozen=True, slots=True)
class AwsEnvironment:
    """What the sources read: variables, the services to ask, the region of STS.

    `metadata` is asked without a proxy and without patience.
    """

    variables: Mapping[str, str] = field(repr=False)
    service: Service
    metadata: Service
    region: str
    clock: Clock = utc_now

    def sources(self) -> Iterator[Source]:
        yield partial(_of_mapping, self.variables, *_VARIABLES)
        yield self._web_identity
        yield partial(self._profile, self.variables.get("AWS_PROFILE") or "default")
        yield self._container
        yield self._instance

    def _web_identity(self) -> AwsCredentials | None:
        file = self.variables.get("AWS_WEB_IDENTITY_TOKEN_FILE")
        role = self.variables.get("AWS_ROLE_ARN")
        if not file or not role:
            return None
        return self._assume_with_token(file, role, self.variables.get("AWS_ROLE_SESSION_NAME"))

    def _assume_with_token(self, file: str, role: str, session: str | None) -> AwsCredentials:
        form = {
            "Action": "AssumeRoleWithWebIdentity",
            "RoleArn": role,
            "WebIdentityToken": small_file(Path(file)),
        }
        return self._ask_sts(self.service, form, session)

    def _ask_sts(
        self, service: Service, form: Mapping[str, str], session: str | None
    ) -> AwsCredentials:
        endpoint = self.variables.get("AWS_ENDPOINT_URL_STS")
        suffix = domain(self.region)
        url = Url.parse(endpoint or f"https://sts.{self.region}.{suffix}/")
        full = {**form, "Version": "2011-06-15", "RoleSessionName": session or "shipline"}
        _, body = service.finish(
            "POST",
            url,
            expect={200},
            operation=f"assuming the role {form['RoleArn']}",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(full).encode(),
        )
        names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        return _of_fields({name: element(name, body) for name in names}, "STS")

    def _profile(self, name: str) -> AwsCredentials | None:
        profile = profile_of(self.variables, name)
        found = _of_mapping(profile, *(key.lower() for key in _VARIABLES))
        role = profile.get("role_arn")
        if not role:
            return found
        session = profile.get("role_session_name")
        if file := profile.get("web_identity_token_file"):
            return self._assume_with_token(file, role, session)
        source = profile.get("source_profile", "")
        if source and source != name:
            found = self._profile(source)
        if found is None:
            return None
        form = {"Action": "AssumeRole", "RoleArn": role}
        if external := profile.get("external_id"):
            form["ExternalId"] = external
        signer = partial(sign_now, found, self.region, "sts", self.clock)
        return self._ask_sts(replace(self.service, sign=signer), form, session)

    def _container(self) -> AwsCredentials | None:
        relative = self.variables.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        full = self.variables.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        if not relative and not full:
            return None
        url = Url.parse(f"http://{_CONTAINERS[0]}{relative}" if relative else full or "")
        host = url.origin.host
        if url.origin.scheme != "https" and host not in _CONTAINERS and not is_loopback(host):
            raise ConfigError(
                f"AWS_CONTAINER_CREDENTIALS_FULL_URI points to {host} without TLS",
                code="cloud-credentials",
                hint="the token is sent over https or to this machine only",
            )
        token = self.variables.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        if file := self.variables.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
            token = small_file(Path(file))
        headers = {"Authorization": token} if token else {}
        _, body = self.metadata.finish(
            "GET", url, expect={200}, operation="asking for a role's key", headers=headers
        )
        return _of_fields(json_object(body), host)

    def _instance(self) -> AwsCredentials | None:
        """The instance metadata service, version 2; None off EC2."""
        if self.variables.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            return None
        base = self.variables.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _METADATA
        root = base.rstrip("/")
        ask = partial(self.metadata.finish, operation="asking the instance metadata")
        seconds = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
        try:
            token_url = Url.parse(f"{root}/latest/api/token")
            _, token = ask("PUT", token_url, expect={200}, headers=seconds)
        except (RegistryError, AuthError):
            return None  # not on EC2
        headers = {"X-aws-ec2-metadata-token": token.decode("ascii", "replace")}
        roles = f"{root}/latest/meta-data/iam/security-credentials/"
        status, listed = ask("GET", Url.parse(roles), expect={200, 404}, headers=headers)
        role = listed.decode("utf-8", "replace").strip().partition("\n")[0]
        if status == 404 or not role:
            return None
        _, body = ask("GET", Url.parse(roles + escape(role)), expect={200}, headers=headers)
        return _of_fields(json_object(body), "the instance metadata")


_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def sign_now(
    credentials: AwsCredentials, region: str, service: str, clock: Clock, request: ClientRequest
) -> ClientRequest:
    """Sign with the time of `clock`."""
    return sign(request, credentials, region=region, service=service, now=clock())


def domain(region: str) -> str:
    """The domain of the services of a region's partition."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def profile_of(variables: Mapping[str, str], name: str) -> Mapping[str, str]:
    """A profile of the shared files; that of credentials wins. Empty if there is none."""
    home = Path(variables.get("HOME") or "~").expanduser() / ".aws"
    config = Path(variables.get("AWS_CONFIG_FILE") or home / "config")
    shared = Path(variables.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials")
    section = name if name == "default" else f"profile {name}"
    return {**_section(config, section), **_section(shared, name)}


def _section(file: Path, name: str) -> Mapping[str, str]:
    from configparser import Error, RawConfigParser

    parser: RawConfigParser = RawConfigParser(strict=False, default_section="")
    try:
        parser.read(file, encoding="utf-8")
    except (OSError, UnicodeDecodeError, Error) as error:
        reason = type(error).__name__  # the text of a parser's error repeats the line
        raise ConfigError(f"{file} cannot be read: {reason}", code="file-unreadable") from None
    return dict(parser[name]) if parser.has_section(name) else {}


def _of_mapping(
    mapping: Mapping[str, str], key_id: str, secret: str, token: str
) -> AwsCredentials | None:
    if not mapping.get(key_id) or not mapping.get(secret):
        return None
    return AwsCredentials(mapping[key_id], mapping[secret], mapping.get(token, ""))


def _of_fields(fields: Mapping[str, object], where: str) -> AwsCredentials:
    def text(name: str) -> str:
        found = fields.get(name)
        return found if isinstance(found, str) else ""

    key_id, secret = text("AccessKeyId"), text("SecretAccessKey")
    if not key_id or not secret:
        raise AuthError(f"{where} returned no AWS credentials", code="cloud-credentials", host="")
    expires = None
    with suppress(ValueError):
        expires = datetime.fromisoformat(text("Expiration").replace("Z", "+00:00"))
        expires = expires if expires.tzinfo else expires.replace(tzinfo=UTC)
    token = text("SessionToken") or text("Token")
    return AwsCredentials(key_id, secret, token, expires)
