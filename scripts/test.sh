#!/bin/sh
# All tests, in two halves side by side: those with real peers wait a lot for them. What the half
# with peers says is shown when both have ended.
#   scripts/test.sh PYTHON
set -u
python=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$python" -m pytest tests/conformance tests/faults tests/integration > "$log" 2>&1 &
peers=$!
trap 'kill -INT "$peers" 2> /dev/null; wait "$peers"; exit 130' INT TERM
"$python" -m pytest --ignore tests/conformance --ignore tests/faults --ignore tests/integration
alone=$?
wait "$peers"
status=$?
cat "$log"
[ "$alone" -eq 0 ] && [ "$status" -eq 0 ]
