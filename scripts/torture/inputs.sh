#!/bin/bash
# Gives every reader of Kiln COUNT (3,000) mutated inputs, in processes of 2 GiB and 20 seconds an input, and counts how that
# ends. Findings are left in WORK.
# Usage: [COUNT=3000] [SEED=1] [WORK=…] scripts/torture/inputs.sh [TARGET…]
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
WORK=${WORK:-$(mktemp -d)}
# What readers open lies in memory.
TMPDIR=$(mktemp -d -p /dev/shm) && export TMPDIR && trap 'rm -rf "$TMPDIR"' EXIT
cargo build --release --locked --workspace --example mutated
fuzz/collect.sh "$WORK/seeds"
target/release/examples/mutated "$WORK/seeds" "${COUNT:-3000}" "${SEED:-1}" "$WORK/findings" "$@"
