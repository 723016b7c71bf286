"""COPY and ADD.

Source: Dockerfile reference, "COPY", "ADD", "Here-documents".
"""

from __future__ import annotations

from shipline.dockerfile.arguments import blank_separated, json_strings
from shipline.dockerfile.fields import common
from shipline.dockerfile.flags import read_flags
from shipline.dockerfile.instructions import Add, Copy, InlineFile
from shipline.dockerfile.parser import Node, chomp, parse_heredoc
from shipline.errors import DockerfileError


def _transfer(node: Node) -> tuple[tuple[str, ...], tuple[InlineFile, ...], str]:
    """(sources, inline files, destination) of COPY and ADD."""
    keyword = node.keyword.upper()
    words = json_strings(node.rest)
    words = blank_separated(node.rest) if words is None else words
    if len(words) < 2:
        raise DockerfileError(
            f"{keyword} requires at least two arguments, but only one was provided. Destination "
            "could not be determined",
            hint=f"write {keyword} source destination",
        )
    *sources, destination = words
    documents = {doc.name: doc for doc in node.heredocs}
    if documents and parse_heredoc(destination):
        raise DockerfileError(f"{keyword} cannot accept a heredoc as a destination")
    paths: list[str] = []
    files: list[InlineFile] = []
    for source in sources:
        announced = parse_heredoc(source) if documents else None
        doc = documents.get(announced.name) if announced else None
        if doc is None:
            paths.append(source)
            continue
        content = chomp(doc.content) if doc.chomp else doc.content
        files.append(InlineFile(doc.name, content, doc.expand, doc.chomp))
    return tuple(paths), tuple(files), destination


def read_copy(node: Node, escape: str) -> Copy:
    sources, files, destination = _transfer(node)
    flags = read_flags(
        node.flags,
        text=("from", "chown", "chmod"),
        repeated=("exclude",),
        switches=("link", "parents"),
    )
    return Copy(
        sources=sources,
        files=files,
        destination=destination,
        origin=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.switch("link"),
        parents=flags.switch("parents"),
        excludes=flags.all("exclude"),
        **common(node),
    )


def read_add(node: Node, escape: str) -> Add:
    sources, files, destination = _transfer(node)
    flags = read_flags(
        node.flags,
        text=("chown", "chmod", "checksum"),
        repeated=("exclude",),
        switches=("link", "keep-git-dir", "unpack"),
    )
    return Add(
        sources=sources,
        files=files,
        destination=destination,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.switch("link"),
        keep_git_dir=flags.tristate("keep-git-dir"),
        checksum=flags.text("checksum"),
        unpack=flags.tristate("unpack"),
        excludes=flags.all("exclude"),
        **common(node),
    )
