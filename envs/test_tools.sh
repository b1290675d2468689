#!/usr/bin/env bash
# What only the tests need: Dragonfly (reads our .emc files; it compiles, which takes about 80 s the first time), a
# browser for the report, and Slurm with its accounting (nothing is started; the tests start their own).
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
command -v gsl-config >/dev/null || packages+=(libgsl-dev)
command -v h5cc >/dev/null || packages+=(libhdf5-dev)
command -v mpicc >/dev/null || packages+=(libopenmpi-dev openmpi-bin)
command -v cc >/dev/null || packages+=(gcc libc6-dev)
command -v chromium >/dev/null || packages+=(chromium)
[ -x /usr/sbin/slurmctld ] || packages+=(slurm-wlm)
[ -x /usr/sbin/slurmdbd ] || packages+=(slurmdbd)
[ -x /usr/sbin/mariadbd ] || packages+=(mariadb-server)
if [ "${#packages[@]}" -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "The tests need these Debian packages: ${packages[*]}. Ask for them, then try again." >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
# --no-deps: its declared dependencies bring a desktop toolkit that the readers and the solver do not need.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dragonfly-spi==0.1.0
