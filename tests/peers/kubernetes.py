"""A small API server of Kubernetes: what a builder needs of it, on loopback.

It keeps deployments, stateful sets, config maps, claims and pods, checks them with Kubernetes' own
schema, and does the work of controllers, scheduler and kubelet as far as it shows in `status`. A
new template is rolled out: the old pods go once the new ones are ready. Daemon sets, rollouts and
their pods are as a test puts them into `objects`. A command that runs in a pod is a program of this
machine, over WebSockets.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes_validate
from aiohttp import WSMsgType, web

from peers import buildkit_relay
from peers.kubernetes_protobuf import read_object

Object = dict[str, Any]

_VERSION = "1.33"
_KINDS = {
    "deployments": ("apps/v1", "Deployment"),
    "statefulsets": ("apps/v1", "StatefulSet"),
    "daemonsets": ("apps/v1", "DaemonSet"),
    "rollouts": ("argoproj.io/v1alpha1", "Rollout"),
    "configmaps": ("v1", "ConfigMap"),
    "persistentvolumeclaims": ("v1", "PersistentVolumeClaim"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
}
_WORKLOADS = ("deployments", "statefulsets")
_FLAGS = ("--debug", "--oci-worker-no-process-sandbox", "--allow-insecure-entitlement", "--config")


class _Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass
class KubernetesApi:
    """The server. `images` can be pulled, and are shown as `resolved`; `node` has the labels of the
    only node, `cpus` its processors; `quota` is the most pods that a namespace may have. A rollout
    that takes longer than `deadline_s` exceeds its deadline. `commands` maps what is run in pods to
    programs here. `refused` has what nobody may do, as `create pods/exec`.
    """

    url: str = ""
    ca: Path | None = None
    tokens: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    resolved: dict[str, str] = field(default_factory=dict)
    node: dict[str, str] = field(default_factory=lambda: {"kubernetes.io/arch": "amd64"})
    cpus: int = 4
    quota: int = 10
    commands: dict[str, list[str]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    protocols: tuple[str, ...] = ("v5.channel.k8s.io", "v4.channel.k8s.io")
    ready_after_s: float = 0.2
    deadline_s: float = 600.0
    busy: int = 0
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    executed: list[tuple[str, str]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    running: set[asyncio.subprocess.Process] = field(default_factory=set)

    def of(self, kind: str, namespace: str = "default") -> list[Object]:
        """The objects of a kind, by name."""
        found = [one for (k, n, _), one in self.objects.items() if (k, n) == (kind, namespace)]
        return sorted(found, key=lambda one: str(one["metadata"]["name"]))

    def kubeconfig(self, path: Path, user: Object, namespace: str = "") -> Path:
        """A file with this cluster and a user, as the current context."""
        cluster: Object = {"server": self.url}
        if self.ca is not None:
            cluster["certificate-authority-data"] = base64.b64encode(self.ca.read_bytes()).decode()
        context = {"cluster": "here", "user": "tester"}
        context |= {"namespace": namespace} if namespace else {}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "tester", "user": user}],
            "contexts": [{"name": "test", "context": context}],
        }
        path.write_text(json.dumps(document))
        return path

    def end_commands(self) -> None:
        """Kill what runs in pods."""
        for process in list(self.running):
            with suppress(ProcessLookupError):
                process.kill()


@contextmanager
def kubernetes_api(
    server: tuple[Path, Path] | None = None, clients: Path | None = None, **options: Any
) -> Iterator[KubernetesApi]:
    """The server inside the block: with a certificate and its key, over TLS; `clients` is the
    authority of client certificates.
    """
    api = KubernetesApi(**options)
    context = None
    if server is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*server)
        api.ca = server[0]
        if clients is not None:
            context.load_verify_locations(clients)
            context.verify_mode = ssl.CERT_OPTIONAL
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> web.AppRunner:
        application = web.Application(client_max_size=8 << 20)
        application.router.add_route("*", "/{path:.*}", _Requests(api).handle)
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        scheme = "https" if context else "http"
        api.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    try:
        yield api
    finally:
        loop.call_soon_threadsafe(api.end_commands)
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


def buildkit_commands(socket: str) -> dict[str, list[str]]:
    """The command that leads to the BuildKit of the engine at a socket."""
    script = str(Path(buildkit_relay.__file__))
    return {"buildctl dial-stdio": [sys.executable, script, socket]}


class _Requests:
    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self._api.requests.append(f"{request.method} {request.rel_url}")
        try:
            self._authenticate(request)
            if self._api.busy > 0:
                self._api.busy -= 1
                raise _Refused(429, "TooManyRequests", "the server is busy")
            return await self._route(request)
        except _Refused as refused:
            document = {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": refused.message,
                "reason": refused.reason,
                "code": refused.status,
            }
            headers = {"Retry-After": "0"} if refused.status == 429 else {}
            return web.json_response(document, status=refused.status, headers=headers)

    def _authenticate(self, request: web.Request) -> None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind == "Bearer" and token in self._api.tokens:
            return
        if request.transport is not None and request.transport.get_extra_info("peercert"):
            return
        if self._api.tokens or self._api.ca is not None:
            raise _Refused(401, "Unauthorized", "Unauthorized")

    async def _route(self, request: web.Request) -> web.StreamResponse:
        parts = request.match_info["path"].strip("/").split("/")
        if "namespaces" not in parts:
            return web.json_response(_discovery("/".join(parts)))
        at = parts.index("namespaces")
        namespace, kind, *rest = parts[at + 1 :]
        name, part = (*rest, "", "")[:2]
        if kind not in _KINDS or "/".join(parts[:at]) != _prefix(kind):
            raise _Refused(404, "NotFound", "the server could not find the requested resource")
        verb = {"GET": "get" if name else "list", "POST": "create", "PUT": "update"}
        self._allow(verb.get(request.method, request.method.lower()), kind, part, namespace)
        if part == "exec":
            return await self._exec(request, self._find(kind, namespace, name))
        if part == "log":
            pod = self._find(kind, namespace, name)
            return web.Response(text=str(pod.get("_log", "")))
        _reconcile(self._api)
        body = _body(request, await request.read())
        found = self._apply(request, kind, namespace, name, body)
        _reconcile(self._api)
        return web.json_response(found, status=201 if request.method == "POST" else 200)

    def _allow(self, verb: str, kind: str, part: str, namespace: str) -> None:
        resource = f"{kind}/{part}" if part else kind
        verb = "create" if part == "exec" else verb
        if f"{verb} {resource}" in self._api.refused:
            message = (
                f'{resource} is forbidden: User "tester" cannot {verb} resource "{resource}" in API'
                f' group "" in the namespace "{namespace}"'
            )
            raise _Refused(403, "Forbidden", message)

    def _find(self, kind: str, namespace: str, name: str) -> Object:
        try:
            return self._api.objects[kind, namespace, name]
        except KeyError:
            raise _Refused(404, "NotFound", f'{kind} "{name}" not found') from None

    def _apply(
        self, request: web.Request, kind: str, namespace: str, name: str, body: Object
    ) -> Object:
        objects = self._api.objects
        match request.method:
            case "GET" if not name:
                items = [
                    _shown(one) for one in self._api.of(kind, namespace) if _selected(request, one)
                ]
                version, singular = _KINDS[kind]
                return {"apiVersion": version, "kind": f"{singular}List", "items": items}
            case "GET":
                return _shown(self._find(kind, namespace, name))
            case "POST":
                name = str(body.get("metadata", {}).get("name", ""))
                if (kind, namespace, name) in objects:
                    raise _Refused(409, "AlreadyExists", f'{kind} "{name}" already exists')
                body["metadata"] |= {"namespace": namespace, "uid": secrets.token_hex(8)}
                body["metadata"] |= {"generation": 1} if kind in _WORKLOADS else {}
                objects[kind, namespace, name] = self._checked(kind, body)
            case "PUT":
                old = self._find(kind, namespace, name)
                objects[kind, namespace, name] = _counted(old, self._checked(kind, body))
            case "PATCH":
                assert request.content_type == "application/merge-patch+json"
                old = self._find(kind, namespace, name)
                merged = self._checked(kind, _merged(_shown(old), body))
                objects[kind, namespace, name] = _counted(old, merged)
            case "DELETE":
                self._find(kind, namespace, name)
                del objects[kind, namespace, name]
                return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return objects[kind, namespace, name]

    def _checked(self, kind: str, body: Object) -> Object:
        """The object, if Kubernetes' schema allows it."""
        version, singular = _KINDS[kind]
        body = {"apiVersion": version, "kind": singular, **body}
        if (body["apiVersion"], body["kind"]) != (version, singular):
            raise _Refused(400, "BadRequest", "the object provided is unrecognized")
        try:
            kubernetes_validate.validate(_without_nulls(body), _VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise _Refused(422, "Invalid", f"{singular} is invalid: {error.message}") from None
        if kind in _WORKLOADS:
            labels = body["spec"]["template"]["metadata"]["labels"].items()
            if not body["spec"]["selector"]["matchLabels"].items() <= labels:
                raise _Refused(422, "Invalid", "`selector` does not match template `labels`")
        return body

    async def _exec(self, request: web.Request, pod: Object) -> web.StreamResponse:
        command = request.query.getall("command", [])
        containers = [one["name"] for one in pod["spec"]["containers"]]
        if request.query.get("container", containers[0]) not in containers:
            raise _Refused(400, "BadRequest", "container not found in pod")
        socket = web.WebSocketResponse(protocols=self._api.protocols)
        if not socket.can_prepare(request).ok:
            raise _Refused(400, "BadRequest", "unable to upgrade: upgrade request required")
        await socket.prepare(request)
        self._api.executed.append((pod["metadata"]["name"], " ".join(command)))
        argv = self._api.commands.get(" ".join(command))
        if argv is None:
            message = f'exec: "{command[0]}": executable file not found in $PATH'
            await socket.send_bytes(b"\3" + _failure(message))
            await socket.close()
            return socket
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._api.running.add(process)
        try:
            await _attach(socket, process)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            self._api.running.discard(process)
        return socket


async def _attach(socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    """Channels of the WebSocket to the streams of a process, until either ends."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None

    async def give(channel: int, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(1 << 15):
            await socket.send_bytes(bytes((channel,)) + data)

    async def take() -> None:
        assert process.stdin is not None
        async for message in socket:
            if message.type is not WSMsgType.BINARY:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == 0:
                process.stdin.write(data)
                await process.stdin.drain()
            elif channel == 255 and socket.ws_protocol == "v5.channel.k8s.io":
                process.stdin.close()

    async def run() -> None:
        await asyncio.gather(give(1, process.stdout), give(2, process.stderr))  # type: ignore[arg-type]
        status = await process.wait()
        message = f"command terminated with exit code {status}"
        good = json.dumps({"metadata": {}, "status": "Success"}).encode()
        await socket.send_bytes(b"\3" + (_failure(message) if status else good))
        await socket.close()

    taking, running = asyncio.ensure_future(take()), asyncio.ensure_future(run())
    await asyncio.wait({taking, running}, return_when=asyncio.FIRST_COMPLETED)
    if running.done() and not taking.done():
        await asyncio.wait({taking}, timeout=1)
    for task in (taking, running):
        task.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await task


def _body(request: web.Request, raw: bytes) -> Object:
    if request.method == "DELETE" or not raw:
        return {}
    if request.content_type == "application/vnd.kubernetes.protobuf":
        return read_object(raw)
    found: Object = json.loads(raw)
    return found


def _failure(message: str) -> bytes:
    return json.dumps({"metadata": {}, "status": "Failure", "message": message}).encode()


def _prefix(kind: str) -> str:
    version, _ = _KINDS[kind]
    return f"apis/{version}" if "/" in version else f"api/{version}"


def _discovery(path: str) -> Object:
    """What a client reads to learn which kinds there are."""
    if path == "version":
        return {"major": "1", "minor": "33", "gitVersion": f"v{_VERSION}.0"}
    if path == "api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "apis":
        apps = {"groupVersion": "apps/v1", "version": "v1"}
        group = {"name": "apps", "versions": [apps], "preferredVersion": apps}
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}
    resources = [
        {"name": kind, "singularName": "", "namespaced": True, "kind": singular, "verbs": ["get"]}
        for kind, (_, singular) in _KINDS.items()
        if _prefix(kind) == path
    ]
    if not resources:
        raise _Refused(404, "NotFound", "the server could not find the requested resource")
    version = path.removeprefix("apis/").removeprefix("api/")
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def _shown(one: Object) -> Object:
    return {key: value for key, value in one.items() if not key.startswith("_")}


def _selected(request: web.Request, one: Object) -> bool:
    metadata = one["metadata"]
    for pair in filter(None, request.query.get("labelSelector", "").split(",")):
        key, _, value = pair.partition("=")
        if (metadata.get("labels") or {}).get(key) != value:
            return False
    for pair in filter(None, request.query.get("fieldSelector", "").split(",")):
        path, _, value = pair.partition("=")
        found: Any = one
        for key in path.split("."):
            found = (found or {}).get(key)
        if found != value:
            return False
    return True


def _merged(old: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    found = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _merged(found.get(key), value)
    return found


def _counted(old: Object, new: Object) -> Object:
    """With the generation that a change of `spec` makes."""
    if "generation" in old["metadata"]:
        changed = old["spec"] != new["spec"]
        new["metadata"]["generation"] = old["metadata"]["generation"] + changed
    return new


def _without_nulls(value: Any) -> Any:
    """Go's clients send `creationTimestamp: null`."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


def _reconcile(api: KubernetesApi) -> None:
    """What the controllers would have done by now."""
    owners = {
        (namespace, name): (kind, one)
        for (kind, namespace, name), one in api.objects.items()
        if kind in _WORKLOADS
    }
    for key, pod in list(api.objects.items()):
        if key[0] == "pods" and "_owner" in pod and (key[1], pod["_owner"]) not in owners:
            del api.objects[key]
    for (namespace, name), (kind, one) in owners.items():
        _scale(api, kind, namespace, name, one)


def _scale(api: KubernetesApi, kind: str, namespace: str, name: str, one: Object) -> None:
    spec = one["spec"]
    pods = [pod for pod in api.of("pods", namespace) if pod.get("_owner") == name]
    mine = [pod for pod in pods if pod["spec"] == spec["template"]["spec"]]
    if sum(_is_ready(pod) for pod in mine) >= spec["replicas"]:
        for pod in (pod for pod in pods if pod not in mine):
            del api.objects["pods", namespace, pod["metadata"]["name"]]
    for pod in mine[spec["replicas"] :]:
        del api.objects["pods", namespace, pod["metadata"]["name"]]
    conditions = []
    for number in range(len(mine), spec["replicas"]):
        if len(api.of("pods", namespace)) >= api.quota:
            message = f'pods "{name}-x" is forbidden: exceeded quota: small, used: pods={api.quota}'
            _event(api, kind, namespace, name, "FailedCreate", message)
            if kind == "deployments":
                failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
                conditions = [{**failure, "message": message}]
            break
        suffix = str(number) if kind == "statefulsets" else secrets.token_hex(3)
        _start(api, namespace, name, f"{name}-{suffix}", spec)
    pods = [pod for pod in api.of("pods", namespace) if pod.get("_owner") == name]
    for pod in pods:
        pod["status"] = _status(api, pod)
    mine = [pod for pod in pods if pod["spec"] == spec["template"]["spec"]]
    ready = sum(_is_ready(pod) for pod in pods)
    since = min((time.monotonic() - pod["_since"] for pod in mine), default=0.0)
    if sum(_is_ready(pod) for pod in mine) < spec["replicas"] and since > api.deadline_s:
        message = f'ReplicaSet "{name}-x" has timed out progressing.'
        late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        conditions = [*conditions, {**late, "message": message}]
    one["status"] = {
        "observedGeneration": one["metadata"].get("generation", 1),
        "replicas": len(pods),
        "updatedReplicas": len(mine),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "conditions": conditions,
    }


def _start(api: KubernetesApi, namespace: str, owner: str, name: str, spec: Object) -> None:
    template = spec["template"]
    api.objects["pods", namespace, name] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": name, "namespace": namespace},
        "spec": template["spec"],
        "_owner": owner,
        "_since": time.monotonic(),
    }
    for claim in spec.get("volumeClaimTemplates", ()):
        claimed = f"{claim['metadata']['name']}-{name}"
        api.objects.setdefault(
            ("persistentvolumeclaims", namespace, claimed),
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claimed, "labels": spec["selector"]["matchLabels"]},
                "spec": claim["spec"],
            },
        )


def _status(api: KubernetesApi, pod: Object) -> Object:
    """The status that the scheduler and the kubelet would write."""
    spec = pod["spec"]
    if problem := _unschedulable(api, spec):
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        return {"phase": "Pending", "conditions": [{**condition, "message": problem}]}
    age = time.monotonic() - pod["_since"]
    container = spec["containers"][0]
    for one in (*spec.get("initContainers", ()), container):
        if one["image"] not in api.images:
            reason = "ErrImagePull" if age < api.ready_after_s else "ImagePullBackOff"
            return _waiting(one, reason, f'Back-off pulling image "{one["image"]}"')
    unknown = [one for one in container.get("args") or () if one.split("=")[0] not in _FLAGS]
    if unknown:
        pod["_log"] = f"Incorrect Usage: flag provided but not defined: {unknown[0]}\n"
        return _waiting(container, "CrashLoopBackOff", "back-off 10s restarting failed container")
    if age < api.ready_after_s:
        return _waiting(container, "ContainerCreating", "")
    return {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [
            {
                "name": container["name"],
                "ready": True,
                "state": {"running": {}},
                "image": container["image"],
                "imageID": api.resolved.get(container["image"], container["image"]),
            }
        ],
    }


def _unschedulable(api: KubernetesApi, spec: Object) -> str:
    if not (spec.get("nodeSelector") or {}).items() <= api.node.items():
        return "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    wanted = str(spec["containers"][0].get("resources", {}).get("requests", {}).get("cpu", "0"))
    cores = int(wanted[:-1]) / 1000 if wanted.endswith("m") else float(wanted)
    return "0/1 nodes are available: 1 Insufficient cpu." if cores > api.cpus else ""


def _waiting(container: Object, reason: str, message: str) -> Object:
    state = {"waiting": {"reason": reason, "message": message}}
    status = {"name": container["name"], "ready": False, "state": state}
    return {"phase": "Pending", "containerStatuses": [status], "conditions": []}


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _event(
    api: KubernetesApi, kind: str, namespace: str, name: str, reason: str, message: str
) -> None:
    api.objects["events", namespace, f"{name}.{reason}"] = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{reason}", "namespace": namespace},
        "involvedObject": {"kind": _KINDS[kind][1], "name": name},
        "reason": reason,
        "message": message,
        "type": "Warning",
    }
