#!/usr/bin/env bash
# Ends the nodes that deploy/fleet/start.sh has started in a directory, and nothing else. What they have stored stays.
set -euo pipefail

if (($# != 1)) || [[ ! -d $1/engine ]]; then
	echo "stop.sh: want the directory that start.sh was given" >&2
	exit 1
fi
fleet=$(cd "$1/engine" && pwd)
for node in n1 n2 n3; do
	pid=$(cat "$fleet/$node/pid" 2>/dev/null) || pid=
	if [[ ! $pid =~ ^[0-9]+$ || $(readlink "/proc/$pid/cwd" 2>/dev/null) != "$fleet/$node" ]]; then
		echo "$node does not run"
		continue
	fi
	kill -TERM "$pid"
	for ((i = 0; i < 300; i++)); do
		[[ -e /proc/$pid ]] || break
		sleep 0.1
	done
	if [[ -e /proc/$pid ]]; then
		echo "stop.sh: $node (process $pid) does not end: see $fleet/$node/log" >&2
		exit 1
	fi
	rm -f "$fleet/$node/pid"
	echo "$node has ended"
done
