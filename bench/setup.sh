#!/usr/bin/env bash
# Sets up what hone is measured against: a Python environment with the peers at pinned versions, models and data.
#
#   bash bench/setup.sh [--peers DIR] [--python PYTHON] [--without-llama] [--text FILE]...
#
#   --peers DIR        where everything goes (default: bench/.peers, 9 GB); an environment that is there is used again
#   --python PYTHON    the Python that makes the environment (default: python3; 3.11 is what was measured with)
#   --without-llama    leaves llama.cpp out, which is compiled for the processor (12 minutes on two cores)
#   --text FILE        text to train the tokenizer on and to draw data from (default: the sources and documents of hone)
#
# Only this script needs a network. It needs a C++ compiler too, as does torch.compile.
set -euo pipefail
bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

peers=$bench/.peers python=python3 llama=yes texts=()
while (($#)); do
    case $1 in
        --peers | --python | --text)
            if (($# < 2)); then echo "$1 needs a value" >&2; exit 2; fi ;;&
        --peers) peers=$2; shift ;;
        --python) python=$2; shift ;;
        --text) texts+=("$2"); shift ;;
        --without-llama) llama='' ;;
        *) echo "unknown argument: $1" >&2; exit 2 ;;
    esac
    shift
done
command -v c++ >/dev/null || { echo "no C++ compiler: install one (g++ or clang++)" >&2; exit 1; }

if [ ! -x "$peers/env/bin/python" ]; then
    mkdir -p "$peers"
    "$python" -m venv "$peers/env"
fi
"$peers/env/bin/pip" install --disable-pip-version-check -r "$bench/requirements.txt"
if [ -n "$llama" ]; then
    # From source and for this processor: the wheels that are offered lack its instructions
    CMAKE_ARGS="-DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release" CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)} \
        "$peers/env/bin/pip" install --disable-pip-version-check --no-binary llama-cpp-python "llama-cpp-python[server]==0.3.36"
fi
"$peers/env/bin/python" "$bench/models.py" "$peers/data" ${texts[@]+"${texts[@]}"}
echo "done: python3 bench/run.py --peers $peers"
