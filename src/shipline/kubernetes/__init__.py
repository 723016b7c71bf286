"""A client of Kubernetes: who we are for which cluster, its objects, commands in its pods."""

from shipline.kubernetes.access import load_access
from shipline.kubernetes.cluster import Cluster, KubernetesError
from shipline.kubernetes.execution import open_exec
from shipline.kubernetes.pods import pod_problem
