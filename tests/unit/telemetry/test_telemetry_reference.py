"""docs/metrics.md has the table of metrics that the program has."""

from __future__ import annotations

from pathlib import Path

from shipline.telemetry.metrics import METRICS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def table() -> str:
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(one.labels)} | {one.text} |" for one in METRICS
    ]
    return "\n".join(["| metric | kind | labels | |", "|---|---|---|---|", *rows])


def test_the_reference_is_the_table_of_the_program() -> None:
    """To write it again, put what this prints into the page."""
    print(table())
    assert table() in PAGE.read_text()


def test_names_end_with_units_and_totals_and_no_label_is_of_a_run() -> None:
    for one in METRICS:
        assert one.name.startswith("shipline_")
        assert one.name.endswith("_total") == (one.kind == "counter"), one.name
        assert one.labels[0] == "pipeline" and not {"run", "run_id", "commit"} & {*one.labels}
        assert one.kind != "histogram" or (
            one.unit == "s" and one.buckets == tuple(sorted(one.buckets))
        )
