"""From `type=...` and its attributes to a cache store: the names are BuildKit's and buildx's."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from posixpath import normpath

from shipline.cachestores import aws, azblob, azure, gha, s3
from shipline.cachestores.objects import ObjectCache, ObjectKeys
from shipline.cachestores.service import Service, Sign, utc_now
from shipline.cachestores.unusable import InvalidCacheAttributes, UnusableCache
from shipline.content.cache_store import CacheStore
from shipline.errors import AuthError, ConfigError, RegistryError, UsageError
from shipline.registry import Client, NoKeychain, Proxies
from shipline.registry.http import HttpClient
from shipline.registry.request import ClientRequest, Url
from shipline.units import Duration, parse_boolean
from shipline.values import replace

_OF_ALL = {"mode", "ignore-error"}  # of the export itself, whatever the store
_OF_OBJECTS = {"name", "prefix", "blobs_prefix", "manifests_prefix", "secret_access_key"}
_KNOWN = {
    "gha": {"url", "url_v2", "token", "scope", "timeout", "version", "ghtoken", "repository"},
    "s3": {
        *_OF_OBJECTS,
        *("bucket", "region", "endpoint_url", "access_key_id", "session_token", "use_path_style"),
        *("touch_refresh", "upload_parallelism", "retry_mode", "retry_max_attempts"),
        "disable_accept_encoding",
    },
    "azblob": {*_OF_OBJECTS, "account_url", "account_name", "container", "sas"},
}
KINDS = frozenset(_KNOWN)
_METADATA_CONNECT_S, _METADATA_READ_S = 1.0, 5.0


def open_store(
    kind: str, attributes: Mapping[str, str], *, client: Client, variables: Mapping[str, str]
) -> CacheStore:
    """The cache that `attributes` name, of a type in `KINDS`; `variables` are the environment's.

    Makes no request; the store is used while `client` is open. Raises UsageError for attributes
    that do not exist or cannot be used. A store without the token that it needs raises AuthError
    whenever it is used: a build outside of GitHub Actions continues without its gha cache.
    """
    given = _Attributes(kind, attributes, variables)
    try:
        return {"gha": _open_gha, "s3": _open_s3, "azblob": _open_azblob}[kind](given, client)
    except (AuthError, ConfigError) as error:
        return UnusableCache(error)


@dataclass(frozen=True, slots=True)
class _Attributes:
    """Attributes, and the variables that stand in for those that are not given."""

    kind: str
    given: Mapping[str, str] = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        known = _KNOWN[self.kind] | _OF_ALL
        for name in self.given:
            if name not in known:
                raise InvalidCacheAttributes(
                    f"a cache of type={self.kind} has no {name}=",
                    hint=f"it has {', '.join(sorted(known))}",
                )
            if not self.given[name].isprintable():
                raise self.unusable(name, "it has line breaks, or bytes that are not UTF-8")

    def text(self, name: str, default: str = "", *, variable: str = "") -> str:
        if name in self.given:
            return self.given[name]
        return self.variables.get(variable, "") or default

    def required(self, name: str, *variables: str) -> str:
        found = (self.variables.get(one) for one in variables)
        text = self.given.get(name) or next(filter(None, found), "")
        if not text:
            ways = f"{name}= or {variables[0]}" if variables else f"{name}="
            raise InvalidCacheAttributes(f"a cache of type={self.kind} needs {ways}")
        return text

    def true(self, name: str) -> bool:
        if (value := parse_boolean(self.text(name, "false"))) is None:
            raise self.unusable(name, "it is true or false")
        return value

    def seconds(self, name: str, default: str) -> float:
        try:
            return Duration.parse(self.text(name, default)).seconds
        except ValueError as error:
            raise self.unusable(name, str(error)) from None

    def count(self, name: str, default: int) -> int:
        text = self.text(name, str(default))
        if not text.isdecimal() or not 1 <= int(text) <= 1000:
            raise self.unusable(name, "it is a number from 1 to 1000")
        return int(text)

    def url(self, name: str, text: str) -> Url:
        try:
            return Url.parse(text)
        except RegistryError as error:
            raise self.unusable(name, error.message) from None

    def names(self) -> tuple[str, ...]:
        return tuple(filter(None, self.text("name", "buildkit").split(";"))) or ("buildkit",)

    def unusable(self, name: str, reason: str) -> UsageError:
        return InvalidCacheAttributes(f"type={self.kind},{name}= cannot be used: {reason}")


def _metadata(client: Client, name: str) -> Service:
    """For services of the machine itself: no proxy, no patience where there is none."""
    settings = replace(
        client.settings, proxies=Proxies(), connect_s=_METADATA_CONNECT_S, read_s=_METADATA_READ_S
    )
    http = HttpClient(settings, NoKeychain(), tries=1)
    return Service(http, name, "", sign=_once)


def _once(request: ClientRequest) -> ClientRequest:
    return replace(request, headers={**request.headers, "Connection": "close"})


def _open_gha(given: _Attributes, client: Client) -> CacheStore:
    scope = given.text("scope", "buildkit")
    name = f"gha cache {scope}"
    token = given.text("token", variable="ACTIONS_RUNTIME_TOKEN")
    url = given.text("url_v2", variable="ACTIONS_RESULTS_URL") or given.text("url")
    if given.text("version", "2") != "2":
        raise given.unusable("version", "only version 2 of the cache service is spoken")
    if not token or not url:
        missing = "ACTIONS_RUNTIME_TOKEN" if not token else "ACTIONS_RESULTS_URL"
        raise AuthError(
            f"{name}: {missing} is not set",
            code="cloud-credentials",
            host="",
            hint="outside of GitHub Actions there is no such cache; a `run:` step sees these "
            "variables if an action has exported them",
        )
    parsed = gha.ActionsToken.parse(token, time.time())
    denied = "the token is that of another job, has expired, or may not write this branch's cache"
    service = Service(client.http, name, denied)
    actions = gha.ActionsService(service, given.url("url_v2", url), parsed)
    keys = None
    repository = given.text("repository", variable="GITHUB_REPOSITORY")
    if given.text("ghtoken") and repository:
        api = given.url("url", given.text("", "https://api.github.com", variable="GITHUB_API_URL"))
        listing = replace(service, sign=partial(_bear, given.text("ghtoken")))
        keys = partial(gha.list_keys, listing, api, repository, parsed)
    return gha.ActionsCache(
        actions, parsed, scope, timeout_s=given.seconds("timeout", "10m"), keys=keys
    )


def _bear(token: str, request: ClientRequest) -> ClientRequest:
    return request.with_authorization(f"Bearer {token}")


def _open_s3(given: _Attributes, client: Client) -> CacheStore:
    bucket = given.required("bucket", "AWS_BUCKET")
    profile = aws.profile_of(given.variables, given.variables.get("AWS_PROFILE") or "default")
    variables = {"AWS_PROFILE_REGION": profile.get("region", ""), **given.variables}
    region = replace(given, variables=variables).required(
        "region", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE_REGION"
    )
    endpoint = given.text("endpoint_url", variable="AWS_ENDPOINT_URL_S3")
    name = f"s3 cache {bucket}"
    denied = "check the credentials, and that they allow s3:GetObject, s3:PutObject and, to tell "
    denied += "what is absent from what is forbidden, s3:ListBucket"
    plain = Service(client.http, name, denied)
    service = replace(plain, sign=_aws_signer(given, plain, client, region))
    try:
        url = s3.bucket_url(
            bucket,
            region,
            endpoint or given.variables.get("AWS_ENDPOINT_URL", ""),
            aws.domain(region),
            path_style=given.true("use_path_style"),
        )
    except RegistryError as error:
        raise given.unusable("endpoint_url" if endpoint else "bucket", error.message) from None
    prefix = given.text("prefix")
    manifests = prefix + given.text("manifests_prefix", "manifests/")
    layout = ObjectKeys(
        prefix + given.text("blobs_prefix", "blobs/"),
        tuple(manifests + one for one in given.names()),
        timedelta(seconds=given.seconds("touch_refresh", "24h")),
    )
    at_once = given.count("upload_parallelism", 4)
    return ObjectCache(s3.S3Api(service, url, bucket, at_once), layout)


def _aws_signer(given: _Attributes, plain: Service, client: Client, region: str) -> Sign:
    key_id, secret, token = map(given.text, ("access_key_id", "secret_access_key", "session_token"))
    if (key_id or secret or token) and not (key_id and secret):  # the environment has the rest
        key_id = given.text("access_key_id", variable="AWS_ACCESS_KEY_ID")
        secret = given.text("secret_access_key", variable="AWS_SECRET_ACCESS_KEY")
        token = given.text("session_token", variable="AWS_SESSION_TOKEN")
    if bool(key_id) != bool(secret):
        lacking = "secret_access_key" if key_id else "access_key_id"
        raise InvalidCacheAttributes(
            f"a cache of type=s3 needs both parts of a key: {lacking}= is missing",
        )
    if key_id:
        fixed = aws.AwsCredentials(key_id, secret, token)
        login = aws.AwsLogin(iter((lambda: fixed,)))
    else:
        environment = aws.AwsEnvironment(
            given.variables, plain, _metadata(client, plain.name), region
        )
        login = aws.AwsLogin(environment.sources())

    def sign(request: ClientRequest) -> ClientRequest:
        return aws.sign(request, login.credentials(), region=region, service="s3", now=utc_now())

    return sign


def _open_azblob(given: _Attributes, client: Client) -> CacheStore:
    text = given.required("account_url", "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL")
    base, _, query = text.partition("?")
    account_url = given.url("account_url", base)
    host = account_url.origin.host
    account = given.text(
        "account_name", host.partition(".")[0], variable="BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME"
    )
    container = given.text(
        "container", "buildkit-cache", variable="BUILDKIT_AZURE_STORAGE_CONTAINER"
    )
    name = f"azblob cache {account}/{container}"
    denied = "check the key, the signature or the role (Storage Blob Data Contributor), "
    denied += "and that it has not expired"
    plain = Service(client.http, name, denied)
    sas = given.text("sas", query).removeprefix("?")
    service = replace(plain, sign=_azure_signer(given, plain, client, account, sas))
    root = replace(account_url, target=f"{account_url.path.rstrip('/')}/{container}")
    prefix = given.text("prefix", variable="BUILDKIT_AZURE_STORAGE_PREFIX")
    layout = ObjectKeys(
        _joined(prefix, given.text("blobs_prefix", "blobs")) + "/",
        tuple(
            _joined(prefix, given.text("manifests_prefix", "manifests"), one)
            for one in given.names()
        ),
    )
    return ObjectCache(azblob.AzureApi(service, root), layout)


def _azure_signer(
    given: _Attributes, plain: Service, client: Client, account: str, sas: str
) -> Sign:
    secret = given.text("secret_access_key")
    if secret:
        try:
            key = base64.b64decode(secret, validate=True)
        except ValueError:
            raise given.unusable("secret_access_key", "it is not base64") from None
        return lambda request: azblob.sign_shared_key(account, key, utc_now(), request)
    if sas:
        return partial(azblob.sign_with_query, sas)
    environment = azure.AzureEnvironment(given.variables, plain, _metadata(client, plain.name))
    return azure.AzureLogin(environment.sources()).sign


def _joined(*parts: str) -> str:
    """Like Go's path.Join, with which BuildKit makes the names."""
    return normpath("/".join(filter(None, parts)))
