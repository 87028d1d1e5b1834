#!/usr/bin/env python3
"""Judges one report of the Autobahn suite by its index.json; the suite's own exit code says nothing.

usage: autobahn_judge.py SIDE REPORT_FOLDER EXCEPTIONS_FILE
"""

import json
import pathlib
import sys

GOOD = {"OK", "INFORMATIONAL"}
# Fewer cases than this mean that the run was cut off: groups 1 to 7 and 10 hold 247, group 9 another 54.
CASES_MIN = 301


def main() -> int:
    side, folder, exceptions_file = sys.argv[1:4]
    allowed = {}
    for number, line in enumerate(pathlib.Path(exceptions_file).read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        fields = line.split(None, 3)
        if len(fields) < 4 or fields[0] not in ("server", "client"):
            print(f"{exceptions_file}:{number}: expected SIDE CASE BEHAVIOR REASON")
            return 1
        if fields[0] == side:
            allowed[fields[1]] = fields[2]

    index = pathlib.Path(folder) / "index.json"
    if not index.exists():
        print(f"autobahn {side}: no report was written")
        return 1
    agents = json.loads(index.read_text())
    if list(agents) != ["voxrelay"]:
        print(f"autobahn {side}: expected one agent named voxrelay, got {list(agents)}")
        return 1

    cases = agents["voxrelay"]
    bad = []
    used = set()
    for case in sorted(cases, key=lambda name: [int(part) for part in name.split(".")]):
        result = cases[case]
        behavior, close = result["behavior"], result["behaviorClose"]
        if behavior in GOOD and close in GOOD:
            continue
        if case in allowed and allowed[case] in (behavior, close):
            used.add(case)
            continue
        bad.append(f"  {case}: behavior {behavior}, behaviorClose {close}")
    for case in sorted(set(allowed) - used):
        bad.append(f"  {case}: listed as an exception, but it ends well: remove the line")
    if len(cases) < CASES_MIN:
        bad.append(f"  only {len(cases)} cases ran, expected at least {CASES_MIN}")

    print(f"autobahn {side}: {len(cases)} cases, {len(used)} named exceptions, {len(bad)} faults")
    print("\n".join(bad), end="\n" if bad else "")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
