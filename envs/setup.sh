#!/usr/bin/env bash
# Make the virtual environment .venv with the pinned packages of requirements.lock.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "pulsetrain needs Python 3.11 or later; found $("$PYTHON" --version). Say which one: make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
fi
if ! "$PYTHON" -m venv .venv; then
    if [ "$(id -u)" != 0 ]; then
        echo "Python's module venv is missing; ask for the package python3-venv." >&2
        exit 1
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends python3-venv
    "$PYTHON" -m venv .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock

# The commands of the documents, by their names.
for name in jungfrau_id jungfrau_gain_constants; do
    printf '#!/bin/sh\nhere=$(dirname "$(readlink -f "$0")")\nexec "$here/python" "$here/../../scripts/commands/%s.py" "$@"\n' \
        "$name" > ".venv/bin/$name"
    chmod +x ".venv/bin/$name"
done
