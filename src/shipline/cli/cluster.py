"""`shipline argocd application`, `shipline flux` and `shipline k8s`: objects for a cluster, as YAML
on standard output.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from shipline.cli.commit import CommitQuery, commit_options
from shipline.cli.deploy import configured
from shipline.cli.environment import registry_options
from shipline.cli.program import CommandGroup
from shipline.errors import ConfigError, MissingFlag
from shipline.units import Duration

if TYPE_CHECKING:
    from shipline.deliver.objects import Object

F = TypeVar("F", bound=Callable[..., Any])


def _shared(command: F) -> F:
    """The options that both ways of following a repository have."""
    for option in reversed(_SHARED):
        command = option(command)
    return commit_options(command)


_SHARED = (
    click.option(
        "-e", "--env", "environment", required=True, metavar="NAME", help="The environment."
    ),
    click.option("--name", metavar="NAME", help="The name of the objects; by default APP-ENV."),
    click.option(
        "-n",
        "--namespace",
        metavar="NAME",
        help="The namespace to deploy to; by default the environment's name.",
    ),
    click.option(
        "--path",
        "location",
        metavar="DIRECTORY",
        help="In the repository; by default the update's.",
    ),
    click.option("--repo-url", metavar="URL", help="The repository as the cluster reaches it."),
)


@click.group("argocd", cls=CommandGroup)
def argocd() -> None:
    """Write objects for Argo CD."""


@argocd.command("application")
@click.option("--project", default="default", show_default=True, metavar="NAME")
@click.option(
    "--server",
    default="https://kubernetes.default.svc",
    show_default=True,
    metavar="URL",
    help="The cluster to deploy to.",
)
@click.option("--argocd-namespace", default="argocd", show_default=True, metavar="NAME")
@_shared
def application(
    query: CommitQuery, project: str, server: str, argocd_namespace: str, **given: Any
) -> None:
    """Print the Application that keeps a cluster as the GitOps repository has an environment: with
    prune, self-heal and retries.
    """
    from shipline.deliver.objects import argocd_application

    facts = _facts(query, **given)
    facts["revision"] = facts.pop("branch")
    _show(
        [
            argocd_application(
                **facts, project=project, server=server, argocd_namespace=argocd_namespace
            )
        ]
    )


@click.command("flux")
@click.option(
    "--interval", default="1m", show_default=True, metavar="TIME", help="How often to fetch."
)
@click.option("--secret", default="", metavar="NAME", help="The Secret with the login for git.")
@click.option("--flux-namespace", default="flux-system", show_default=True, metavar="NAME")
@_shared
def flux(query: CommitQuery, interval: str, secret: str, flux_namespace: str, **given: Any) -> None:
    """Print the GitRepository and the Kustomization, or the HelmRelease of a chart, with which Flux
    keeps a cluster as the GitOps repository has an environment.
    """
    from shipline.deliver.objects import flux_objects

    _show(
        flux_objects(
            **_facts(query, **given),
            interval=Duration.parse(interval),
            secret=secret,
            flux_namespace=flux_namespace,
        )
    )


@click.group("k8s", cls=CommandGroup)
def kubernetes() -> None:
    """Write objects for Kubernetes."""


@kubernetes.command("pull-secret")
@click.argument("registries", nargs=-1, required=True, metavar="REGISTRY...")
@click.option(
    "--name", default="registry", show_default=True, metavar="NAME", help="Of the Secret."
)
@click.option("-n", "--namespace", default="default", show_default=True, metavar="NAME")
@click.option(
    "--service-account",
    "account",
    default="puller",
    show_default=True,
    metavar="NAME",
    help="The ServiceAccount whose pods pull with it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a file that only its owner can read, instead of standard output.",
)
def pull_secret_command(
    registries: Sequence[str], name: str, namespace: str, account: str, output: Path | None
) -> None:
    """Print the Secret with the logins for REGISTRY..., a ServiceAccount that pulls with it, and a
    Role that lets it read this one secret.

    The output holds the passwords: pipe it to `kubectl apply -f -`.
    """
    from shipline.cli.results import write_whole
    from shipline.deliver.objects import as_yaml, check_name, pull_secret
    from shipline.registry import keychain_from

    for value, what in (
        (name, "--name"),
        (namespace, "--namespace"),
        (account, "--service-account"),
    ):
        check_name(value, what)
    objects = pull_secret(
        name, registries, keychain_from(os.environ), namespace=namespace, account=account
    )
    if output is None:
        click.echo(as_yaml(objects), nl=False)
    else:
        write_whole(output, as_yaml(objects), private=True)


@kubernetes.command("manifest")
@click.argument("images", nargs=-1, metavar="[IMAGE]")
@click.option("--name", metavar="NAME", help="Of the objects; by default the image's.")
@click.option("-n", "--namespace", default="", metavar="NAME")
@click.option("--replicas", type=click.IntRange(0), default=2, show_default=True, metavar="NUMBER")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="Instead of EXPOSE's."
)
@click.option(
    "--user", type=click.IntRange(1), metavar="NUMBER", help="Whom pods run as, if USER is a name."
)
@click.option(
    "--probe", default="", metavar="PATH", help="Ask over HTTP instead of running HEALTHCHECK."
)
@click.option("--service-account", "account", default="", metavar="NAME")
@click.option(
    "--pull-secret", default="", metavar="NAME", help="The Secret to pull with: `k8s pull-secret`."
)
@click.option("--cpu", default="100m", show_default=True, metavar="QUANTITY", help="Requested.")
@click.option(
    "--memory", default="128Mi", show_default=True, metavar="QUANTITY", help="Requested, and most."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Write deployment.yaml, service.yaml and kustomization.yaml there.",
)
@commit_options
@registry_options
def manifest(
    query: CommitQuery, images: Sequence[str], name: str | None, output: Path | None, **given: Any
) -> None:
    """Print a Deployment and a Service of IMAGE, by default that of this commit.

    Ports, user and probes come from EXPOSE, USER and HEALTHCHECK. The pods pass the Pod Security
    Standard `restricted`.
    """
    from shipline.api import open_client
    from shipline.cli.deploy import delivery_of, images_of, required_config
    from shipline.cli.results import write_whole
    from shipline.deliver.manifest import WorkloadOptions, kustomization, read_config, workload
    from shipline.deliver.objects import as_yaml, check_name

    config = required_config(query)
    with open_client() as client:
        delivery = delivery_of(query, config, client)
        found = images_of(query, config, delivery, images)
        if len(found) != 1:
            raise MissingFlag("name one image", hint=f"TARGET=IMAGE, of {', '.join(found)}")
        (image,) = delivery.trusted(found).images.values()
        source = delivery.repositories(image)
        image_config = read_config(source, source.resolve(str(image.digest)))
    options = WorkloadOptions(
        name=check_name(name or image.repository.rpartition("/")[2], "--name"), **given
    )
    for value, what in (
        (options.namespace, "--namespace"),
        (options.account, "--service-account"),
        (options.pull_secret, "--pull-secret"),
    ):
        if value:
            check_name(value, what)
    if output is None:
        _show(workload(str(image), image_config, options))
        return
    objects = workload(image.name, image_config, options)
    files = {f"{one['kind'].lower()}.yaml": one for one in objects}
    output.mkdir(parents=True, exist_ok=True)
    for file, one in (*files.items(), ("kustomization.yaml", kustomization(image, tuple(files)))):
        write_whole(output / file, as_yaml([one]))


@kubernetes.command("policy")
@click.argument("engine", type=click.Choice(["kyverno", "ratify", "kubernetes"]))
@click.option("--name", default="shipline-trust", show_default=True, metavar="NAME")
@click.option("--audit", is_flag=True, help="Report what would be refused, and admit it.")
@click.option(
    "--exclude-namespace",
    "excluded",
    multiple=True,
    metavar="NAME",
    help="A namespace that the policy leaves alone, such as kube-system.",
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="A Secret with logins for registries, in the namespace of the engine.",
)
@click.option(
    "--without",
    "omitted",
    multiple=True,
    type=click.Choice(["identity", "max-age"]),
    help="Leave out what the engine cannot check.",
)
@commit_options
def policy(
    query: CommitQuery,
    engine: str,
    name: str,
    audit: bool,
    excluded: Sequence[str],
    secrets: Sequence[str],
    omitted: Sequence[str],
) -> None:
    """Print an admission policy that admits the images that `trust` in shipline.yaml accepts.

    kyverno and ratify (with Gatekeeper) verify signatures. kubernetes needs no engine, and checks
    names and digests only.
    """
    from shipline.deliver.admission import AdmissionOptions, kyverno_policy, name_policy
    from shipline.deliver.objects import check_name
    from shipline.deliver.ratify import ratify_policy
    from shipline.trust import load_trust

    config = query.config
    if config is None or config.file is None or not (config.trust and config.trust.rules):
        raise ConfigError(
            "shipline.yaml has no rules of trust",
            code="trust-no-rules",
            hint="add trust.rules: docs/signing.md",
        )
    for word in (*excluded, *secrets):
        check_name(word, "--exclude-namespace" if word in excluded else "--secret")
    admission = AdmissionOptions(
        check_name(name, "--name"), audit, tuple(excluded), tuple(secrets), omitted
    )
    write = {"kyverno": kyverno_policy, "ratify": ratify_policy, "kubernetes": name_policy}[engine]
    _show(write(load_trust(config.trust, config.file.parent), admission))


def _facts(
    query: CommitQuery,
    environment: str,
    name: str | None,
    namespace: str | None,
    location: str | None,
    repo_url: str | None,
) -> dict[str, Any]:
    """What both objects say about the repository."""
    from shipline.deliver.objects import check_name, gitops_path, require_url

    config, section = configured(query, environment)
    gitops, image = section.gitops, config.pipeline.image
    first = gitops.updates[0]
    app = image.repository.rpartition("/")[2] if image else ""
    if not (app or name):
        raise MissingFlag("the objects need a name: pass --name")
    return {
        "name": check_name(name or f"{app}-{environment}", "--name"),
        "url": repo_url or require_url(gitops),
        "branch": gitops.branch,
        "path": location or gitops_path(gitops),
        "values": first.place if first.kind == "values" else "",
        "namespace": check_name(namespace or environment, "--namespace"),
    }


def _show(objects: Sequence[Object]) -> None:
    from shipline.deliver.objects import as_yaml

    click.echo(as_yaml(cast(Any, objects)), nl=False)
