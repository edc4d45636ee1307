#!/bin/sh
# Two hosts that can reach each other only through firewall and monitor: make demo-inline, or examples/inline/demo.sh MOS…
#
#   client 10.77.0.1  c0 --- m0 [mos run firewall monitor -i m0:m1] m1 --- s0  10.77.0.2 server
#
# All of it is in network namespaces of its own (as root or not) and goes when this script does.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
for program in ip unshare nsenter curl; do
    command -v $program >/dev/null || { echo "demo: no $program: apt-get install iproute2 util-linux curl" >&2; exit 1; }
done
if [ -z "${MOS_DEMO_INSIDE:-}" ]; then
    mos=${*:-mos}
    case $(id -u) in 0) how=-n ;; *) how=-Urn ;; esac
    MOS_DEMO_INSIDE=$mos exec unshare $how sh "$here/demo.sh"
fi

work=$(mktemp -d)
running=
trap 'kill $running 2>/dev/null || true; rm -rf "$work"' EXIT

host() {        # host NAME DEVICE OURS ADDRESS: a namespace on a cable to our device; its process id is in $NAME
    unshare -n sleep 600 &
    pid=$!
    running="$running $pid"
    while [ "$(readlink /proc/$pid/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.02; done
    for which in all default; do        # less on the wire to look at
        nsenter -t $pid -n sh -c "echo 1 >/proc/sys/net/ipv6/conf/$which/disable_ipv6" 2>/dev/null || true
    done
    ip link add "$3" type veth peer name "$2" netns $pid
    nsenter -t $pid -n ip address add "$4/24" dev "$2"
    nsenter -t $pid -n ip link set "$2" up
    nsenter -t $pid -n ip link set lo up
    ip link set "$3" up
    eval "$1=$pid"
}
on() { pid=$1; shift; nsenter -t "$pid" -n "$@"; }
say() { printf '\n$ %s\n' "$*"; }

host client c0 m0 10.77.0.1
host server s0 m1 10.77.0.2
echo "hello from the server" >"$work/index.html"
for port in 80 8080; do
    on $server python3 -m http.server $port --bind 10.77.0.2 --directory "$work" >/dev/null 2>&1 &
    running="$running $!"
done

say "mos run firewall monitor -i m0:m1 --set firewall.rules=examples/inline/rules.toml"
# shellcheck disable=SC2086  # a command of several words
$MOS_DEMO_INSIDE run firewall monitor -i m0:m1 --set "firewall.rules=$here/rules.toml" -v 2>"$work/said" >"$work/out" &
mos=$!
until grep -q '^mos: running' "$work/said"; do
    kill -0 $mos 2>/dev/null || { cat "$work/said"; exit 1; }
    sleep 0.05
done

failed=0
say "curl http://10.77.0.2/"
on $client curl -sS --retry 5 --retry-connrefused --max-time 10 http://10.77.0.2/ || failed=1
say "curl http://10.77.0.2:8080/"
on $client curl -sS --max-time 5 http://10.77.0.2:8080/ && failed=1

kill -TERM $mos
wait $mos || failed=1
say "what monitor saw, and the summary"
cat "$work/out"
grep -e '^packet' -e '^mos: [^r]' "$work/said"
exit $failed
