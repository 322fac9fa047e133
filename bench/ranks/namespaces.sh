#!/usr/bin/env bash
# Ranks on several hosts, each a network namespace: the state that they leave is that of one process, the interfaces carry the bytes that the
# program says, and a rank that is killed ends the job. Needs root, iproute2, Open MPI 4, and a program built with `--features mpi`.
#
#   bench/ranks/namespaces.sh target/release/longreach [HOSTS]
set -euo pipefail

program=$(realpath "$1")
hosts=${2:-3}
work=$(mktemp -d)
bridge=lrbridge

clean() {
  for i in $(seq 1 "$hosts"); do ip netns del "lr$i" 2>/dev/null || true; done
  ip netns del "$bridge" 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT

# A bridge in a namespace of its own, and a pair of interfaces from it to each host.
ip netns add "$bridge"
ip -n "$bridge" link add br0 type bridge
ip -n "$bridge" link set br0 up
list=""
for i in $(seq 1 "$hosts"); do
  ip netns add "lr$i"
  ip link add "lrv$i" netns "lr$i" type veth peer name "lrb$i" netns "$bridge"
  ip -n "$bridge" link set "lrb$i" master br0 up
  ip -n "lr$i" addr add "10.77.0.$i/24" dev "lrv$i"
  ip -n "lr$i" link set "lrv$i" up
  ip -n "lr$i" link set lo up
  list+="${list:+,}10.77.0.$i:1"
done

# In place of ssh: the last part of the address is the namespace. Host names of their own keep Open MPI from sharing memory.
cat > "$work/agent" <<'AGENT'
#!/bin/sh
i=${1##*.}
shift
exec ip netns exec "lr$i" unshare -u sh -c "hostname lr$i; $*"
AGENT
chmod +x "$work/agent"

job() {
  ip netns exec lr1 unshare -u sh -c 'hostname lr1; exec "$@"' - mpirun --allow-run-as-root -n "$hosts" --host "$list" \
    --mca plm_rsh_agent "$work/agent" --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 \
    --mca oob_tcp_if_include 10.77.0.0/24 -x HF_HUB_OFFLINE=1 "$program" "$@"
}

carried() {
  local sum=0
  for i in $(seq 1 "$hosts"); do
    sum=$((sum + $(ip netns exec "lr$i" cat "/sys/class/net/lrv$i/statistics/tx_bytes" 2>/dev/null || echo 0)))
  done
  echo "$sum"
}

for _ in $(seq 60); do echo "A trait tells the compiler about functionality a type has."; done > "$work/prompt.txt"
call=(generate --prompt-file "$work/prompt.txt" -n 4 --seed 3 --threads 1 --save-state)

"$program" "${call[@]}" "$work/alone.state" > "$work/alone.txt"
before=$(carried)
job "${call[@]}" "$work/ranks.state" > "$work/ranks.txt" 2> "$work/said"
after=$(carried)
cmp "$work/alone.txt" "$work/ranks.txt"
cmp "$work/alone.state" "$work/ranks.state"
grep -o "read .* sent [^,]*" "$work/said"
echo "the interfaces carried $((after - before)) bytes, those of starting the job and of TCP included"

# A rank that is killed.
job "${call[@]}" "$work/killed.state" > /dev/null 2> "$work/said" &
started=$!
victim=""
for _ in $(seq 200); do
  for pid in $(ip netns pids "lr$hosts"); do
    [ "$(readlink "/proc/$pid/exe" || true)" = "$program" ] && victim=$pid
  done
  [ -n "$victim" ] && break
  sleep 0.1
done
kill -9 "$victim"
if wait "$started"; then
  echo "the job has ended without an error although a rank was killed" >&2
  exit 1
fi
test ! -e "$work/killed.state"
echo "a killed rank has ended the job, and no file was written"
