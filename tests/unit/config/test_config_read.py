"""Every key of shipline.yaml is read by something: no option does nothing."""

from __future__ import annotations

from collections.abc import Iterator

from shipline.config.loading import Config
from shipline.config.shape import Either, Many, Named, Record, Shape
from shipline.deliver.environments import Approvals, EnvironmentSection, RequiredGates
from shipline.deliver.gitops import OnePlace
from shipline.gates import GatesSection
from shipline.gates.section import REPORT_GATES
from sources import source_files


def records(shape: Shape, known: set[type]) -> Iterator[type]:
    if isinstance(shape, Record) and shape.type not in known:
        known.add(shape.type)
        yield shape.type
        for field in shape.fields:
            yield from records(field.shape, known)
    elif isinstance(shape, Many):
        yield from records(shape.item, known)
    elif isinstance(shape, Named):
        yield from records(shape.value, known)
    elif isinstance(shape, Either):
        for option in shape.options:
            yield from records(option, known)


def test_every_key_is_read() -> None:
    read = frozenset().union(*(file.attributes for file in source_files()))
    keys = [(cls, field) for cls in records(Record(Config), set()) for field in Record(cls).fields]
    assert len(keys) > 250
    by_kind = {(GatesSection, kind) for kind in REPORT_GATES}  # `GatesSection.gates` reads these
    promotion = (EnvironmentSection, Approvals, RequiredGates)
    by_place = {(cls, kind) for cls, _ in keys if issubclass(cls, OnePlace) for kind in cls.KINDS}
    unread = [
        f"{cls.__name__}.{field.name}"
        for cls, field in keys
        if field.name not in read
        and (cls, field.name) not in by_kind | by_place
        and cls not in promotion
    ]
    assert unread == []
