#!/bin/bash
# Numeric extremes for every flag of every verb, read from `kiln VERB --help`, for every number of the systems' recipes, and for
# every number in the recipe of a finished run. Each command has LIMIT seconds of a processor and 10 GiB of addresses; it must do its work, or
# refuse in one line.
# Usage: [KILN=…] [WORK=…] [ONLY="flags keys runs"] [VERB=…] [EVERY=1] [LIMIT=30] scripts/torture/flags.sh
# EVERY=5 tries every fifth, which SEED says.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
ONLY=${ONLY:-flags keys runs}
EVERY=${EVERY:-1}
LIMIT=${LIMIT:-30}
tried=$((${SEED:-1} % EVERY))
VALUES=(0 -1 1 2147483648 9223372036854775808 18446744073709551615 1e308 nan inf "" "$(printf 'x%.0s' {1..20000})" $'\xff' $'\e[31m')

# attempt WHAT WORDS...: runs a command and counts how it ended.
attempt() {
  local what=$1 status said
  shift
  tried=$((tried + 1))
  [ $((tried % EVERY)) = 0 ] || return
  rm -rf o o.png o.html o.safetensors
  { (ulimit -v 10485760 -c 0 -t "$LIMIT"; exec timeout -s KILL $((20 * LIMIT)) "$KILN" --quiet "$@") >out 2>err </dev/null; } 2>/dev/null
  status=$?
  said=$(tail -n 1 err | head -c 300)
  count runs
  case $status in
    0) count ok ;;
    1 | 2) if [[ $said == "kiln: "* ]] && [ "$(grep -c '^kiln: ' err)" = 1 ] && ! grep -q $'\e' err; then count "refused in a line"
           else count "refused otherwise"; echo "refused otherwise: $what: $said"; fi ;;
    101) count panics; echo "panic: $what: $(grep -a -m 1 panicked -A 1 err | tr '\n' ' ' | head -c 300)" ;;
    124 | 137 | 152) count hangs; echo "hang: $what" ;;
    *) count aborts; echo "abort ($status): $what: $said" ;;
  esac
}

# Small runs, and pictures to work on.
ready() {
  local s
  for s in vae ddpm classifier; do
    [ -d "$s/checkpoints" ] || "$KILN" --quiet --threads 1 train "$s" $(small "$s") --batch 4 --steps 2 --out "$s" >/dev/null || exit 1
  done
  [ -d painter/checkpoints ] || "$KILN" --quiet --threads 1 train cvae --set model.condition=quadrants --set model.hidden=[8] --batch 4 --steps 2 \
    --out painter >/dev/null || exit 1
  [ -d exported ] || "$KILN" --quiet export ddpm --out exported >/dev/null || exit 1
  [ -d cyclegan/checkpoints ] || "$KILN" --quiet --threads 1 train cyclegan --data starter,starter --set data.size=32 --set data.resize=pad \
    --set model.generator_channels=4 --set model.discriminator_channels=4 --batch 2 --steps 1 --out cyclegan >/dev/null || exit 1
  [ -d in ] || "$KILN" --quiet sample vae -n 3 --out in >/dev/null || exit 1
  rm -f in/grid.png
  [ -f stats.safetensors ] || "$KILN" --quiet --threads 1 data stats starter --split test --keep 100 --features run:classifier --out stats.safetensors >/dev/null || exit 1
}

# A command that works, for each way to use a verb: `VERB|words`.
COMMANDS=(
  "sample|sample vae -n 2 --out o"
  "sample|sample ddpm -n 1 --steps 2 --out o"
  "sample|sample ddpm -n 1 --steps 2 --out o --sampler pc"
  "translate|translate cyclegan in/00000.png o.png"
  "reconstruct|reconstruct vae in/00000.png o.png"
  "inpaint|inpaint painter in/00000.png o.png"
  "encode|encode vae in --out o.safetensors"
  "interpolate|interpolate vae --out o.png --steps 2"
  "edit|edit vae --out o.png --start 0 --minus 1 --plus 2"
  "edit|edit vae --out o.png --traverse --columns 2 --start 0"
  "edit|edit vae --out o.png --attribute 1 --columns 2"
  "classify|classify classifier in"
  "outliers|outliers vae in -n 4"
  "evaluate|evaluate vae --metrics fid,is --features run:classifier -n 20"
  "evaluate|evaluate vae --metrics nll -n 4"
  "evaluate|evaluate in --against stats.safetensors --metrics fid --features run:classifier -n 3"
  "compare|compare vae --metrics none --samples 2 --out o.html"
  "export|export ddpm --out o"
  "import|import exported --out o"
  "bench|bench conv --batch 1 --size 4 --channels 2 --runs 1"
  "train|train vae --set model.hidden=[8] --batch 2 --steps 1 --out o"
  "resume|resume vae"
  "claim|claim nothing"
  "data show|data show starter -n 4 --out o.png"
  "data stats|data stats starter --split test --features run:classifier --keep 10 --out o.safetensors"
  "data fetch|data fetch nothing"
  "data list|data list"
  "systems|systems"
)

# It needs a network that is downloaded once.
if "$KILN" data list | grep -q "weights:vgg16-hed *here"; then
  COMMANDS+=("stylize|stylize in/00000.png o.png --style in/00001.png --size 32 --steps 2")
fi

# What a flag needs beside it to be read at all.
beside() {
  case $1 in
    --classifier-scale | --classifier-looks-at) echo "--classifier classifier" ;;
    --guide-scale | --segmenter | --backward-steps | --recurrence) echo "--guide colours:in/00000.png" ;;
    --backward-rate) echo "--guide colours:in/00000.png --backward-steps 1" ;;
    --eta) echo "--sampler ddim" ;;
    --order | --solver-type | --sigmas | --final-sigma | --sigma-max) echo "--sampler dpm++" ;;
    --rtol | --atol) echo "--sampler ode" ;;
    --learning-rate) echo "--method adam" ;;
    --metrics) [ "$2" = train ] && echo "--evaluate-every 4" ;;
  esac
}

# without FLAG WORDS...: the words without a flag and its value.
without() {
  local flag=$1 skip=0 word
  shift
  for word in "$@"; do
    if [ $skip = 1 ]; then skip=0; elif [ "$word" = "$flag" ]; then skip=1; else printf '%s\n' "$word"; fi
  done
}

flags() {
  local command verb words flag value base needs help key
  declare -A known
  for command in "${COMMANDS[@]}"; do
    verb=${command%%|*}
    [ -z "${VERB:-}" ] || [ "$VERB" = "$verb" ] || continue
    read -ra words <<<"${command#*|}"
    attempt "$command" "${words[@]}"
    # shellcheck disable=SC2086
    help=$("$KILN" $verb --help)
    for flag in $(grep -oE '^ +(-[a-z], )?(--?[a-z][a-z-]*) +<' <<<"$help" | grep -oE -- '--?[a-z][a-z-]*' | sort -u); do
      # What is no number, and what every verb has, is tried once.
      case $flag in --threads | --precision | --device) key=$flag ;; *) key="$verb $flag" ;; esac
      if [ -n "${known[$key]:-}" ] && ! grep -A 4 -E "^ +(-[a-z], )?$flag +<" <<<"$help" | grep -q 'range:'; then continue; fi
      [ "$key" != "$flag" ] || [ -z "${known[$key]:-}" ] || continue
      known[$key]=1
      mapfile -t base < <(without "$flag" "${words[@]}")
      read -ra needs <<<"$(beside "$flag" "$verb")"
      for value in "${VALUES[@]}"; do
        case $flag in
          --?*) attempt "$command $flag=${value:0:24}" "${base[@]}" "${needs[@]}" "$flag=$value" ;;
          *) attempt "$command $flag ${value:0:24}" "${base[@]}" "${needs[@]}" "$flag" "$value" ;;
        esac
      done
    done
  done
}

# The keys of TOML whose values are numbers or lists of them: `key value`, dotted.
numbers() {
  awk '/^\[/ { gsub(/[][]/, ""); table = $0 "."; next }
    /^[a-z0-9_]+ = (-?[0-9]|\[$|\[-?[0-9]|nan|inf)/ { key = $1; sub(/^[^=]*= /, ""); print table key, ($0 ~ /^\[/ ? "list" : ($0 ~ /[.e]/ ? "real" : "whole")) }' "$1"
}

EXTREMES=(0 -1 1 2147483648 9223372036854775807 1e308 nan inf)
# extreme KIND VALUE: the value as a setting of that kind, a list of it for a list.
extreme() { case $1 in list) echo "[$2]" ;; real) case $2 in *[.ena]*) echo "$2" ;; *) echo "$2.0" ;; esac ;; *) echo "$2" ;; esac }

keys() {
  local system key kind value data
  declare -A seen
  for system in vae ddpm dcgan classifier iwae cvae dvae ssvae aae betavae dcign pixelcnn pixelrnn cgan cyclegan dann noisy-classifier segmenter ae; do
    data=(--set train.preview_count=1)
    case $system in cyclegan | dann) data+=(--data starter,starter --set data.size=32 --set data.resize=pad) ;; dcgan | cgan) data+=(--set data.size=16 --set data.resize=stretch) ;; esac
    "$KILN" --quiet train "$system" --dry-run "${data[@]}" >recipe 2>err || { count "systems left out"; continue; }
    while read -r key kind; do
      [ -z "${seen[$key]:-}" ] || continue
      seen[$key]=1
      for value in "${EXTREMES[@]}"; do
        # shellcheck disable=SC2046
        attempt "train $system --set $key=$(extreme "$kind" "$value")" --threads 1 train "$system" $(small "$system") "${data[@]}" --batch 2 --steps 1 \
          --out o --set "$key=$(extreme "$kind" "$value")"
      done
    done < <(numbers recipe)
  done
}

runs() {
  local system key kind value last chain
  for system in vae ddpm; do
    chain=()
    [ $system = vae ] || chain=(--steps 2)
    while read -r key kind; do
      last=${key##*.}
      for value in "${EXTREMES[@]}"; do
        rm -rf edited && cp -r "$system" edited
        awk -v table="${key%"$last"}" -v key="$last" -v value="$(extreme "$kind" "$value")" '
          skipping { if (/^\]/) skipping = 0; next }
          /^\[/ { now = $0; gsub(/[][]/, "", now); now = now "." }
          $1 == key && now == table && $2 == "=" { print key " = " value; if (/\[$/) skipping = 1; next }
          { print }' "$system/recipe.toml" >edited/recipe.toml
        attempt "a run of $system with $key = $(extreme "$kind" "$value")" --threads 1 sample edited -n 1 --out o "${chain[@]}"
      done
    done < <(numbers "$system/recipe.toml")
    rm -rf edited && cp -r "$system" edited && echo "system = \"$system\"" >edited/recipe.toml
    attempt "a run of $system with nothing but its system" --threads 1 sample edited -n 1 --out o
    for value in $'\0' '[' 'system = 3' 'system = ""' '[data]' "system = \"$system\"
data = 3"; do
      printf '%s\n' "$value" >edited/recipe.toml
      attempt "a run of $system whose recipe is $value" --threads 1 sample edited -n 1 --out o
    done
  done
}

# Whoever stops it sees what there was until then.
trap 'report "numeric extremes, stopped"; exit 1' INT TERM
ready
for part in $ONLY; do "$part"; done
report "numeric extremes" "refused otherwise" panics hangs aborts
