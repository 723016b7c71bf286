"""Small reports of every format, as their tools write them."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

from shipline.gates.reports import Report, parse_report

COBERTURA = b"""<?xml version="1.0" ?>
<!DOCTYPE coverage SYSTEM "http://cobertura.sourceforge.net/xml/coverage-04.dtd">
<coverage version="7.6" timestamp="1750000000000" lines-valid="4" line-rate="0.75">
 <sources><source>/build/src</source></sources>
 <packages><package name="app"><classes>
  <class name="a.py" filename="app/a.py"><methods><method name="f"><lines>
    <line number="1" hits="9"/></lines></method></methods>
   <lines><line number="1" hits="1"/><line number="2" hits="0"/>
    <line number="3" hits="2" branch="true" condition-coverage="50% (1/2)"/></lines></class>
  <class name="a.py$inner" filename="app/a.py"><methods/>
   <lines><line number="2" hits="1"/><line number="9" hits="0"/></lines></class>
 </classes></package></packages></coverage>"""

JACOCO = b"""<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<!DOCTYPE report PUBLIC "-//JACOCO//DTD Report 1.1//EN" "report.dtd">
<report name="app"><sessioninfo id="x" start="1750000000000" dump="1750000001000"/>
<package name="com/acme"><class name="com/acme/A" sourcefilename="A.java"/>
<sourcefile name="A.java"><line nr="3" mi="0" ci="2" mb="1" cb="1"/>
<line nr="4" mi="3" ci="0" mb="0" cb="0"/><counter type="LINE" missed="1" covered="1"/>
</sourcefile></package></report>"""

CLOVER = b"""<?xml version="1.0"?><coverage generated="1750000000" clover="4.4">
<project timestamp="1750000000"><package name="p"><file name="a.php" path="/srv/src/a.php">
<line num="3" type="method" name="f" count="1"/><line num="4" type="stmt" count="2"/>
<line num="5" type="stmt" count="0"/><line num="6" type="cond" truecount="1" falsecount="0"/>
</file></package></project></coverage>"""

CLOVER_ISTANBUL = b"""<coverage generated="1750000000000" clover="3.2.0"><project name="All files">
<metrics statements="3" coveredstatements="2" conditionals="8" coveredconditionals="2"/>
<file name="a.js" path="/repo/src/a.js">
<metrics statements="3" coveredstatements="2" conditionals="6" coveredconditionals="1"/>
<line num="2" count="2" type="cond" truecount="1" falsecount="1"/>
<line num="3" count="0" type="cond" truecount="0" falsecount="2"/>
<line num="8" count="1" type="cond" truecount="0" falsecount="2"/>
</file></project></coverage>"""

LCOV = b"TN:\nSF:src/a.js\nDA:1,4\nDA:2,0\nBRDA:1,0,0,1\nBRDA:1,0,1,-\nend_of_record\n"

GO = b"""mode: atomic
example.com/m/a.go:3.14,5.2 2 1
example.com/m/a.go:7.1,8.2 3 0
example.com/m/a.go:7.1,8.2 3 4
example.com/m/b.go:1.1,2.2 5 0
"""

ISTANBUL: dict[str, Any] = {
    "/repo/src/a.js": {
        "path": "/repo/src/a.js",
        "statementMap": {
            "0": {"start": {"line": 1, "column": 0}, "end": {"line": 1, "column": 9}},
            "1": {"start": {"line": 2, "column": 0}, "end": {"line": 2, "column": 9}},
        },
        "fnMap": {},
        "branchMap": {"0": {}},
        "s": {"0": 3, "1": 0},
        "f": {},
        "b": {"0": [1, 0]},
    }
}
_COUNT = {"total": 10, "covered": 9, "skipped": 0, "pct": 90}
ISTANBUL_SUMMARY: dict[str, Any] = {
    "total": {"lines": _COUNT, "branches": {"total": 4, "covered": 2, "skipped": 0, "pct": 50}},
    "/repo/src/a.js": {"lines": _COUNT, "branches": {"total": 4, "covered": 2}},
}
COVERAGE_PY: dict[str, Any] = {
    "meta": {"format": 3, "version": "7.6.1", "timestamp": "2026-01-01T10:00:00.5"},
    "files": {
        "app/a.py": {
            "executed_lines": [1, 3],
            "summary": {"covered_lines": 2, "num_branches": 2, "covered_branches": 1},
            "missing_lines": [2],
            "excluded_lines": [],
        }
    },
    "totals": {"covered_lines": 2, "num_statements": 3},
}

JUNIT = b"""<?xml version="1.0" encoding="utf-8"?><testsuites>
<testsuite name="outer" tests="6" failures="1" errors="1" timestamp="2026-01-01T10:00:00+00:00">
 <testcase classname="a" name="ok" time="1,000.5"/>
 <testsuite name="inner"><testcase classname="a" name="bad" time="0.1"><failure message="x"/>
  </testcase></testsuite>
 <testcase classname="a" name="crash"><error message="x"/></testcase>
 <testcase classname="a" name="skip"><skipped/></testcase>
 <testcase classname="a" name="flaky"><flakyFailure message="x"/></testcase>
 <testcase classname="a" name="off" status="notrun"/>
</testsuite></testsuites>"""

SARIF: dict[str, Any] = {
    "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
    "version": "2.1.0",
    "runs": [
        {
            "results": [
                {
                    "ruleId": "R1",
                    "message": {"text": "first"},
                    "locations": [
                        {
                            "physicalLocation": {
                                "artifactLocation": {"uri": "src/a%20b.py"},
                                "region": {"startLine": 7},
                            }
                        }
                    ],
                    "partialFingerprints": {"primaryLocationLineHash": "abc:1"},
                },
                {"ruleIndex": 1, "level": "note", "message": {"text": "second"}},
                {"ruleId": "R1", "kind": "pass", "message": {"text": "fine"}},
                {
                    "ruleId": "R1",
                    "message": {"text": "third"},
                    "suppressions": [{"kind": "inSource"}],
                },
                {
                    "ruleId": "R1",
                    "message": {"text": "fourth"},
                    "suppressions": [{"kind": "external", "status": "underReview"}],
                    "baselineState": "unchanged",
                },
            ],
            "tool": {
                "driver": {
                    "name": "lint",
                    "version": "1.2",
                    "rules": [
                        {
                            "id": "R1",
                            "defaultConfiguration": {"level": "error"},
                            "properties": {"security-severity": "8.1"},
                        },
                        {"id": "R2"},
                    ],
                }
            },
            "versionControlProvenance": [{"revisionId": "a" * 40}],
        }
    ],
}

DIGEST = "sha256:" + "1" * 64
TRIVY: dict[str, Any] = {
    "SchemaVersion": 2,
    "CreatedAt": "2026-01-01T10:00:00.123456789Z",
    "ArtifactName": f"registry.example/app@{DIGEST}",
    "ArtifactType": "container_image",
    "Metadata": {
        "OS": {"Family": "debian", "Name": "9", "EOSL": True},
        "ImageID": "sha256:" + "2" * 64,
        "RepoDigests": [f"registry.example/app@{DIGEST}"],
        "ImageConfig": {"architecture": "arm64", "os": "linux"},
    },
    "Results": [
        {
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2024-1",
                    "PkgName": "libc6",
                    "PkgIdentifier": {"PURL": "pkg:deb/debian/libc6@2.24?arch=arm64"},
                    "InstalledVersion": "2.24",
                    "FixedVersion": "2.25, 2.26",
                    "Status": "fixed",
                    "Severity": "CRITICAL",
                    "CVSS": {"nvd": {"V3Score": 9.8}},
                    "PublishedDate": "2025-12-01T00:00:00Z",
                }
            ],
            "Target": "registry.example/app (debian 9)",
            "Class": "os-pkgs",
        },
        {"Target": "package-lock.json", "Class": "lang-pkgs", "Type": "npm"},
    ],
}

GRYPE: dict[str, Any] = {
    "matches": [
        {
            "vulnerability": {
                "id": "GHSA-aaaa",
                "severity": "High",
                "fix": {
                    "versions": ["4.17.21"],
                    "state": "fixed",
                    "available": [{"version": "4.17.21", "date": "2025-11-01"}],
                },
                "cvss": [{"metrics": {"baseScore": 7.4}}],
                "epss": [{"epss": 0.93}],
                "knownExploited": [{"cve": "CVE-2021-1"}],
            },
            "relatedVulnerabilities": [{"id": "CVE-2021-1"}],
            "artifact": {
                "name": "lodash",
                "version": "4.17.15",
                "purl": "pkg:npm/lodash@4.17.15",
                "locations": [{"path": "/app/package-lock.json"}],
            },
        }
    ],
    "source": {
        "type": "image",
        "target": {"manifestDigest": DIGEST, "imageID": "sha256:" + "2" * 64, "repoDigests": []},
    },
    "descriptor": {
        "name": "grype",
        "version": "0.104.0",
        "timestamp": "2026-01-01T10:00:00Z",
        "db": {"status": {"built": "2025-12-31T10:00:00Z"}},
    },
}

OSV: dict[str, Any] = {
    "results": [
        {
            "source": {"path": "/src/go.mod", "type": "lockfile"},
            "packages": [
                {
                    "package": {"name": "x/net", "version": "0.1", "ecosystem": "Go"},
                    "vulnerabilities": [
                        {
                            "id": "GO-1",
                            "aliases": ["CVE-1"],
                            "affected": [
                                {
                                    "package": {"name": "x/net"},
                                    "ranges": [
                                        {"type": "SEMVER", "events": [{"fixed": "0.2"}]},
                                        {"type": "GIT", "events": [{"fixed": "abcdef"}]},
                                    ],
                                }
                            ],
                        },
                        {"id": "GHSA-1", "database_specific": {"severity": "MODERATE"}},
                    ],
                    "groups": [{"ids": ["GO-1", "GHSA-1"], "max_severity": "7.5"}],
                }
            ],
        }
    ]
}

NPM: dict[str, Any] = {
    "auditReportVersion": 2,
    "vulnerabilities": {
        "lodash": {
            "name": "lodash",
            "severity": "high",
            "via": [
                {
                    "source": 1065,
                    "name": "lodash",
                    "title": "Prototype pollution",
                    "url": "https://github.com/advisories/GHSA-p6mc",
                    "severity": "high",
                    "cvss": {"score": 7.4},
                }
            ],
            "nodes": ["node_modules/lodash"],
            "fixAvailable": True,
        },
        "tool": {"name": "tool", "severity": "high", "via": ["lodash"], "fixAvailable": False},
    },
    "metadata": {"dependencies": {"prod": 2, "total": 12}},
}
NPM_REFUSED: dict[str, Any] = {
    "message": "405 Method Not Allowed",
    "method": "POST",
    "uri": "https://registry.example/-/npm/v1/security/audits/quick",
    "statusCode": 405,
    "error": {"summary": "", "detail": ""},
}

PIP_AUDIT: dict[str, Any] = {
    "dependencies": [
        {
            "name": "flask",
            "version": "0.5",
            "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.0"], "aliases": ["CVE-2"]}],
        },
        {"name": "own", "skip_reason": "could not be audited"},
    ],
    "fixes": [],
}

CYCLONEDX: dict[str, Any] = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "metadata": {
        "timestamp": "2026-01-01T10:00:00Z",
        "tools": {"components": [{"name": "syft", "version": "1.18"}]},
        "component": {"type": "container", "name": "app", "version": DIGEST},
    },
    "components": [
        {
            "type": "library",
            "group": "@acme",
            "name": "a",
            "version": "1",
            "purl": "pkg:npm/%40acme/a@1",
            "licenses": [{"license": {"id": "MIT"}}],
            "components": [{"type": "library", "name": "b", "licenses": [{"expression": "X"}]}],
        },
        {"type": "file", "name": "/etc/passwd"},
    ],
}
SPDX: dict[str, Any] = {
    "spdxVersion": "SPDX-2.3",
    "SPDXID": "SPDXRef-DOCUMENT",
    "creationInfo": {"created": "2026-01-01T10:00:00Z", "creators": ["Tool: syft-1.18"]},
    "packages": [
        {
            "name": "a",
            "SPDXID": "SPDXRef-Package-a",
            "versionInfo": "1",
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "MIT",
            "externalRefs": [{"referenceType": "purl", "referenceLocator": "pkg:npm/a@1"}],
        },
        {"name": "app", "versionInfo": DIGEST, "primaryPackagePurpose": "CONTAINER"},
    ],
}
STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "predicateType": "https://spdx.dev/Document",
    "subject": [{"name": "_", "digest": {"sha256": DIGEST.partition(":")[2]}}],
    "predicate": SPDX,
}
SPDX3: dict[str, Any] = {
    "@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld",
    "@graph": [
        {"type": "CreationInfo", "@id": "_:c", "created": "2026-01-01T10:00:00Z"},
        {"type": "software_Package", "spdxId": "p", "name": "a", "software_packageVersion": "1"},
        {
            "type": "simplelicensing_LicenseExpression",
            "spdxId": "l",
            "simplelicensing_licenseExpression": "MIT",
        },
        {
            "type": "Relationship",
            "from": "p",
            "to": ["l"],
            "relationshipType": "hasDeclaredLicense",
        },
    ],
}
ESLINT: list[dict[str, Any]] = [
    {
        "filePath": "/repo/src/a.js",
        "messages": [
            {"ruleId": "no-unused-vars", "severity": 2, "message": "'x' is unused.", "line": 3},
            {"ruleId": "no-console", "severity": 1, "message": "No console.", "line": 4},
        ],
        "suppressedMessages": [
            {
                "ruleId": "no-eval",
                "severity": 2,
                "message": "eval is harmful.",
                "line": 9,
                "suppressions": [{"kind": "directive", "justification": ""}],
            }
        ],
        "errorCount": 1,
        "warningCount": 1,
        "source": "let x",
    },
    {"filePath": "/repo/src/b.js", "messages": [], "suppressedMessages": []},
]
OPENVEX: dict[str, Any] = {
    "@context": "https://openvex.dev/ns/v0.2.0",
    "@id": "https://example/vex-1",
    "author": "Security",
    "timestamp": "2026-01-01T10:00:00Z",
    "statements": [
        {
            "vulnerability": {"name": "CVE-2021-1"},
            "products": [{"@id": "pkg:npm/lodash"}],
            "status": "not_affected",
            "justification": "vulnerable_code_not_in_execute_path",
        }
    ],
}

_INSTANCE = {
    "id": "4",
    "uri": "https://staging.example/login?next=%2F",
    "nodeName": "https://staging.example/login (next)",
    "method": "GET",
    "param": "next",
    "attack": "&quot;&gt;&lt;script&gt;",
    "evidence": "",
    "otherinfo": "",
}
ZAP_ALERT: dict[str, Any] = {
    "pluginid": "40012",
    "alertRef": "40012-1",
    "alert": "Cross Site Scripting &#40;Reflected&#41;",
    "name": "Cross Site Scripting &#40;Reflected&#41;",
    "riskcode": "3",
    "confidence": "2",
    "riskdesc": "High (Medium)",
    "desc": "<p>...</p>",
    "instances": [_INSTANCE],
    "count": "1",
    "systemic": False,
    "solution": "<p>...</p>",
    "otherinfo": "",
    "reference": "",
    "cweid": "79",
    "wascid": "8",
    "sourceid": "12",
}
ZAP: dict[str, Any] = {
    "@programName": "ZAP",
    "@version": "2.17.0",
    "@generated": "Thu, 1 Jan 2026 11:30:00",
    "created": "2026-01-01T11:30:00.236211400Z",
    "site": [
        {
            "@name": "https://staging.example",
            "@host": "staging.example",
            "@port": "443",
            "@ssl": "true",
            "alerts": [ZAP_ALERT],
        }
    ],
}
NUCLEI_MATCH: dict[str, Any] = {
    "template": "http/exposures/configs/git-config.yaml",
    "template-url": "https://cloud.example/public/git-config",
    "template-id": "git-config",
    "template-path": "/root/nuclei-templates/http/exposures/configs/git-config.yaml",
    "info": {
        "name": "Git Configuration - Detect",
        "author": ["one"],
        "tags": ["config", "git"],
        "severity": "medium",
        "metadata": {"max-request": 1},
    },
    "type": "http",
    "host": "staging.example",
    "port": "443",
    "scheme": "https",
    "url": "https://staging.example",
    "matched-at": "https://staging.example/.git/config",
    "request": "GET /.git/config HTTP/1.1\r\nHost: staging.example\r\n\r\n",
    "response": "HTTP/1.1 200 OK\r\n\r\n[core]",
    "ip": "192.0.2.7",
    "timestamp": "2026-01-01T11:30:00.123456789Z",
    "curl-command": "curl -X 'GET' 'https://staging.example/.git/config'",
    "matcher-status": True,
}


def json_lines(*documents: Any) -> bytes:
    """JSON Lines, as Nuclei writes them."""
    return b"".join(json.dumps(one, separators=(",", ":")).encode() + b"\n" for one in documents)


ALL: dict[str, bytes] = {
    "cobertura": COBERTURA,
    "jacoco": JACOCO,
    "clover": CLOVER,
    "lcov": LCOV,
    "go": GO,
    "junit": JUNIT,
    "nuclei": json_lines(NUCLEI_MATCH, NUCLEI_MATCH),
    **{
        name: json.dumps(document).encode()
        for name, document in {
            "istanbul": ISTANBUL,
            "istanbul-summary": ISTANBUL_SUMMARY,
            "coverage.py": COVERAGE_PY,
            "sarif": SARIF,
            "eslint": ESLINT,
            "trivy": TRIVY,
            "grype": GRYPE,
            "osv": OSV,
            "npm-audit": NPM,
            "pip-audit": PIP_AUDIT,
            "cyclonedx": CYCLONEDX,
            "spdx": SPDX,
            "spdx3": SPDX3,
            "in-toto": STATEMENT,
            "openvex": OPENVEX,
            "zap": ZAP,
        }.items()
    },
}


def parsed(content: bytes | dict[str, Any] | list[Any], format: str = "") -> Report:
    """The report behind bytes or a JSON document."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse_report(BytesIO(raw), format)
