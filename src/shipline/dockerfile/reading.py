"""Raw nodes to typed instructions.

Source: Dockerfile reference, one section per instruction; messages read as BuildKit's.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from shipline.dockerfile import instructions as ins
from shipline.dockerfile.arguments import (
    blank_separated,
    json_strings,
    key_values,
    quoted_words,
    split_instruction,
)
from shipline.dockerfile.fields import (
    InstructionFlags,
    common,
    read_add,
    read_command,
    read_copy,
    read_flags,
    read_health_check,
)
from shipline.dockerfile.mounts import InvalidMount, parse_mount_flag, parse_option, split_options
from shipline.dockerfile.parser import ParsedInstruction, parse
from shipline.dockerfile.text import SPACES, did_you_mean, nearest, quote
from shipline.errors import DockerfileError, Span, located
from shipline.values import replace

_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*")
_ONBUILD_WORD = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)
_UNTRIGGERED = ("FROM", "MAINTAINER")
_MAYBE_JSON = ("ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME")
_NETWORKS = ("default", "none", "host")
_SECURITY = ("sandbox", "insecure")


def read_instruction(node: ParsedInstruction, *, escape: str = "\\") -> ins.Instruction:
    """The instruction of `node`.

    Raises DockerfileError with the position for an unknown keyword or flag, a wrong number of
    arguments and an invalid value.
    """
    prefix = f"dockerfile parse error on line {node.span.line}: "
    with located(node.span, prefix=prefix, hint=f"see {node.keyword.upper()} in the reference"):
        return _read(node, escape)


def check_syntax(node: ParsedInstruction, *, escape: str = "\\") -> None:
    """Raise DockerfileError for what BuildKit refuses before it reads the first instruction."""
    with located(node.span):
        _check_syntax(node.keyword.upper(), node.rest, escape)


def parse_trigger(text: str, span: Span, *, escape: str = "\\") -> ins.Instruction:
    """The instruction of an ONBUILD trigger in an image configuration.

    `span` is the position for errors: the FROM of the image.
    """
    with located(span):
        parsed = parse(f"# escape={escape}\n{text}", file=span.file)
        if len(parsed.nodes) != 1:
            raise DockerfileError(
                "onbuild trigger should be a single expression", code="dockerfile-onbuild"
            )
        node = replace(parsed.nodes[0], span=span)
        _check_trigger(node.keyword)
        return _read(node, escape)


def _read(node: ParsedInstruction, escape: str) -> ins.Instruction:
    reader = _READERS.get(node.keyword.upper())
    if reader is None:
        upper = node.keyword == node.keyword.upper()
        known = _READERS if upper else map(str.lower, _READERS)  # as the file has it
        raise DockerfileError(
            f"unknown instruction: {node.keyword}{did_you_mean(node.keyword, known)}",
            code="dockerfile-instruction",
            hint=_unknown_hint(node),
        )
    return reader(node, escape)


def _unknown_hint(node: ParsedInstruction) -> str:
    if suggestion := nearest(node.keyword.upper(), _READERS):
        return f"write {suggestion}"
    if node.keyword.upper() in {"IMPORT", "INCLUDE"}:
        return "a Dockerfile cannot include another; use a stage or a named context"
    return "to continue a line, end it with the escape character"


def _no_flags(node: ParsedInstruction) -> None:
    read_flags(node.flags)


def _single(node: ParsedInstruction) -> str:
    _no_flags(node)
    if not node.rest:
        raise DockerfileError(f"{node.keyword.upper()} requires exactly one argument")
    return node.rest


def _at_least_one(node: ParsedInstruction, words: tuple[str, ...]) -> tuple[str, ...]:
    if not words:
        raise DockerfileError(f"{node.keyword.upper()} requires at least one argument")
    return words


def _read_from(node: ParsedInstruction, escape: str) -> ins.From:
    words = blank_separated(node.rest)
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
        image = (
            f"{words[0]}:{words[1]}" if len(words) == 2 and words[1].lower() != "as" else "image"
        )
        raise DockerfileError(
            "FROM requires either one or three arguments",
            hint=f"write FROM {image}, or FROM {image} AS name",
        )
    flags = read_flags(node.flags, text=("platform",))
    image, as_keyword, alias = words if len(words) == 3 else (words[0], "", "")
    if alias and not _STAGE_NAME.fullmatch(alias.lower()):
        raise DockerfileError(
            f"invalid name for build stage: {quote(alias)}, name can't start with a number or "
            "contain symbols",
            code="dockerfile-stage",
            hint="use letters, digits, - _ and .",
        )
    return ins.From(
        image=image,
        platform=flags.text("platform"),
        alias=alias,
        as_keyword=as_keyword,
        **common(node),
    )


def _read_run(node: ParsedInstruction, escape: str) -> ins.Run:
    flags = read_flags(node.flags, text=("network", "security"), repeated=("mount", "device"))
    return ins.Run(
        command=read_command(node.rest),
        files=tuple(
            ins.InlineFile(doc.name, doc.content, doc.expand, doc.chomp) for doc in node.heredocs
        ),
        mount_flags=tuple(parse_mount_flag(text) for text in flags.all("mount")),
        network=_one_of(flags, "network", _NETWORKS, 'invalid network mode "{}"'),
        security=_one_of(flags, "security", _SECURITY, 'security "{}" is not valid'),
        devices=tuple(map(_device, flags.all("device"))),
        **common(node),
    )


def _device(text: str) -> ins.DeviceFlag:
    """`[name=]NAME[,required[=BOOL]]`; a name that holds `=` stands alone, too."""
    name, required = "", False
    for field in split_options(text, "devices"):
        key, equals, value = field.partition("=")
        match key.lower():
            case "required":
                required = not equals or parse_option("required", value)
            case "name" if equals and name:
                raise InvalidMount(f"device name already set to {name}")
            case "name" if equals:
                name = value
            case _ if not name:
                name = field
            case _ if equals:
                raise InvalidMount(
                    f"unexpected key '{key.lower()}' in '{field}'"
                    + did_you_mean(key, ("name", "required")),
                    hint="write --device=VENDOR/CLASS=NAME,required",
                )
            case _:
                raise InvalidMount(f"invalid field '{field}' must be a key=value pair")
    return ins.DeviceFlag(name, required)


def _one_of(flags: InstructionFlags, name: str, known: tuple[str, ...], message: str) -> str:
    value = flags.text(name, known[0])
    if value not in known:
        raise DockerfileError(
            message.format(value) + did_you_mean(value, known),
            hint=f"use one of {', '.join(known)}",
        )
    return value


def _pairs(node: ParsedInstruction, escape: str) -> tuple[ins.Pair, ...]:
    _no_flags(node)
    keyword = node.keyword.upper()
    pairs = tuple(ins.Pair(*item) for item in key_values(node.rest, keyword, escape))
    if not pairs:
        raise DockerfileError(
            f"{keyword} requires at least one argument", hint=f"write {keyword} name=value"
        )
    if any(not pair.key for pair in pairs):
        raise DockerfileError(f"{keyword} names can not be blank")
    return pairs


def _read_env(node: ParsedInstruction, escape: str) -> ins.Env:
    return ins.Env(pairs=_pairs(node, escape), **common(node))


def _read_label(node: ParsedInstruction, escape: str) -> ins.Label:
    return ins.Label(pairs=_pairs(node, escape), **common(node))


def _read_arg(node: ParsedInstruction, escape: str) -> ins.Arg:
    _no_flags(node)
    args = []
    for word in _at_least_one(node, quoted_words(node.rest, escape)):
        name, equals, value = word.partition("=")
        if not name:
            raise DockerfileError("ARG names can not be blank", hint="write ARG name=value")
        args.append(ins.ArgDefault(name, value if equals else None))
    return ins.Arg(args=tuple(args), **common(node))


def _read_workdir(node: ParsedInstruction, escape: str) -> ins.Workdir:
    return ins.Workdir(path=_single(node), **common(node))


def _read_user(node: ParsedInstruction, escape: str) -> ins.User:
    return ins.User(user=_single(node), **common(node))


def _read_stop_signal(node: ParsedInstruction, escape: str) -> ins.StopSignal:
    return ins.StopSignal(signal=_single(node), **common(node))


def _read_maintainer(node: ParsedInstruction, escape: str) -> ins.Maintainer:
    return ins.Maintainer(author=_single(node), **common(node))


def _read_cmd(node: ParsedInstruction, escape: str) -> ins.Cmd:
    _no_flags(node)
    return ins.Cmd(command=read_command(node.rest), **common(node))


def _read_entrypoint(node: ParsedInstruction, escape: str) -> ins.Entrypoint:
    _no_flags(node)
    return ins.Entrypoint(command=read_command(node.rest), **common(node))


def _read_shell(node: ParsedInstruction, escape: str) -> ins.Shell:
    _no_flags(node)
    words = json_strings(node.rest)
    if words is None and node.rest:
        raise DockerfileError(
            "SHELL requires the arguments to be in JSON form",
            hint='write SHELL ["/bin/bash", "-c"]',
        )
    return ins.Shell(shell=_at_least_one(node, words or ()), **common(node))


def _read_expose(node: ParsedInstruction, escape: str) -> ins.Expose:
    _no_flags(node)
    ports = tuple(sorted(_at_least_one(node, blank_separated(node.rest))))
    return ins.Expose(ports=ports, **common(node))


def _read_volume(node: ParsedInstruction, escape: str) -> ins.Volume:
    _no_flags(node)
    words = json_strings(node.rest)
    words = blank_separated(node.rest) if words is None else words
    paths = tuple(path.strip(SPACES) for path in _at_least_one(node, words))
    if "" in paths:
        raise DockerfileError("VOLUME specified can not be an empty string")
    return ins.Volume(paths=paths, **common(node))


def _read_on_build(node: ParsedInstruction, escape: str) -> ins.OnBuild:
    _no_flags(node)
    if not node.rest:
        raise DockerfileError("ONBUILD requires at least one argument", code="dockerfile-onbuild")
    keyword, _, _ = split_instruction(node.rest, escape)
    _check_trigger(keyword)
    text = _ONBUILD_WORD.sub("", node.text, count=1)
    documents = "".join(f"\n{doc.content}{doc.name}" for doc in node.heredocs)
    return ins.OnBuild(expression=text + documents, **common(node))


def _check_syntax(keyword: str, rest: str, escape: str) -> None:
    while keyword == "ONBUILD":
        inner, _, rest = split_instruction(rest, escape)
        keyword = inner.upper()
    if keyword in ("ENV", "LABEL"):
        key_values(rest, keyword, escape)
    elif keyword == "HEALTHCHECK":
        json_strings("".join(rest.split(None, 1)[1:]))
    elif keyword in _MAYBE_JSON:
        json_strings(rest)


def _check_trigger(keyword: str) -> None:
    if keyword.upper() == "ONBUILD":
        raise DockerfileError(
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", code="dockerfile-onbuild"
        )
    if keyword.upper() in _UNTRIGGERED:
        raise DockerfileError(
            f"{keyword.upper()} isn't allowed as an ONBUILD trigger", code="dockerfile-onbuild"
        )


_READERS: dict[str, Callable[[ParsedInstruction, str], ins.Instruction]] = {
    "ADD": read_add,
    "ARG": _read_arg,
    "CMD": _read_cmd,
    "COPY": read_copy,
    "ENTRYPOINT": _read_entrypoint,
    "ENV": _read_env,
    "EXPOSE": _read_expose,
    "FROM": _read_from,
    "HEALTHCHECK": read_health_check,
    "LABEL": _read_label,
    "MAINTAINER": _read_maintainer,
    "ONBUILD": _read_on_build,
    "RUN": _read_run,
    "SHELL": _read_shell,
    "STOPSIGNAL": _read_stop_signal,
    "USER": _read_user,
    "VOLUME": _read_volume,
    "WORKDIR": _read_workdir,
}
