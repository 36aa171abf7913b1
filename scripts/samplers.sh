#!/bin/sh
# Which sampler is best for 50 evaluations of a diffusion run's network? On an idle machine, from the repository:
#
#   scripts/samplers.sh RUN [N]
#
# prints the FID of N samples (5,000) by each, with its 95 % interval. With fewer than some thousands the intervals
# are wider than the differences.
set -eu
run=$1
n=${2:-5000}
kiln=${KILN:-target/release/kiln}

while read -r sampler; do
    # shellcheck disable=SC2086 # a list of flags
    fid=$("$kiln" evaluate "$run" --metrics fid -n "$n" --bootstrap 200 --quiet --sampler $sampler)
    printf '%-70s %s\n' "$sampler" "$(printf '%s\n' "$fid" | head -1)"
done <<END
ddim --steps 50 --eta 1 --timestep-spacing leading
ddim --steps 50 --eta 1 --timestep-spacing trailing
ddim --steps 50 --eta 1 --timestep-spacing linspace
ddim --steps 50 --eta 0 --timestep-spacing trailing
dpm++ --steps 50
dpm++-sde --steps 50
unipc --steps 50
heun --steps 25
heun --steps 25 --s-churn 5 --s-noise 1.003
heun --steps 25 --s-churn 10 --s-noise 1.003
heun --steps 25 --s-churn 10 --s-tmin 0.05 --s-tmax 10 --s-noise 1.003
euler --steps 50 --s-churn 10 --s-noise 1.003
euler --steps 50 --s-churn 20 --s-noise 1.003
pc --steps 25 --timestep-spacing trailing
END
