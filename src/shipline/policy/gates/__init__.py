"""Quality gates: reports of other tools, and facts of the image, judged before a name is given."""

from shipline.policy.gates.context import SUMMARY_TYPE, Baseline, Context
from shipline.policy.gates.evidence import Evidence, gather
from shipline.policy.gates.facts import ImageFacts, ImageSubject, image_facts
from shipline.policy.gates.hooks import HOOKS, Hook, hook_states, install_hooks, uninstall_hooks
from shipline.policy.gates.judge import judge
from shipline.policy.gates.merging import merge_verdict
from shipline.policy.gates.render import FORMATS, render
from shipline.policy.gates.reports import ReportError, Severity, parse_report
from shipline.policy.gates.run import Workplace, run_gates
from shipline.policy.gates.section import (
    REPORT_GATES,
    CommandGate,
    CoverageGate,
    FindingsGate,
    GatesSection,
    ImageGate,
    SbomGate,
    SecretsGate,
    TestsGate,
    VulnerabilitiesGate,
)
from shipline.policy.gates.statements import Predicate, predicates, summary
from shipline.policy.gates.verdict import Check, Outcome, Verdict, Verdicts
from shipline.policy.gates.waiver import Waiver
from shipline.policy.gates.waiving import Waivers

__all__ = [
    "FORMATS",
    "HOOKS",
    "REPORT_GATES",
    "SUMMARY_TYPE",
    "Baseline",
    "Check",
    "CommandGate",
    "Context",
    "CoverageGate",
    "Evidence",
    "FindingsGate",
    "GatesSection",
    "Hook",
    "ImageFacts",
    "ImageGate",
    "ImageSubject",
    "Outcome",
    "Predicate",
    "ReportError",
    "SbomGate",
    "SecretsGate",
    "Severity",
    "TestsGate",
    "Verdict",
    "Verdicts",
    "VulnerabilitiesGate",
    "Waiver",
    "Waivers",
    "Workplace",
    "gather",
    "hook_states",
    "image_facts",
    "install_hooks",
    "judge",
    "merge_verdict",
    "parse_report",
    "predicates",
    "render",
    "run_gates",
    "summary",
    "uninstall_hooks",
]
