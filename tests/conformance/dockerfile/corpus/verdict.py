"""Whether two builds of a case came out as the case says, and as each other."""

from __future__ import annotations

from corpus.builders import Outcome
from corpus.case import Case
from corpus.difference import GRAVE, Difference, compare
from corpus.expected import compare_with_expected


def verdict(
    case: Case, want: Outcome | None, got: Outcome | None, kinds: tuple[str, ...] = GRAVE
) -> list[str]:
    """What is wrong, one text each; `want` (BuildKit) and `got` (ours) are None where not built.

    `kinds` are the classes of difference to tell, see `corpus.difference`.
    """
    problems = []
    for name, outcome in (("BuildKit", want), ("shipline", got)):
        if outcome is not None and outcome.ok == case.fails:
            happened = "succeeded" if outcome.ok else "failed"
            problems.append(f"{name} {happened}:\n{_tail(outcome.output)}")
    if problems or got is None or case.fails:
        return problems
    return [str(each) for each in differences(case, want, got) if each.kind in kinds]


def differences(case: Case, want: Outcome | None, got: Outcome) -> list[Difference]:
    """Every difference of two builds that succeeded, without the classes the case skips."""
    if want is None:
        return compare_with_expected(case, got.images)
    found = compare(want.images, got.images)
    return [difference for difference in found if difference.kind not in case.skip]


def _tail(output: str, lines: int = 15) -> str:
    return "\n".join(f"  | {line}" for line in output.splitlines()[-lines:])
