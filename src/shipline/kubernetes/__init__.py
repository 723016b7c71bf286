"""A client of Kubernetes: who we are for which cluster, its objects, commands in its pods."""

from shipline.kubernetes.access import ClusterAccess, load_access
from shipline.kubernetes.cluster import Cluster, KubernetesError
from shipline.kubernetes.execution import ExecPipe, open_exec

__all__ = ["Cluster", "ClusterAccess", "ExecPipe", "KubernetesError", "load_access", "open_exec"]
