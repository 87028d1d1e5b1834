#!/usr/bin/env bash
# Runs the Autobahn suite against one side of voxrelay and judges the report.
#
#   autobahn.sh server SUITE_FOLDER REPORT_FOLDER URL          the suite as client against an echo server at URL
#   autobahn.sh client SUITE_FOLDER REPORT_FOLDER COMMAND …    the suite as server on a free port; runs
#                                                              `COMMAND … --url ws://127.0.0.1:PORT --agent voxrelay`
# Cases 1 to 10. Groups 12 and 13 test permessage-deflate, which voxrelay never negotiates.
set -euo pipefail

side=$1 suite=$(cd "$2" && pwd) report=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rm -rf "$report"
mkdir -p "$report"
report=$(cd "$report" && pwd)
server_pid=
trap '[ -z "$server_pid" ] || { kill "$server_pid" 2>/dev/null || true; wait "$server_pid" 2>/dev/null || true; }' EXIT

case $side in
server)
    cat > "$report/spec.json" <<JSON
{"outdir": "$report", "servers": [{"agent": "voxrelay", "url": "$1"}],
 "cases": ["*"], "exclude-cases": ["12.*", "13.*"], "exclude-agent-cases": {}}
JSON
    timeout 600 "$suite/wstest" -m fuzzingclient -s "$report/spec.json" > "$report/wstest.log" 2>&1 || {
        tail -n 20 "$report/wstest.log"
        exit 1
    }
    ;;
client)
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    cat > "$report/spec.json" <<JSON
{"url": "ws://127.0.0.1:$port", "outdir": "$report", "cases": ["*"], "exclude-cases": ["12.*", "13.*"],
 "exclude-agent-cases": {}}
JSON
    "$suite/wstest" -m fuzzingserver -s "$report/spec.json" -u 0 > "$report/wstest.log" 2>&1 &
    server_pid=$!
    for _ in $(seq 100); do
        if (exec 3<> "/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
        if ! kill -0 "$server_pid" 2>/dev/null; then break; fi
        sleep 0.2
    done
    timeout 600 "$@" --url "ws://127.0.0.1:$port" --agent voxrelay > "$report/client.log" 2>&1 || {
        echo "the echo client failed:"
        tail -n 20 "$report/client.log"
        exit 1
    }
    ;;
*)
    echo "usage: autobahn.sh server|client SUITE REPORT URL|COMMAND…" >&2
    exit 2
    ;;
esac
python3 -B "$here/autobahn_judge.py" "$side" "$report" "$here/autobahn-exceptions.txt"
