"""A report of 100 MB is read in bounded memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from shipline.gates.reports.streams import JsonReader


def test_one_text_of_100_mb_is_skipped_in_little_memory() -> None:
    parts = iter([b'{"a": "', *[b"x" * (1 << 20)] * 100, b'", "b": 1}'])

    class Source:
        def read(self, size: int = -1, /) -> bytes:
            return next(parts, b"")

    tracemalloc.start()
    try:
        reader = JsonReader(Source())
        assert [reader.value() for key in reader.members() if key == "b"] == [1]
        reader.finish()
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


BIG = {
    "junit": (
        b"<testsuites><testsuite>",
        b'<testcase classname="package.module.Class" name="test_number_%d" time="0.01">'
        b"<system-out>%s</system-out></testcase>",
        b"</testsuite></testsuites>",
    ),
    "sarif": (
        b'{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},"results":[{"message":{}}',
        b',{"ruleId":"R%d","message":{"text":"problem"},"codeFlows":[{"x":["%s"]}]}',
        b"]}]}",
    ),
    "trivy": (
        b'{"SchemaVersion":2,"ArtifactName":"a","Results":[{"Target":"t","Class":"os-pkgs",'
        b'"Vulnerabilities":[{"VulnerabilityID":"CVE-0","PkgName":"p"}',
        b',{"VulnerabilityID":"CVE-%d","PkgName":"p","Severity":"HIGH","Description":"%s"}',
        b"]}]}",
    ),
}
MEASURE = """
import sys
from shipline.gates.reports import parse_report
with open(sys.argv[1], "rb") as file:
    parse_report(file)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


@pytest.mark.parametrize("format", BIG)
def test_a_report_of_100_mb_takes_less_than_200_mb(format: str, tmp_path: Path) -> None:
    head, element, end = BIG[format]
    path = tmp_path / "report"
    with open(path, "wb") as file:
        file.write(head)
        for number in range((100 << 20) // 1000):
            file.write(element % (number, b"x" * 930))
        file.write(end)
    assert path.stat().st_size > 100e6
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 200
