#!/usr/bin/env bash
# Everything about the kernels that needs a GPU, in one command, within 9 minutes and without a network:
#
#     benchmarks/gpu_suite.sh OUTPUT_FOLDER
#
# Needs what the machine has: Python 3.12 with torch 2.11 and Triton 3.6, nvcc 13, CMake, ninja, scikit-build-core or just
# pybind11, pytest, hypothesis, compute-sanitizer.  Steps, each with its own limit: build in place for this GPU alone, all
# GPU tests, compute-sanitizer (memcheck, racecheck, initcheck) over a reduced set, benchmarks.  JSON and logs go to
# OUTPUT_FOLDER; a short table comes last.  Exit status: 0 only if the build, the tests and the sanitizers passed.
set -uo pipefail
out=$(mkdir -p "${1:?usage: benchmarks/gpu_suite.sh OUTPUT_FOLDER}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
started=$SECONDS
deadline=$((started + 520))
failures=0
summary="$out/summary.txt"
: > "$summary"

step() {  # step NAME SECONDS COMMAND...: runs it, keeps its output, notes how it ended
  local name=$1 limit=$2 begun=$SECONDS left=$((deadline - SECONDS)) status
  shift 2
  if [ "$left" -lt 8 ]; then
    printf '%-22s %-8s\n' "$name" "no time" >> "$summary"
    failures=$((failures + 1))
    return 1
  fi
  [ "$limit" -le "$left" ] || limit=$left
  echo "== $name"
  timeout "$limit" "$@" > "$out/$name.log" 2>&1
  status=$?
  tail -n 4 "$out/$name.log"
  printf '%-22s %-8s %4d s\n' "$name" "$([ $status -eq 0 ] && echo ok || echo "exit $status")" $((SECONDS - begun)) >> "$summary"
  [ $status -eq 0 ] || failures=$((failures + 1))
  return $status
}

build() {
  local architecture
  architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || return
  cmake -S . -B build/gpu_suite -G Ninja -DGAINRL_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$architecture-real" \
    -DPython_EXECUTABLE="$(command -v "$python")" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/gainrl" || return
  cmake --build build/gpu_suite || return
  "$python" -c 'import gainrl; found = gainrl.available_backends(); print(found); assert found["native-cuda"] == found["triton"] == "ok"'
}

tests() { GAINRL_REQUIRE=native,cuda,triton "$python" -m pytest tests/angle/test_cuda.py tests/angle/test_op.py -q -p no:cacheprovider; }

sanitized() {
  GAINRL_REDUCED_SET=1 PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" "${@:2}" --error-exitcode 9 \
    --kernel-name regex:angle_ "$python" -m pytest tests/angle/test_cuda.py -q -x -p no:cacheprovider --timeout 0 \
    -k "native and (any_input or every_width or equal_bits) or misaligned or offsets_out_of_order and native"
}

bench() { "$python" benchmarks/angle.py --device cuda --rounds "$1" --output "$out/$2.json" "${@:3}"; }
export -f build tests sanitized bench
export python out

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv > "$out/gpu.csv" 2>&1
if step build 150 bash -c build; then
  step tests 120 bash -c tests
  step memcheck 60 bash -c 'sanitized memcheck'
  step racecheck 45 bash -c 'sanitized racecheck'
  step initcheck 45 bash -c 'sanitized initcheck'
  step bench_large 90 bash -c \
    'bench 11 angle_cuda_large --dtypes bfloat16 --shapes prompts long --most-mib 1536 --fill --compare compiled --compare-widths 576 896 1536 2048 3584 4096 8192'
  step bench_published 25 bash -c \
    'bench 3 angle_cuda_published --dtypes bfloat16 --shapes prompts --widths 1536 --most-mib 1536 --fill --compare published eager'
  step bench_64mib 40 bash -c 'bench 25 angle_cuda_64mib --dtypes bfloat16 --shapes prompts long --most-mib 64'
  step bench_micro_batch 25 bash -c 'bench 40 angle_cuda_micro --dtypes bfloat16 --shapes batch --widths 1536 --compare compiled eager published'
  step bench_dtypes 45 bash -c 'bench 9 angle_cuda_dtypes --shapes prompts tokens --widths 576 4096 --most-mib 1024'
fi
echo
cat "$out/gpu.csv"
cat "$summary"
"$python" benchmarks/gpu_suite_table.py "$out"
echo "gpu_suite: $failures steps failed, $((SECONDS - started)) s"
exit $((failures > 0))
