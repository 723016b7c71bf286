"""Quality gates: judge reports of other tools and the image itself before it is tagged."""

from shipline.gates.context import (
    SUMMARY_TYPE,
    Baseline,
    GateContext,
    ImageFacts,
    ImageSubject,
    image_facts,
)
from shipline.gates.hooks import HOOKS, Hook, hook_states, install_hooks, uninstall_hooks
from shipline.gates.judging import judge
from shipline.gates.rendering import OUTPUT_FORMATS, as_code_quality, render
from shipline.gates.report_files import ReportFile, read_reports
from shipline.gates.reports import Severity, parse_report
from shipline.gates.run import GateEnvironment, merge_verdict, run_gates
from shipline.gates.section import (
    REPORT_GATES,
    CommandGate,
    CoverageGate,
    DastGate,
    FindingsGate,
    GatesSection,
    ImageGate,
    SbomGate,
    SecretsGate,
    TestsGate,
    VulnerabilitiesGate,
)
from shipline.gates.statements import VULNERABILITIES, predicates, summary
from shipline.gates.verdict import Check, Outcome, Verdict, Verdicts
from shipline.gates.waivers import Waiver, Waivers
