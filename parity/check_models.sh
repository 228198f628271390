#!/bin/sh
# Compares hone with transformers on random models of every family: log-probabilities, greedy tokens, loss, gradients,
# and what hone writes. Needs a Python with the versions that models.py names, and the hone binary.
#
# usage: parity/check_models.sh PYTHON HONE [OUT]
set -eu
python=$1 hone=$2 out=${3:-target/parity-models}
here=$(dirname "$0")
"$python" "$here/models.py" "$out"
HONE_PARITY_MODELS=$(cd "$out" && pwd) cargo test --release -p hone-eval --test parity -- --nocapture
"$python" "$here/roundtrip.py" "$hone" "$out"
