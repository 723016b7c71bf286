"""What keeps pods from running, as the kubelet and the scheduler say it in their status.

Source: kubernetes.io, "Pod Lifecycle".
"""

from __future__ import annotations

from typing import Any, NamedTuple

_HOPELESS = (
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ErrImagePullBackOff",
    "RegistryUnavailable",
    "CreateContainerConfigError",
    "CreateContainerError",
    "CrashLoopBackOff",
)
"""Reasons of a waiting container that time alone does not cure; a node may still come for a pod
that no node has room for.
"""


class PodProblem(NamedTuple):
    """A reason, with the message behind it; `final` if time does not help."""

    pod: str
    reason: str
    message: str
    final: bool

    def __str__(self) -> str:
        if not self.final:
            return f"{self.pod} is {self.reason}: {self.message}"
        return f"{self.pod}: {self.reason}: {self.message}"


def pod_problem(pod: dict[str, Any]) -> PodProblem | None:
    """Why a pod does not run; None if nothing keeps it from it. An image that could not be pulled
    once, and is tried again, is not final.
    """
    status, name = pod.get("status") or {}, str(pod["metadata"]["name"])
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "Unschedulable":
            return PodProblem(name, "Unschedulable", str(condition.get("message", "")), False)
    tried = None
    for one in (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ):
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
        if reason in _HOPELESS:
            return PodProblem(name, reason, message, True)
        if reason == "ErrImagePull":
            tried = PodProblem(name, reason, message, False)
    return tried
