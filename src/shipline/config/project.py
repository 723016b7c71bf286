"""The way of a project's images to its environments, as its configuration describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipline.config.loading import Config
from shipline.git import Git
from shipline.oci import Digest

if TYPE_CHECKING:
    from shipline.deliver.delivery import Delivery
    from shipline.registry import Client


def project_delivery(
    config: Config,
    git: Git,
    client: Client,
    *,
    home: Path,
    environ: Mapping[str, str],
    fetch: bool = True,
) -> Delivery:
    """The delivery of a project: `git` is its clone, `home` the state directory. With `fetch` a
    shallow clone may be completed. Raises ConfigError for keys of `trust` that cannot be read.
    """
    from shipline.deliver.delivery import Delivery
    from shipline.gates import SUMMARY_TYPE
    from shipline.trust import TrustPolicy, load_trust

    root = config.file.parent if config.file else Path()
    return Delivery(
        git=git,
        root=root,
        home=home,
        environ=environ,
        repositories=lambda image: client.repository(image).unmirrored,
        http=client.http,
        trust=TrustPolicy(load_trust(config.trust, root)) if config.trust else None,
        image=config.pipeline.image,
        fetch=fetch,
        environments=config.environments or {},
        targets=config.pipeline.images,
        gates=config.gates,
        summaries=partial(statements_about, home, str(root), kind=SUMMARY_TYPE),
    )


def statements_about(
    home: Path, root: str, digest: Digest, kind: str
) -> Iterator[Mapping[str, Any]]:
    """The predicates of a type that runs of the project at `root` on this machine have of a digest,
    the newest run first.
    """
    from shipline.ship.runs import Runs
    from shipline.ship.steps.build import pushed_images
    from shipline.ship.steps.gates import gate_verdicts

    for run in Runs(home).all():
        for target, image in pushed_images(run).items() if run.root == root else ():
            if image.digest == digest:
                found = gate_verdicts(run).statements.get(target, ())
                yield from (content for one, content in found if one == kind)
