#!/bin/bash
# Damages every file of a run in COUNT ways (300): a flipped bit, a cut end, a block of zeros, other bytes. A run that goes on
# then must end with the bytes of one that was never damaged, or be refused in one line.
# Usage: [KILN=…] [WORK=…] [COUNT=300] [SEED=1] scripts/torture/corruptions.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
COUNT=${COUNT:-300}

for system in "${SYSTEMS[@]}"; do
  rm -rf "half-$system" "full-$system"
  train "$system" "half-$system" 30 >/dev/null && cp -r "half-$system" "full-$system" && train "$system" "full-$system" 40 >/dev/null || exit 1
done
done=0
while [ $done -lt "$COUNT" ]; do
  system=${SYSTEMS[done % ${#SYSTEMS[@]}]}
  rm -rf damaged && cp -r "half-$system" damaged
  mapfile -t files < <(find damaged -type f -size +0 | sort)
  file=${files[done / ${#SYSTEMS[@]} % ${#files[@]}]}
  size=$(stat -c %s "$file")
  at=$(((RANDOM * 32768 + RANDOM) % size))
  kind=$((RANDOM % 4))
  case $kind in
    0) byte=$(od -An -tu1 -j $at -N 1 "$file" | tr -d ' ')
       printf "\\x$(printf %02x $((byte ^ (1 << RANDOM % 8))))" | dd of="$file" bs=1 seek=$at conv=notrunc status=none ;;
    1) truncate -s $at "$file" ;;
    2) dd if=/dev/zero of="$file" bs=1 seek=$at count=64 conv=notrunc status=none ;;
    3) head -c 16 /dev/urandom | dd of="$file" bs=1 seek=$at conv=notrunc status=none ;;
  esac
  timeout 60 "$KILN" --quiet --threads 1 resume damaged --steps 40 >out 2>err
  status=$?
  what="$system, $file, kind $kind at $at"
  case $status in
    0) if [ "$(weights damaged)" = "$(weights "full-$system")" ]; then count "ended with the same bytes"; else count "other weights"; echo "other weights: $what"; fi ;;
    1 | 2) if [ "$(grep -c '^kiln: ' err)" = 1 ]; then count "refused in a line"; else count "refused otherwise"; echo "$what"; cat err; fi ;;
    124) count "hung"; echo "hung: $what" ;;
    *) count "crashed"; echo "crashed ($status): $what"; tail -n 3 err ;;
  esac
  done=$((done + 1))
done
report "corruptions" "other weights" "refused otherwise" "hung" "crashed"
