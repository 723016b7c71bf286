"""Where a cluster's API server is and who we are for it: kubeconfig files, or a pod's account.

Sources: kubernetes/client-go, tools/clientcmd and plugin/pkg/client/auth/exec; the API
client.authentication.k8s.io.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shipline.errors import BuilderError
from shipline.tasks import on_cancel

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What Kubernetes puts into every pod: `token`, `ca.crt`, `namespace`."""

_LARGEST = 4 << 20  # bytes of a kubeconfig file
_EARLY_S = 30  # a credential is renewed this long before it expires
_PLUGIN_APIS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_NOBODY: Mapping[str, Any] = {}
_HINT = "see `kubectl config view`; KUBECONFIG names the files"


@dataclass(frozen=True)
class Credential:
    """What a request is authenticated with; the certificate and its key are PEM."""

    token: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)

    @property
    def authorization(self) -> str:
        """The header of that name, empty without a token or a password."""
        if self.token:
            return f"Bearer {self.token}"
        if self.username:
            pair = f"{self.username}:{self.password}".encode()
            return f"Basic {base64.b64encode(pair).decode()}"
        return ""


@dataclass(frozen=True)
class CredentialPlugin:
    """A program that prints a credential."""

    api: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    install_hint: str = ""
    wants_cluster: bool = False


@dataclass(frozen=True)
class ClusterAccess:
    """An API server and a user of it. `ca` is PEM, empty for the system's authorities; `proxy` is
    a URL, empty for the environment's.
    """

    server: str
    namespace: str = "default"
    ca: bytes = b""
    verify: bool = True
    server_name: str = ""
    proxy: str = ""
    credential: Credential = field(default_factory=Credential)
    token_file: str = ""
    plugin: CredentialPlugin | None = None

    def fresh_credential(self) -> tuple[Credential, float | None]:
        """The credential of a request now, and when it expires (Unix time) if that is known.
        Raises BuilderError.
        """
        if self.plugin is not None:
            return _run_plugin(self.plugin, self)
        if self.token_file:
            raw = _read(Path(self.token_file), "the token of the cluster's user")
            return Credential(token=raw.decode(errors="replace").strip()), None
        return self.credential, None


def load_access(
    environment: Mapping[str, str],
    *,
    kubeconfig: str = "",
    context: str = "",
    service_account: Path = SERVICE_ACCOUNT,
) -> ClusterAccess:
    """The cluster of `context`, by default the current one, in the files `kubeconfig`, by default
    those of KUBECONFIG or ~/.kube/config; without any, the one that this process runs in.

    Raises BuilderError.
    """
    paths = kubeconfig or environment.get("KUBECONFIG", "")
    named = [Path(path) for path in paths.split(os.pathsep) if path]
    files = named or [Path(environment.get("HOME", "/root"), ".kube/config")]
    if kubeconfig and not any(path.exists() for path in files):
        raise BuilderError(f"there is no kubeconfig {kubeconfig}", code="kubeconfig", hint=_HINT)
    merged = _Merged([path for path in files if path.exists()])
    if name := context or merged.current:
        return merged.access(name)
    if found := _in_cluster(environment, service_account):
        return found
    raise BuilderError(
        f"no cluster is chosen: {', '.join(map(str, files))} has no current context",
        code="kubeconfig",
        hint="choose one with `kubectl config use-context`, or name a file in KUBECONFIG",
    )


def _in_cluster(environment: Mapping[str, str], account: Path) -> ClusterAccess | None:
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port or not (account / "token").exists():
        return None
    namespace = _read(account / "namespace", "the namespace of this pod")
    return ClusterAccess(
        f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace.decode(errors="replace").strip(),
        _read(account / "ca.crt", "the authority of the cluster"),
        token_file=str(account / "token"),
    )


class _Merged:
    """Kubeconfig files as one: of entries with the same name, the first counts."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.current = ""
        self._entries: dict[tuple[str, str], tuple[Path, Mapping[str, Any]]] = {}
        for path in paths:
            self._add(path, _document(path))

    def _add(self, path: Path, document: Mapping[str, Any]) -> None:
        self.current = self.current or str(document.get("current-context") or "")
        for kind in ("cluster", "user", "context"):
            for entry in document.get(f"{kind}s") or ():
                try:
                    name, value = str(entry["name"]), dict(entry[kind] or {})
                except (TypeError, KeyError, ValueError):
                    raise _unreadable(
                        path, f"an entry of {kind}s has no name or no {kind}"
                    ) from None
                self._entries.setdefault((kind, name), (path, value))

    def access(self, name: str) -> ClusterAccess:
        """Raises BuilderError for what is missing, or is there in a wrong form."""
        path, context = self._entry("context", name)
        place, cluster = self._entry("cluster", str(context.get("cluster") or ""))
        owner, user = path, _NOBODY
        if context.get("user"):
            owner, user = self._entry("user", str(context["user"]))
        server = str(cluster.get("server") or "")
        if not _is_address(server):
            raise _unreadable(place, f"the server of a cluster is {server!r}")
        return ClusterAccess(
            server.rstrip("/"),
            str(context.get("namespace") or "default"),
            _material(place, cluster, "certificate-authority"),
            not cluster.get("insecure-skip-tls-verify"),
            str(cluster.get("tls-server-name") or ""),
            str(cluster.get("proxy-url") or ""),
            _credential(owner, user),
            _token_file(owner, user),
            _plugin(owner, user),
        )

    def _entry(self, kind: str, name: str) -> tuple[Path, Mapping[str, Any]]:
        try:
            return self._entries[kind, name]
        except KeyError:
            known = ", ".join(found for one, found in self._entries if one == kind) or "none"
            raise BuilderError(
                f"the kubeconfig has no {kind} {name!r}",
                code="kubeconfig",
                hint=f"it has: {known}; {_HINT}",
            ) from None


def _is_address(server: str) -> bool:
    try:
        parts = urlsplit(server)
        return parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _document(path: Path) -> Mapping[str, Any]:
    from ruamel.yaml import YAML  # slow to import
    from ruamel.yaml.error import YAMLError

    raw = _read(path, "the kubeconfig")
    try:
        found = YAML(typ="safe", pure=True).load(raw)
    except (YAMLError, ValueError, RecursionError) as error:
        raise _unreadable(path, str(error).split("\n")[0]) from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _unreadable(path, "it is not a mapping")
    return found


def _credential(path: Path, user: Mapping[str, Any]) -> Credential:
    return Credential(
        str(user.get("token") or ""),
        str(user.get("username") or ""),
        str(user.get("password") or ""),
        _material(path, user, "client-certificate"),
        _material(path, user, "client-key"),
    )


def _token_file(path: Path, user: Mapping[str, Any]) -> str:
    name = str(user.get("tokenFile") or "")
    return str(path.parent / name) if name else ""


def _material(path: Path, entry: Mapping[str, Any], name: str) -> bytes:
    """PEM that stands in the file, or in one that it names beside itself."""
    if encoded := entry.get(f"{name}-data"):
        try:
            return base64.b64decode(str(encoded), validate=True)
        except binascii.Error:
            raise _unreadable(path, f"{name}-data is not base64") from None
    if named := entry.get(name):
        return _read(path.parent / str(named), name)
    return b""


def _plugin(path: Path, user: Mapping[str, Any]) -> CredentialPlugin | None:
    if "auth-provider" in user:
        raise _unreadable(
            path, "auth-provider was removed from Kubernetes; use a credential plugin (exec)"
        )
    if not (given := user.get("exec")):
        return None
    try:
        api, command = str(given["apiVersion"]), str(given["command"])
        arguments = tuple(map(str, given.get("args") or ()))
        variables = {str(one["name"]): str(one["value"]) for one in given.get("env") or ()}
    except (TypeError, KeyError, AttributeError):
        raise _unreadable(path, "exec of a user lacks apiVersion or command") from None
    if api not in _PLUGIN_APIS:
        raise _unreadable(path, f"exec of a user has the apiVersion {api!r}, which is not known")
    if os.sep in command:
        command = str(path.parent / command)
    hint = str(given.get("installHint") or "").strip()
    wants = bool(given.get("provideClusterInfo"))
    return CredentialPlugin(api, (command, *arguments), variables, hint, wants)


def _run_plugin(plugin: CredentialPlugin, access: ClusterAccess) -> tuple[Credential, float | None]:
    spec: dict[str, Any] = {"interactive": False}
    if plugin.wants_cluster:
        spec["cluster"] = {
            "server": access.server,
            "tls-server-name": access.server_name,
            "insecure-skip-tls-verify": not access.verify,
            "certificate-authority-data": base64.b64encode(access.ca).decode(),
        }
    wanted = {"apiVersion": plugin.api, "kind": "ExecCredential", "spec": spec}
    environment = {**os.environ, **plugin.environment, "KUBERNETES_EXEC_INFO": json.dumps(wanted)}
    name = plugin.argv[0]
    try:
        process = subprocess.Popen(
            plugin.argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )  # what it has to say goes to the terminal
    except OSError as error:
        raise BuilderError(
            f"the credential plugin {name} of the kubeconfig cannot be run: {error.strerror}",
            code="kubeconfig-plugin",
            hint=plugin.install_hint or f"install {name}",
        ) from None
    assert process.stdout is not None
    with process, on_cancel(process.terminate):
        raw = process.stdout.read(_LARGEST)
    if process.returncode:
        raise BuilderError(
            f"the credential plugin {name} failed with status {process.returncode}",
            code="kubeconfig-plugin",
            hint=plugin.install_hint or f"try it: {' '.join(plugin.argv)}",
        )
    return _printed(name, raw)


def _printed(name: str, raw: bytes) -> tuple[Credential, float | None]:
    try:
        status: Mapping[str, Any] = json.loads(raw)["status"]
        expires = status.get("expirationTimestamp")
        found = Credential(
            str(status.get("token") or ""),
            certificate=str(status.get("clientCertificateData") or "").encode(),
            key=str(status.get("clientKeyData") or "").encode(),
        )
        until = datetime.fromisoformat(expires).astimezone(UTC).timestamp() if expires else None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BuilderError(
            f"the credential plugin {name} did not print an ExecCredential",
            code="kubeconfig-plugin",
        ) from None
    return found, None if until is None else until - _EARLY_S


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise BuilderError(
            f"cannot read {what}, {path}: {error.strerror}", code="kubeconfig", hint=_HINT
        ) from None


def _unreadable(path: Path, problem: str) -> BuilderError:
    return BuilderError(
        f"the kubeconfig {path} cannot be used: {problem}", code="kubeconfig", hint=_HINT
    )
