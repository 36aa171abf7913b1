#!/bin/bash
# Collects the seeds of every target: those of fuzz/seeds, and what the repository has besides.
# Usage: fuzz/collect.sh FOLDER      makes FOLDER/TARGET/*
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
cp -r "$root"/fuzz/seeds/* "$out"
fixtures=$root/tests/reference/fixtures
mkdir -p "$out"/{weights,safetensors,recipe,diffusers}
cp "$fixtures"/weights/* "$out/weights"
for name in iwae betatcvae weights minimise; do cp "$fixtures/$name.safetensors" "$out/safetensors"; done
for file in "$root"/recipes/*/*.toml; do
  case $file in
    */claim*.toml) ;;
    *) cp "$file" "$out/recipe/$(basename "$(dirname "$file")")-$(basename "$file")" ;;
  esac
done
for network in $(find "$fixtures/diffusers" -name config.json); do
  folder=$(dirname "$network")
  scheduler=$(ls "$folder"/scheduler_config.json "$folder"/../scheduler/scheduler_config.json 2>/dev/null | head -n 1)
  { cat "$network"; printf '\0'; cat "$scheduler"; } >"$out/diffusers/$(echo "${folder#"$fixtures"/diffusers/}" | tr / -)"
done
