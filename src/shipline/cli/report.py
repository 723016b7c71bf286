"""`shipline report`: the page of a run as one file."""

from __future__ import annotations

from pathlib import Path

import click

from shipline.cli.completing import runs


@click.command("report")
@click.argument("run", default="", metavar="[RUN]", shell_complete=runs)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    required=True,
    help="Write one page with all that it needs in it.",
)
def command(run: str, html: Path) -> None:
    """Write the page of a run that `shipline ui` shows to a file, for the artefacts of a CI job.

    RUN is an id, its beginning or end, or ^1 for the run before the last; by default the last run.
    """
    from shipline.cli.results import write_whole
    from shipline.history import RunHistory
    from shipline.home import state_directory
    from shipline.ui.report import report_html
    from shipline.ui.run_list import TREND, RunIndex, earlier
    from shipline.ui.runs import compared

    home = state_directory()
    history = RunHistory(home)
    detail = history.read(history.resolve(run))
    before = earlier(RunIndex(history), detail.summary, TREND)
    write_whole(html, report_html(detail, before, **compared(history, detail, home)).decode())
