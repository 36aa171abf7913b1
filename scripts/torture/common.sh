# What the torture scripts share: the binary, a scratch folder, four small systems, and how a command may end.
# Sourced by the others. Settings: KILN (the binary), WORK (the scratch folder), COUNT, SEED.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KILN=$(realpath "${KILN:-$here/../../target/release/kiln}") || exit 2
WORK=${WORK:-$(mktemp -d)}
mkdir -p "$WORK" && cd "$WORK" || exit 2
RANDOM=${SEED:-1}
export KILN_CACHE=${KILN_CACHE:-$WORK/cache}

SYSTEMS=(vae dcgan ddpm classifier)

# What makes a system small enough for hundreds of runs.
small() {
  case $1 in
    vae) echo "--set model.network=mlp --set model.hidden=[32] --set model.latent=4" ;;
    dcgan) echo "--set model.generator_channels=4 --set model.discriminator_channels=4" ;;
    ddpm) echo "--set model.unet.base_channels=16 --set model.unet.channel_multipliers=[1,1] --set model.unet.blocks=1 --set model.unet.attention_levels=[] --set model.unet.patch=1" ;;
    classifier) echo "--set model.channels=4 --set model.features=16" ;;
  esac
}

# training SYSTEM FOLDER STEPS: the words after `kiln` of a run that saves, previews and logs often, or that goes on with it.
training() {
  if [ -f "$2/recipe.toml" ]; then
    echo "--quiet --threads 1 resume $2 --steps $3"
  else
    echo "--quiet --threads 1 train $1 $(small "$1") --batch 4 --seed 1 --steps $3 --out $2 \
      --set train.checkpoint_every=40 --set train.log_every=16 --set train.preview_every=80 --set train.preview_count=4"
  fi
}

# shellcheck disable=SC2046
train() { "$KILN" $(training "$1" "$2" "$3"); }

# The weights, the optimiser and the rest of the newest checkpoint, without the clock.
weights() { cat "$1"/checkpoints/"$(ls "$1/checkpoints" | grep -E '^[0-9]+$' | tail -n 1)"/*.safetensors | sha256sum; }

# The log without the clock.
log() { sed -E 's/"seconds":[0-9.]+//' "$1/log.jsonl" | sha256sum; }

declare -A counts
count() { counts[$1]=$((${counts[$1]:-0} + 1)); }
# report TITLE BAD...: prints the counts; fails if one of the bad ones is not 0.
report() {
  local title=$1 status=0 name
  shift
  echo "$title"
  for name in "${!counts[@]}"; do printf '  %6d %s\n' "${counts[$name]}" "$name"; done | sort -rn
  for name in "$@"; do [ "${counts[$name]:-0}" -eq 0 ] || status=1; done
  return $status
}
