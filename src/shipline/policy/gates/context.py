"""What a judgement may know beside the reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from shipline.errors import ConfigError
from shipline.git import Changes
from shipline.policy.gates.facts import ImageSubject
from shipline.policy.gates.verdict import Measurements

SUMMARY_TYPE = "urn:shipline:predicate:gates:v1"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was measured for the last promoted image, by gate."""

    gates: Mapping[str, Measurements]
    revision: str = ""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """From a summary as `shipline gate --json` prints it, bare or in an in-toto statement.

        Raises ConfigError.
        """
        try:
            document = json.loads(raw)
            predicate = document.get("predicate", document)
            gates = {one["gate"]: _measurements(one) for one in predicate["gates"]}
            return cls(gates, str(predicate.get("revision", "")))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConfigError(
                "the baseline is not a gate summary",
                hint="write one with `shipline gate --json > baseline.json`",
            ) from None


def _measurements(gate: Mapping[str, Any]) -> Measurements:
    found = gate["measurements"]
    numbers = {str(key): float(value) for key, value in found["numbers"].items()}
    keys = found["keys"]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("keys")
    return Measurements(numbers, frozenset(keys))


@dataclass(frozen=True, slots=True)
class Context:
    """`now` decides on age and waivers; `built_at` is when what is judged was made: older reports
    are about something else. `repository` and `environment` are what waivers may be limited to.
    """

    now: datetime
    revision: str = ""
    image: ImageSubject | None = None
    repository: str = ""
    environment: str = ""
    changes: Changes | None = None
    baseline: Baseline | None = None
    built_at: datetime | None = None

    def before(self, gate: str) -> Measurements | None:
        """What the baseline has for the gate."""
        return self.baseline.gates.get(gate) if self.baseline else None
