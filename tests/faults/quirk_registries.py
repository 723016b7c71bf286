"""Eleven registries as they differ, played by one server in memory.

Clients reach it as their HTTP proxy, so that it has the names of the real ones.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from spec_registry import ranged

from proxy import FaultProxy
from serving import ReceivedRequest, Reply, Served, serving
from shipline.oci import Digest, Manifest, media, parse_manifest
from shipline.registry import Client, Credentials, HostSettings, Proxies, StaticKeychain

USER = Credentials("alice", "correct horse")


@dataclass(frozen=True)
class Quirky:
    """What one registry does otherwise; `host` is its name in references, `server` that of its
    requests. `headers` are those of each response.

    `basic` wants a login instead of tokens; `silent` sends its challenge on /v2/ alone;
    `grants` is how many scopes of a token request count, `refuses` an action that it knows not.
    """

    name: str
    host: str
    server: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    realm: str = "/token"
    service: str = "registry"
    basic: bool = False
    silent: bool = False
    grants: int = 100
    refuses: str = ""
    deletes_need: str = "push"
    chunk: int = 1 << 40
    drops: bool = False
    patch: int = 202
    locations: bool = True
    page: int = 1 << 40
    junk: tuple[object, ...] = ()
    more: dict[str, object] = field(default_factory=dict)
    absent: int = 404
    sizes: bool = True
    referrers: str = "api"
    mounts: bool = True
    posts: bool = False
    deletes: bool = True
    deletes_tags: bool = True
    blobs_at: str = ""
    errors: str = "errors"


HUB_LIMIT = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}
QUIRKY = (
    Quirky(
        "Docker Hub",
        "docker.io",
        "registry-1.docker.io",
        headers=HUB_LIMIT,
        referrers="absent",
        deletes=False,
        errors="details",
    ),
    Quirky(
        "GitHub Container Registry", "ghcr.io", chunk=4 << 20, referrers="elsewhere", deletes=False
    ),
    Quirky(
        "Amazon ECR",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        basic=True,
        drops=True,
        patch=201,
        locations=False,
        page=1000,
        mounts=False,
        deletes=False,
    ),
    Quirky(
        "Google Artifact Registry",
        "europe-docker.pkg.dev",
        silent=True,
        more={"child": [], "manifest": {"sha256:0": {"tag": ["v1"]}}},
    ),
    Quirky(
        "Azure Container Registry", "example.azurecr.io", blobs_at="example.blob.core.windows.net"
    ),
    Quirky(
        "Harbor",
        "harbor.example.com",
        realm="/service/token",
        service="harbor-registry",
        sizes=False,
        deletes_tags=False,
        deletes_need="delete",
        errors="UNKNOWN",
    ),
    Quirky("Quay", "quay.io", realm="/v2/auth", refuses="delete"),
    Quirky(
        "GitLab",
        "gitlab.example.com",
        headers={"Gitlab-Container-Registry-Version": "4.21.0-gitlab"},
        grants=1,
        referrers="absent",
        deletes_need="delete",
    ),
    Quirky(
        "JFrog Artifactory",
        "artifacts.example.com",
        headers={"X-JFrog-Version": "Artifactory/7.111.4"},
        absent=403,
        junk=(f"sha256:{'0' * 64}",),
        basic=True,
    ),
    Quirky(
        "Nexus Repository",
        "nexus.example.com",
        headers={"Server": "Nexus/3.70.1-02 (OSS)"},
        junk=(None,),
        referrers="page",
        basic=True,
    ),
    Quirky("IBM Cloud Container Registry", "icr.io", silent=True, deletes_need="delete"),
    Quirky(
        "shipline registry",
        "node.example.com",
        headers={"Server": "shipline"},
        basic=True,
        posts=True,
    ),
)


class QuirkRegistry:
    def __init__(self, quirky: Quirky) -> None:
        self.quirky = quirky
        self.lock = threading.Lock()
        self.blobs: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = defaultdict(dict)
        self.sessions: dict[str, bytearray] = {}

    @property
    def origin(self) -> str:
        return f"http://{self.quirky.server or self.quirky.host}"

    def respond(self, request: ReceivedRequest) -> Reply:
        if urlsplit(request.target).hostname == self.quirky.blobs_at:
            return self._storage(request)
        status, headers, body = self._respond(request)
        return status, {**self.quirky.headers, **headers}, body

    def _respond(self, request: ReceivedRequest) -> Reply:
        if request.path == self.quirky.realm:
            return self._token(request)
        if request.path == "/v2/":
            return self._unauthorised("")
        for pattern, handler in (
            (r"/v2/(.+)/blobs/uploads/", self._begin),
            (r"/v2/(.+)/blobs/uploads/([0-9]+)", self._session),
            (r"/v2/(.+)/blobs/(sha256:.+)", self._blob),
            (r"/v2/(.+)/manifests/(.+)", self._manifest),
            (r"/v2/(.+)/tags/list", self._tags),
            (r"/v2/(.+)/referrers/(.+)", self._referrers),
        ):
            if found := re.fullmatch(pattern, request.path):
                action = {"GET": "pull", "HEAD": "pull", "DELETE": self.quirky.deletes_need}
                needed = action.get(request.method, "push")
                if "uploads" in request.path:
                    needed = "push"
                if not self._allows(request, found[1], needed):
                    request.all()
                    return self._unauthorised(f"repository:{found[1]}:{needed}")
                return handler(request, *found.groups())
        return self._error(404, "NOT_FOUND")

    def _storage(self, request: ReceivedRequest) -> Reply:
        if "authorization" in request.headers:
            return 400, {}, b"Authentication information is not given in the correct format"
        repository, _, digest = request.path[1:].rpartition("/")
        return ranged(request, self.blobs[repository][digest])

    def _token(self, request: ReceivedRequest) -> Reply:
        scopes = request.query.get("scope", [])[: self.quirky.grants]
        if self.quirky.refuses and any(self.quirky.refuses in scope for scope in scopes):
            return 400, {}, b'{"error":"Unable to decode repository and actions"}'
        token = base64.urlsafe_b64encode(" ".join(scopes).encode()).decode()
        return 200, {}, json.dumps({"token": token or "none"}).encode()

    def _allows(self, request: ReceivedRequest, repository: str, action: str) -> bool:
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        if self.quirky.basic:
            return f"{kind} {value}" == USER.basic
        granted = base64.urlsafe_b64decode(value).decode() if kind == "Bearer" else ""
        return any(
            scope.split(":")[1] == repository and action in scope.split(":")[2].split(",")
            for scope in granted.split()
        )

    def _unauthorised(self, scope: str) -> Reply:
        challenge = f'Bearer realm="{self.origin}{self.quirky.realm}"'
        challenge += f',service="{self.quirky.service}"'
        if self.quirky.basic:
            challenge = 'Basic realm="registry"'
        elif scope:
            challenge += f',scope="{scope}"'
        silent = self.quirky.silent and scope
        return 401, {} if silent else {"WWW-Authenticate": challenge}, b""

    def _begin(self, request: ReceivedRequest, name: str) -> Reply:
        mounted, origin = (request.query.get(key, [""])[0] for key in ("mount", "from"))
        if mounted:
            if not origin:
                return self._error(400, "UNSUPPORTED")
            if not self._allows(request, origin, "pull"):
                return self._unauthorised(f"repository:{origin}:pull")
            if self.quirky.mounts and mounted in self.blobs[origin]:
                self.blobs[name][mounted] = self.blobs[origin][mounted]
                return 201, {"Location": f"/v2/{name}/blobs/{mounted}"}, b""
        (digest,) = request.query.get("digest", [""])
        posted = request.all()
        if digest and self.quirky.posts:
            if str(Digest.of(posted)) != digest:
                return self._error(400, "DIGEST_INVALID")
            self.blobs[name][digest] = posted
            return 201, {"Location": f"/v2/{name}/blobs/{digest}"}, b""
        with self.lock:
            number = str(len(self.sessions) + 1)
            self.sessions[number] = bytearray()
        return 202, {"Location": f"/v2/{name}/blobs/uploads/{number}?_state=a%2Fb"}, b""

    def _session(self, request: ReceivedRequest, name: str, number: str) -> Reply:
        held = self.sessions[number]
        if request.query.get("_state") != ["a/b"]:
            return self._error(404, "BLOB_UPLOAD_UNKNOWN")
        numbered = re.match(r"([0-9]+)-", request.headers.get("content-range", ""))
        if numbered and int(request.headers["content-length"]) > self.quirky.chunk:
            request.all()
            return self._error(416, "exceeds the maximum permissible limit of 4.00MiB")
        dropped = self.quirky.drops and numbered and held
        if numbered and not dropped and int(numbered[1]) != len(held):
            request.all()
            return 416, {}, b""
        for piece in request.body():
            if not dropped:
                held += piece
        if request.method == "PUT":
            digest = request.query["digest"][0]
            if str(Digest.of(bytes(held))) != digest:
                return self._error(400, "DIGEST_INVALID")
            self.blobs[name][digest] = bytes(held)
            return 201, {"Location": f"/v2/{name}/blobs/{digest}"}, b""
        headers = {"Range": f"0-{max(0, len(held) - 1)}"}
        if self.quirky.locations:
            headers["Location"] = request.target
        return self.quirky.patch if request.method == "PATCH" else 204, headers, b""

    def _blob(self, request: ReceivedRequest, name: str, digest: str) -> Reply:
        if digest not in self.blobs[name]:
            return self._error(self.quirky.absent, "BLOB_UNKNOWN")
        if self.quirky.blobs_at and request.method == "GET":
            return 307, {"Location": f"http://{self.quirky.blobs_at}/{name}/{digest}"}, b""
        if request.method == "HEAD" and not self.quirky.sizes:
            return 200, {"Content-Length": ""}, b""
        return ranged(request, self.blobs[name][digest])

    def _manifest(self, request: ReceivedRequest, name: str, reference: str) -> Reply:
        kept = self.manifests[name]
        if request.method == "PUT":
            return self._put_manifest(request, name, reference)
        if reference not in kept:
            status = self.quirky.absent if request.method == "HEAD" else 404
            return self._error(status, "MANIFEST_UNKNOWN")
        if request.method == "DELETE":
            if not self.quirky.deletes or not (self.quirky.deletes_tags or ":" in reference):
                return self._error(405, "UNSUPPORTED")
            content = kept[reference][1]
            for key in [key for key, (_, other) in kept.items() if other == content]:
                if ":" in reference or key == reference:
                    del kept[key]
            return 202, {}, b""
        media_type, content = kept[reference]
        return 200, {"Content-Type": media_type}, content

    def _put_manifest(self, request: ReceivedRequest, name: str, reference: str) -> Reply:
        content, media_type = request.all(), request.headers["content-type"]
        parsed = parse_manifest(content, media_type)
        if isinstance(parsed, Manifest):
            for part in (parsed.config, *parsed.layers):
                if str(part.digest) not in self.blobs[name]:
                    return self._error(400, "MANIFEST_BLOB_UNKNOWN")
        for key in (reference, str(Digest.of(content))):
            self.manifests[name][key] = (media_type, content)
        headers = {"Location": f"/v2/{name}/manifests/{reference}"} if self.quirky.locations else {}
        if parsed.subject is not None and self.quirky.referrers == "api":
            headers["OCI-Subject"] = str(parsed.subject.digest)
        return 201, headers, b""

    def _tags(self, request: ReceivedRequest, name: str) -> Reply:
        count = int(request.query.get("n", ["100"])[0])
        if count > self.quirky.page:
            return self._error(400, "invalid parameter at 'maxResults'")
        last = request.query.get("last", [""])[0]
        tags = sorted(tag for tag in self.manifests[name] if ":" not in tag and tag > last)
        page, rest = tags[:2], tags[2:]  # fewer than asked for, as a server may
        headers = {}
        if rest:
            headers["Link"] = f'</v2/{name}/tags/list?last={page[-1]}&n={count}>; rel="next"'
        document = {"name": name, "tags": [*page, *self.quirky.junk], **self.quirky.more}
        return 200, headers, json.dumps(document).encode()

    def _referrers(self, request: ReceivedRequest, name: str, digest: str) -> Reply:
        if self.quirky.referrers == "elsewhere":
            return 303, {"Location": "https://github.com/-/v2/packages"}, b""
        if self.quirky.referrers == "page":
            return 200, {"Content-Type": "text/html"}, b"<html>"
        if self.quirky.referrers == "absent":
            return self._error(404, "NOT_FOUND")
        found = []
        for key, (media_type, content) in self.manifests[name].items():
            parsed = parse_manifest(content, media_type)
            if (
                key.startswith("sha256:")
                and parsed.subject
                and str(parsed.subject.digest) == digest
            ):
                entry = {"mediaType": media_type, "digest": key, "size": len(content)}
                found.append({**entry, "artifactType": parsed.artifact_type})
        first = int(request.query.get("page", ["0"])[0])
        headers = {"Content-Type": media.OCI_INDEX}
        if first + 1 < len(found):
            headers["Link"] = f'</v2/{name}/referrers/{digest}?page={first + 1}>; rel="next"'
        index = {"schemaVersion": 2, "manifests": found[first : first + 1]}
        return 200, headers, json.dumps({**index, "mediaType": media.OCI_INDEX}).encode()

    def _error(self, status: int, code: str) -> Reply:
        document: dict[str, object] = {"errors": [{"code": code, "message": code.lower()}]}
        if self.quirky.errors == "details":
            document = {"details": code.lower()}
        if self.quirky.errors == "UNKNOWN" and status == 404:
            document = {"errors": [{"code": "UNKNOWN", "message": "not found"}]}
        return status, {}, json.dumps(document).encode()


@contextmanager
def quirk_registry(quirky: Quirky) -> Iterator[tuple[QuirkRegistry, FaultProxy, Served]]:
    """The registry, and the proxy through which clients reach it."""
    registry = QuirkRegistry(quirky)
    with serving(registry.respond) as served, FaultProxy(served.port) as proxy:
        yield registry, proxy, served


def client_of(registry: QuirkRegistry, proxy: FaultProxy) -> Client:
    quirky = registry.quirky
    settings = HostSettings(
        insecure=frozenset({quirky.server or quirky.host}),
        proxies=Proxies(http=f"http://127.0.0.1:{proxy.port}"),
    )
    return Client(settings, StaticKeychain({quirky.host: USER}))
