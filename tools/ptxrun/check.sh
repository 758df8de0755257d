#!/usr/bin/env bash
# The compiled kernels on the CPU, in under 12 minutes on two cores: 500 random cases and the named ones of every CUDA
# kernel, the mutation test beside them, and the Triton kernels' PTX.  PYTHON names the interpreter (default: .venv's).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PYTHONPATH="$PWD" OMP_NUM_THREADS=1 TRITON_CACHE_DIR="$folder/triton"
nvcc -std=c++17 -O3 -arch=compute_90 -Icsrc -ptx csrc/angle/cuda.cu -o "$folder/kernels.ptx"
"$python" -c "import sys; sys.path.insert(0, 'tools/ptxrun'); import ptxrun; ptxrun.machine()" # built before two need it
"$python" tools/ptxrun/mutate.py "$folder/kernels.ptx" > "$folder/mutations" 2>&1 &
mutations=$!
"$python" tools/ptxrun/angle_ptx.py "$folder/kernels.ptx" --cases 500
"$python" tools/ptxrun/triton_ptx.py --cases 12
wait $mutations && status=0 || status=$?
grep -A 2 SURVIVED "$folder/mutations" || true
tail -n 1 "$folder/mutations"
exit $status
