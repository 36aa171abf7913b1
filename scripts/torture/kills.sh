#!/bin/bash
# Kills training at random moments until COUNT kills (300) have hit four systems, and checks that what the runs end with is
# what a run that was never killed ends with: every byte of weights, optimiser and log, every preview, nothing left over.
# Usage: [KILN=…] [WORK=…] [COUNT=300] [SEED=1] scripts/torture/kills.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
COUNT=${COUNT:-300} STEPS=${STEPS:-400}

for system in "${SYSTEMS[@]}"; do
  rm -rf "whole-$system" && train "$system" "whole-$system" "$STEPS" >/dev/null || exit 1
done
kills=0 round=0
while [ $kills -lt "$COUNT" ]; do
  round=$((round + 1))
  for system in "${SYSTEMS[@]}"; do
    run=killed-$system
    rm -rf "$run"
    finished=
    until [ $finished ]; do
      # shellcheck disable=SC2046
      "$KILN" $(training "$system" "$run" "$STEPS") >/dev/null 2>err &
      pid=$!
      sleep "$(printf '0.%03d' $((RANDOM % 600 + 20)))"
      if kill -9 $pid 2>/dev/null; then kills=$((kills + 1)); count kills; fi
      wait $pid 2>/dev/null
      status=$?
      case $status in
        0) finished=1 ;;
        137) ;;
        *) count "failed starts"; tail -n 1 err; finished=failed ;;
      esac
    done
    [ $finished = failed ] && continue
    count "runs that ended"
    [ "$(weights "$run")" = "$(weights "whole-$system")" ] || { count "other weights"; echo "$run: other weights"; }
    [ "$(log "$run")" = "$(log "whole-$system")" ] || { count "other logs"; echo "$run: another log"; }
    [ "$(ls "$run/previews" 2>/dev/null)" = "$(ls "whole-$system/previews" 2>/dev/null)" ] || { count "missing previews"; ls "$run/previews"; }
    left=$(find "$run" -name '*.partial' -o -name '.partial*' -o -size 0 -not -name lock | head -n 3)
    [ -z "$left" ] || { count "left files"; echo "$left"; }
  done
done
report "kills ($round rounds, ${#SYSTEMS[@]} systems)" "failed starts" "other weights" "other logs" "missing previews" "left files"
