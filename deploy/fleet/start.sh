#!/usr/bin/env bash
# Starts an engine for a fleet on this machine: three nats-server processes in a cluster, reached from this machine alone. For trying it out; on three
# machines each node is started on its own, see README.md.
#
#   deploy/fleet/start.sh DIRECTORY     makes the fleet there if there is none, starts the nodes that do not run, makes streams and buckets
#   deploy/fleet/stop.sh DIRECTORY      ends them; what they have stored stays
#
# LAWNBERRY and NATS_SERVER name the programs; without them, and with none on the PATH, they are built from this checkout into DIRECTORY/bin.
# PORT, CLUSTER_PORT and MONITOR_PORT are those of the first node, the others count on. MOWERS is how many there will be.
set -euo pipefail

fail() {
	echo "start.sh: $*" >&2
	exit 1
}

(($# == 1)) || fail "want the directory of the fleet, such as deploy/fleet/start.sh /tmp/fleet"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
fleet=$dir/engine

# program NAME PATH BUILD...: PATH, the one on the PATH, or what the command builds as DIRECTORY/bin/NAME.
program() {
	local name=$1 path=$2
	shift 2
	if [[ -n $path ]]; then
		echo "$path"
	elif command -v "$name" 2>/dev/null; then
		:
	else
		command -v go >/dev/null || fail "$name is missing, and so is Go to build it: install one of them"
		[[ -x $dir/bin/$name ]] || { echo "building $name ..." >&2 && CGO_ENABLED=0 "$@" -o "$dir/bin/$name" "${build[@]}" >&2; }
		echo "$dir/bin/$name"
	fi
}
build=("$root/cmd/lawnberry")
lawnberry=$(program lawnberry "${LAWNBERRY:-}" go build -C "$root" -trimpath)
build=(github.com/nats-io/nats-server/v2)
server=$(program nats-server "${NATS_SERVER:-}" go build -C "$root/tools/nats-server" -trimpath)
version=$("$server" --version) || fail "$server does not run"
[[ $version =~ v2\.([0-9]+)\. ]] && ((BASH_REMATCH[1] < 11)) && fail "$version is too old: 2.11 or newer is needed"

if [[ ! -e $fleet/fleet.json ]]; then
	"$lawnberry" fleet init "$fleet" --nodes 3 --port "${PORT:-4222}" --cluster-port "${CLUSTER_PORT:-6222}" --monitor-port "${MONITOR_PORT:-8222}"
fi

# runs NODE: its process is there, and is what it should be.
runs() {
	local pid
	pid=$(cat "$fleet/$1/pid" 2>/dev/null) && [[ $pid =~ ^[0-9]+$ && $(readlink "/proc/$pid/cwd" 2>/dev/null) == "$fleet/$1" ]]
}
for node in n1 n2 n3; do
	if runs "$node"; then
		echo "$node runs already (process $(cat "$fleet/$node/pid"))"
		continue
	fi
	rm -f "$fleet/$node/pid"
	(cd "$fleet/$node" && exec setsid "$server" -c nats.conf -P pid >>log 2>&1 </dev/null) &
done

# The streams are made once a majority is there and has elected a leader.
for ((try = 0; ; try++)); do
	if output=$("$lawnberry" fleet setup --dir "$fleet" --mowers "${MOWERS:-50}" 2>&1); then
		echo "$output"
		break
	fi
	((try < 60)) || fail "the engine is not ready; the ends of its logs:
$(tail -n 5 "$fleet"/n?/log)
$output"
	sleep 1
done
for node in n1 n2 n3; do
	runs "$node" || fail "$node has ended: $(tail -n 5 "$fleet/$node/log")"
	echo "$node runs, process $(cat "$fleet/$node/pid"), log $fleet/$node/log"
done
echo "enrol a mower:  $lawnberry fleet enrol MOWER --dir $fleet --out MOWER.creds"
