"""A client of Kubernetes: who we are for which cluster, its objects, commands in its pods."""

from shipline.kubernetes.access import ClusterAccess, load_access
from shipline.kubernetes.cluster import Cluster, KubernetesError
from shipline.kubernetes.execution import ExecPipe, open_exec
from shipline.kubernetes.pods import PodProblem, pod_problem

__all__ = [
    "Cluster",
    "ClusterAccess",
    "ExecPipe",
    "KubernetesError",
    "PodProblem",
    "load_access",
    "open_exec",
    "pod_problem",
]
