"""The pipeline in shipline.yaml: from a commit to a signed image, which is tagged last.

Only the section of shipline.yaml is imported here, because every command that reads the file needs
it. The rest is imported from its modules: `plan` (what a run is going to do), `preparation` (the
plan from git, tag policy and registry), `runner` (doing it), `runs` and `record` (what was done),
`render` (all of it as text). Each kind of step is a `StepKind` in `steps`.
"""

from shipline.ship.section import Build, Pipeline, deploy_step
