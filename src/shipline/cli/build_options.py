"""The flags of `shipline build`: those of `docker buildx build`, hidden and old ones included, and
boolean flags with a value (`--push=false`).

Only names and help are here; `shipline.build.parse_request` parses the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shipline.build import parse_boolean
from shipline.cli.environment import debug_option, registry_options
from shipline.cli.options import BUILDER, PROGRESS

if TYPE_CHECKING:
    from click.parser import _OptionParser


class SwitchCommand(click.Command):
    """A command whose boolean flags may carry their value, and options of one letter `-t=NAME`."""

    def make_parser(self, ctx: click.Context) -> _OptionParser:
        parser = super().make_parser(ctx)
        parser._long_opt.update(parser._short_opt)  # else click asks difflib for names like -t
        return parser

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {
            name
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and parameter.is_flag
            for name in parameter.opts
        }
        try:
            left = super().parse_args(ctx, plain_switches(args, names))
        except click.NoSuchOption as error:
            options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
            hidden = {name for one in options if one.hidden for name in one.opts}
            shown = [one for one in error.possibilities or () if one not in hidden and one[2:]]
            raise click.NoSuchOption(error.option_name, possibilities=shown, ctx=ctx) from None
        for parameter in self.get_params(ctx):  # false is not absent where that is told apart
            if parameter.name and ctx.params.get(parameter.name, ...) is None:
                given = [word for word in args if word.partition("=")[0] in parameter.opts]
                if given and parameter.opts[0] in names:
                    ctx.params[parameter.name] = False
        return left


def plain_switches(args: Sequence[str], names: set[str]) -> list[str]:
    """`args` with each `--name=true` as `--name`, and without those that end as `--name=false`."""
    plain: list[str] = []
    for position, word in enumerate(args):
        if word == "--":
            return [*plain, *args[position:]]
        name, equals, value = word.partition("=")
        if not equals or name not in names:
            plain.append(word)
        elif parse_boolean(value, name):
            plain.append(name)
        else:
            plain = [earlier for earlier in plain if earlier != name]
    return plain


F = TypeVar("F", bound=Callable[..., Any])


def build_options(function: F) -> F:
    """Declare every flag of build on `function`."""
    for declare in reversed((*_IMAGE, *_RUN, *_CACHE, *_RESULT, registry_options, *_SHOWN, *_OLD)):
        function = declare(function)
    return function


def _text(*names: str, help: str, **more: Any) -> Callable[[F], F]:
    return click.option(*names, help=help, metavar=more.pop("metavar", "TEXT"), **more)


def _many(*names: str, help: str, **more: Any) -> Callable[[F], F]:
    return _text(*names, help=help, multiple=True, **more)


def _switch(*names: str, help: str, **more: Any) -> Callable[[F], F]:
    return click.option(*names, help=help, is_flag=True, **more)


def _old(*names: str, **more: Any) -> Callable[[F], F]:
    return click.option(*names, hidden=True, **more)


_IMAGE = (
    _text(
        "-f", "--file", metavar="PATH", help="The Dockerfile: a path, a URL, - for standard input."
    ),
    _text("--target", metavar="STAGE", help="The stage to build."),
    _many("--platform", metavar="OS/ARCH", help="Platforms to build for, a comma list."),
    _many(
        "--build-arg", metavar="K[=V]", help="Set a build argument; K alone: from the environment."
    ),
    _many("--build-context", metavar="NAME=WHERE", help="Another context, by name."),
    _many("--label", metavar="K=V", help="Add a label to the image."),
    _many("--annotation", metavar="[TYPE:]K=V", help="Add an annotation to the image."),
    _many("--secret", metavar="id=..[,src=..]", help="A secret that steps may mount."),
    _many("--ssh", metavar="ID[=SOCKET|KEY]", help="An SSH agent or keys that steps may mount."),
    _switch("--pull", help="Always ask the registries for newer base images."),
)
_RUN = (
    _text("--network", default="default", metavar="MODE", help="For RUN: default, none or host."),
    _many("--add-host", metavar="HOST:IP", help="Add a line to /etc/hosts in RUN."),
    _many("--allow", metavar="WHAT", help="Allow network.host, security.insecure or device."),
    _many("--ulimit", metavar="NAME=SOFT[:HARD]", help="A resource limit of RUN."),
    _text("--shm-size", metavar="SIZE", help="The size of /dev/shm in RUN."),
    _text("--cgroup-parent", metavar="PATH", help="The parent control group of RUN."),
    _many("--resource", metavar="K=V", help="Limits of RUN: memory, cpu-quota, cpuset-cpus, .."),
)
_CACHE = (
    _switch("--no-cache", help="Use no results of earlier builds."),
    _many("--no-cache-filter", metavar="STAGE", help="Use no earlier results for these stages."),
    _many("--cache-from", metavar="REF|type=..", help="Caches to read from."),
    _many("--cache-to", metavar="REF|type=..", help="Caches to write to."),
)
_RESULT = (
    _many("-t", "--tag", metavar="NAME[:TAG]", help="A name for the image."),
    _many("-o", "--output", metavar="PATH|type=..", help="Where the result goes."),
    _switch("--push", help="Push the image: --output=type=registry."),
    _switch("--load", help="Load the image into the local engine: --output=type=docker."),
    _many("--attest", metavar="type=..", help="Attach a statement: provenance or sbom."),
    _text("--provenance", metavar="BOOL|K=V", help="--attest=type=provenance"),
    _text("--sbom", metavar="BOOL|K=V", help="--attest=type=sbom"),
    _text("--iidfile", metavar="PATH", help="Write the ID of the image here."),
    _text("--metadata-file", metavar="PATH", help="Write metadata of the result here, as JSON."),
    _text("--call", default="build", metavar="METHOD", help="build, check, outline or targets."),
    _switch("--check", help="Check the Dockerfile and build nothing: --call=check."),
    BUILDER,
    _many("--policy", metavar="K=V", help="A policy in Rego for what the build reads."),
)
_SHOWN = (PROGRESS, _switch("-q", "--quiet", help="Show nothing; print the image ID at the end."))
_OLD = (
    _old("--compress", is_flag=True),
    _old("--squash", is_flag=True),
    _old("--rm", is_flag=True, expose_value=False),  # there are no containers to remove
    _old("--force-rm", is_flag=True, expose_value=False),
    _old("--isolation"),
    _old("--security-opt", multiple=True),
    _old("--print", "print_"),
    _old("-m", "--memory"),
    _old("--memory-swap"),
    _old("-c", "--cpu-shares"),
    _old("--cpu-period"),
    _old("--cpu-quota"),
    _old("--cpuset-cpus"),
    _old("--cpuset-mems"),
    _old("--invoke"),
    _old("--on"),
    _old("--detach", is_flag=True),
    _old("--root"),
    _old("--server-config"),
    debug_option,
)
NOT_YET = ("invoke", "on", "detach", "root", "server_config")
"""Flags without a place in a BuildRequest."""

IGNORED = ("compress", "squash", "isolation", "security_opt")
"""Flags of the old builder that are accepted with a warning and have no effect."""
