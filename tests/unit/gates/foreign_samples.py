"""Documents that no gate reads, as their tools wrote them: with findings, and with none."""

from __future__ import annotations

from typing import Any

BANDIT: dict[str, Any] = {
    "errors": [],
    "generated_at": "2026-11-26T09:05:18Z",
    "metrics": {"./a.py": {"SEVERITY.HIGH": 1, "loc": 4}},
    "results": [
        {
            "code": "3 subprocess.call('ls ' + password, shell=True)\n",
            "filename": "./a.py",
            "issue_confidence": "HIGH",
            "issue_cwe": {"id": 78, "link": "https://cwe.mitre.org/data/definitions/78.html"},
            "issue_severity": "HIGH",
            "issue_text": "subprocess call with shell=True identified, security issue.",
            "line_number": 3,
            "test_id": "B602",
        }
    ],
}
SEMGREP: dict[str, Any] = {
    "version": "1.185.0",
    "results": [
        {
            "check_id": "shell",
            "path": "a.py",
            "start": {"line": 3, "col": 1, "offset": 46},
            "extra": {"message": "shell", "metadata": {}, "severity": "ERROR"},
        }
    ],
    "errors": [],
    "paths": {"scanned": ["a.py"]},
}
DETECT_SECRETS: dict[str, Any] = {
    "version": "1.5.0",
    "plugins_used": [{"name": "AWSKeyDetector"}],
    "filters_used": [{"path": "detect_secrets.filters.allowlist.is_line_allowlisted"}],
    "results": {
        "a.py": [
            {
                "type": "AWS Access Key",
                "filename": "a.py",
                "hashed_secret": "32e6ad9003cc710b1ac7c09e54eb216e6f835964",
                "line_number": 4,
            }
        ]
    },
    "generated_at": "2026-11-26T09:05:19Z",
}
GITLEAKS = [
    {
        "Description": "AWS",
        "StartLine": 4,
        "Match": "AKIAIOSFODNN7EXAMPLF",
        "Secret": "AKIAIOSFODNN7EXAMPLF",
        "File": "a.py",
        "Commit": "",
        "RuleID": "aws-access-token",
        "Fingerprint": "a.py:aws-access-token:4",
    }
]
HADOLINT = [
    {
        "code": "DL3006",
        "column": 1,
        "file": "Dockerfile",
        "level": "warning",
        "line": 1,
        "message": "Always tag the version of an image explicitly",
    }
]
RUFF = [
    {
        "code": "S105",
        "filename": "/src/a.py",
        "location": {"column": 12, "row": 2},
        "message": "Possible hardcoded password",
        "noqa_row": 2,
        "url": "https://docs.astral.sh/ruff/rules/hardcoded-password-string",
    }
]
NPM_LS: dict[str, Any] = {
    "name": "app",
    "version": "1.0.0",
    "dependencies": {"lodash": {"version": "4.17.15", "overridden": False}},
}
DEPENDENCY_CHECK: dict[str, Any] = {
    "reportSchema": "1.1",
    "scanInfo": {"engineVersion": "12.1.0"},
    "dependencies": [{"fileName": "a.jar", "vulnerabilities": [{"name": "CVE-2021-44228"}]}],
}

TOOLS: dict[str, tuple[Any, str]] = {
    "Bandit": (BANDIT, "-f sarif"),
    "Semgrep": (SEMGREP, "--sarif"),
    "detect-secrets": (DETECT_SECRETS, "cannot write SARIF"),
    "gitleaks": (GITLEAKS, "--report-format sarif"),
    "Hadolint": (HADOLINT, "--format sarif"),
    "Ruff": (RUFF, "--output-format sarif"),
    "npm ls": (NPM_LS, "npm audit"),
    "OWASP Dependency-Check": (DEPENDENCY_CHECK, "--format SARIF"),
}
"""The document of each tool, and what the hint says of the way out."""

CLEAN: dict[str, Any] = {
    "Bandit": {**BANDIT, "results": []},
    "Semgrep": {**SEMGREP, "results": []},
    "detect-secrets": {**DETECT_SECRETS, "results": {}},
}
"""The same tools where they found nothing: it is not vulnerabilities that they looked for."""

NOTHING: tuple[Any, ...] = (
    *(
        [],
        {},
        [{}],
        [[]],
        [1],
        [None],
        [{"x": 1}],
        [{"name": "a"}],
        [{"name": "a", "version": "1"}],
    ),
    *({"results": []}, {"results": {}}, {"results": None}, {"results": [{"foo": 1}]}),
    *({"results": [{}]}, {"results": [{"source": {"path": "a"}}]}, {"results": [{"packages": []}]}),
    *({"matches": []}, {"matches": {}}, {"matches": None}, {"matches": [{}]}),
    *({"matches": [], "source": {}, "descriptor": {"name": "other"}},),
    *({"SchemaVersion": 2}, {"SchemaVersion": 2, "Results": []}, {"Results": None}),
    *({"SchemaVersion": 2, "ArtifactName": "a", "Results": [{"Class": "os-pkgs"}]},),
    *({"SchemaVersion": 2, "ArtifactName": "a", "Results": {}},),
    *({"auditReportVersion": 2}, {"auditReportVersion": 2, "vulnerabilities": {}}),
    *({"auditReportVersion": 2, "vulnerabilities": [], "metadata": {}},),
    *({"auditReportVersion": 2, "vulnerabilities": {"a": {}}, "metadata": {}},),
    *({"dependencies": {}}, {"dependencies": [{"x": 1}]}, {"dependencies": [{"name": "a"}]}),
    *({"files": {}}, {"files": {"a": {}}}, {"totals": {}}, {"total": {}}, {"a": {"data": {}}}),
    *(
        {"bomFormat": "CycloneDX"},
        {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": {}},
    ),
    *({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"name": "a"}]},),
    *({"spdxVersion": "SPDX-2.3"}, {"@graph": []}, {"@graph": [{"type": "software_Package"}]}),
    *({"statements": []}, {"runs": []}, {"version": "2.1.0"}, {"version": "2.1.0", "runs": [{}]}),
    *({"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "a"}}, "results": {}}]},),
    *({"version": "2.1.0", "runs": [{"tool": {}, "results": []}]},),
)
"""Documents without what a format must have, each with less of it than its readers ask for."""
