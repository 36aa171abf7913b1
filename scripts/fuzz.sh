#!/bin/bash
# Fuzzes every reader of Kiln, or the targets named, MINUTES each (10), and prints what came out as a table.
# Usage: [MINUTES=10] [FEATURES=engine] scripts/fuzz.sh [TARGET…]
# Needs a nightly toolchain and `cargo install cargo-fuzz`. FEATURES= leaves out the targets that need the tensor engine,
# whose first build takes long. Findings are left in fuzz/artifacts; `fuzz/target/…/TARGET FILE` repeats one.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
MINUTES=${MINUTES:-10} FEATURES=${FEATURES-engine}
cargo +nightly fuzz build --sanitizer none ${FEATURES:+--features "$FEATURES"} >&2 || exit 2
built=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release
fuzz/collect.sh fuzz/corpus || exit 2
if [ $# -eq 0 ]; then
  for file in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$file" .rs)
    if [ -x "$built/$name" ]; then set -- "$@" "$name"; fi
  done
fi

# What targets write lies in memory.
TMPDIR=$(mktemp -d -p /dev/shm) && export TMPDIR && trap 'rm -rf "$TMPDIR"' EXIT
# No allocation beyond this, however little of it is touched.
ulimit -v 4194304
printf '| %-12s | %7s | %11s | %8s | %8s |\n' target minutes executions coverage findings
printf '|---|---|---|---|---|\n'
status=0
for target in "$@"; do
  mkdir -p "fuzz/artifacts/$target"
  log=$TMPDIR/$target.log executions=0 findings=0 coverage=0 end=$((SECONDS + MINUTES * 60))
  # A finding ends the process; the next one goes on with the inputs that were found so far.
  while left=$((end - SECONDS)) && [ $left -gt 0 ] && [ $findings -lt 20 ]; do
    "$built/$target" -rss_limit_mb=2048 -timeout=10 -max_total_time=$left -print_final_stats=1 \
      -artifact_prefix="fuzz/artifacts/$target/" "fuzz/corpus/$target" >"$log" 2>&1
    ended=$? found=$(grep -ac 'Test unit written' "$log")
    ran=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    # What ended over time says nothing of that.
    executions=$((executions + ${ran:-0}))
    seen=$(sed -nE 's/.* cov: ([0-9]+) .*/\1/p' "$log" | tail -n 1)
    [ "${seen:-0}" -gt $coverage ] && coverage=$seen
    findings=$((findings + found))
    # Such as on a full disk.
    [ $ended -eq 0 ] || [ "$found" -gt 0 ] || { tail -n 3 "$log" >&2; status=1; break; }
    [ "$found" -eq 0 ] || grep -aE "panicked at|ERROR: libFuzzer|memory allocation of|Test unit written" -A1 "$log" | tail -n 8 >&2
  done
  printf '| %-12s | %7s | %11s | %8s | %8s |\n' "$target" "$MINUTES" $executions $coverage $findings
  [ $findings -eq 0 ] || status=1
done
exit $status
