#!/usr/bin/env bash
# Everything about the kernels that needs a GPU, in one command, within 9 minutes and without a network:
#
#     benchmarks/gpu_suite.sh OUTPUT_FOLDER [STEP...]
#
# Needs what the machine has: Python 3.12 with torch 2.11 and Triton 3.6, nvcc 13, CMake, ninja, pybind11, pytest,
# compute-sanitizer; ncu, pytest-xdist and, for the last two steps, transformers and TRL are used where they are.  Each
# step has its own limit, and what is to be looked at first comes first: build in place for this GPU alone; whether the
# driver gives the shared memory that D = 2048 asks for; tests of the native kernels; time per row at D = 4096 on both
# sides of 520 thousand rows; issue slots and DRAM bytes (ncu); the benchmarks of the table; compute-sanitizer over a
# reduced set, Triton's tests, the other benchmarks; the scoring pass and one short training run.  With STEPs named, only these run, after the build: those that
# a first run had no time for, say (into another folder: the files are of one run).
# OUTPUT_FOLDER has three files, complete after every step: gpu_suite.json, summary.txt, logs.tar.gz.  A short table
# comes last.  Exit status: 0 only if every step passed.
set -uo pipefail
out=$(mkdir -p "${1:?usage: benchmarks/gpu_suite.sh OUTPUT_FOLDER [STEP...]}" && cd "$1" && pwd) || exit 2
only=" build ${*:2} "
[ $# -gt 1 ] || only=""
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
work="$PWD/build/gpu_suite_run"
rm -rf "$work" && mkdir -p "$work/parts" "$work/logs" "$work/plugins" || exit 2
# pyproject.toml sets the limit of pytest-timeout; without that plugin the setting must still be a known one.  Other
# plugins of the machine stay away: with warnings as errors, one that warns would end the run.
printf 'def pytest_addoption(parser):\n    parser.addini("timeout", "not used here: each step has its limit")\n' \
  > "$work/plugins/without_timeout.py"
export PYTHONPATH="$PWD:$work/plugins" PYTHONUNBUFFERED=1
# One process compiles (a pool left behind at the end is a warning), and Triton 3.9 need not ask which default is meant.
export TORCHINDUCTOR_COMPILE_THREADS=1 TRITON_DEFAULT_FP_FUSION=0
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTEST_ADDOPTS="-q -p no:cacheprovider -p without_timeout"
export python work
export PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"  # nvcc and compute-sanitizer, where only PyTorch is on the path
started=$SECONDS
deadline=$((started + 515))
failures=0

publish() {  # what there is so far, in few files
  "$python" benchmarks/gpu_suite_table.py "$work/parts" "$out/gpu_suite.json" > "$work/table.txt" 2>&1
  { cat "$work/parts/gpu.csv"; column -t -s $'\t' "$work/parts/steps.tsv" 2> /dev/null || cat "$work/parts/steps.tsv"
    cat "$work/table.txt"; } > "$out/summary.txt"
  tar -C "$work" -czf "$work/logs.tar.gz" logs && mv "$work/logs.tar.gz" "$out/logs.tar.gz"
}

step() {  # step NAME SECONDS COMMAND...: runs it, keeps its output, notes how it ended
  local name=$1 limit=$2 begun=$SECONDS left=$((deadline - SECONDS)) status ended
  shift 2
  case "$only" in "" | *" $name "*) ;; *) return 0 ;; esac
  if [ "$left" -lt 10 ]; then
    printf '%s\tno time\t0\n' "$name" >> "$work/parts/steps.tsv"
    failures=$((failures + 1))
    return 1
  fi
  [ "$limit" -le "$left" ] || limit=$left
  echo "== $name"
  timeout -k 5 "$limit" "$@" > "$work/logs/$name.log" 2>&1
  status=$?
  case $status in
    0) ended=ok ;;
    124 | 137) ended="cut at $limit s" ;;
    *) ended="exit $status" ;;
  esac
  [ $status -eq 0 ] || failures=$((failures + 1))
  tail -n "$([ $status -eq 0 ] && echo 3 || echo 15)" "$work/logs/$name.log" | cut -c 1-300
  printf '%s\t%s\t%d\n' "$name" "$ended" $((SECONDS - begun)) >> "$work/parts/steps.tsv"
  publish
  return $status
}

build() {
  local architecture
  architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || return
  cmake -S . -B build/gpu_suite -G Ninja -DGAINRL_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$architecture-real" \
    -DPython_EXECUTABLE="$(command -v "$python")" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/gainrl" || return
  cmake --build build/gpu_suite || return
  # Without Triton the native kernels' steps still say what they have to.
  "$python" -c 'import gainrl; found = gainrl.available_backends(); print(found); assert found["native-cuda"] == "ok"'
}

tests_native() {
  GAINRL_REQUIRE=native,cuda "$python" -m pytest tests/angle/test_cuda.py tests/angle/test_op.py \
    --durations 5 -k "not triton"
}

tests_triton() {  # nearly every test compiles kernels of its own, which is what takes the time
  local workers=()
  "$python" -c 'import xdist' 2> /dev/null && workers=(-p xdist -n 6)
  GAINRL_REQUIRE=cuda,triton "$python" -m pytest tests/angle/test_cuda.py --durations 5 -k triton "${workers[@]}"
}

# Only our kernels are instrumented; the tests of the reduced set therefore prepare and compare everything on the CPU
# (initcheck does not see what other kernels write).  Errors of CUDA calls are left to the tests: PyTorch probes for
# functions that a driver lacks, which counts as an error otherwise.
sanitized() {
  GAINRL_REDUCED_SET=1 GAINRL_REQUIRE=native,cuda PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$1" --error-exitcode 9 --report-api-errors no --kernel-name kernel_substring=angle_ \
    "$python" -m pytest tests/angle/test_cuda.py -x \
    -k "native and (any_input or every_width or equal_bits or out_of_order) or partial_last_vector"
}

attribute() {  # the first calls that ask for more than 48 KB of shared memory
  "$python" - << 'END'
import torch, gainrl
for width in (2048, 4096, 8192):
    hidden = torch.randn(4096, width, device="cuda", dtype=torch.bfloat16)
    roles = torch.full((4096,), 2, dtype=torch.int8, device="cuda")
    offsets = torch.tensor([0, 4096], device="cuda")
    print(width, gainrl.angle_concentration(hidden, offsets, roles, backend="native").intra.item())
END
}

profiled() {  # share of issue slots, and bytes from and to DRAM, against one read of the activations
  command -v ncu > /dev/null || { echo "ncu is not installed"; return 0; }
  for width in 576 1536 4096; do
    ncu --kernel-name regex:angle_ --launch-count 2 \
      --metrics sm__inst_issued.avg.pct_of_peak_sustained_active,dram__bytes_read.sum,dram__bytes_write.sum,gpu__time_duration.sum \
      "$python" -c "import sys; sys.path.insert(0, 'benchmarks'); import torch, angle, gainrl
i = angle.make_inputs(angle.shape_lengths('prompts', $width, 2, 1 << 30, True), $width, torch.bfloat16, 'cuda')
print($width, i.bytes); gainrl.angle_concentration(i.hidden, i.offsets, i.roles, backend='native', check=False); torch.cuda.synchronize()"
  done
}

scoring() {
  "$python" -c 'import transformers' 2> /dev/null || { echo "transformers is not installed"; return 0; }
  "$python" -m gainrl profile --help > /dev/null && "$python" -m gainrl profile --model smollm2-135m
}

training() {
  "$python" -c 'import trl' 2> /dev/null || { echo "TRL is not installed"; return 0; }
  "$python" -m gainrl train --config examples/arithmetic.yaml --output_dir "$work/run"
}

bench() {  # bench NAME ROUNDS ARGUMENTS...
  "$python" benchmarks/angle.py --device cuda --output "$work/parts/$1.json" --rounds "$2" "${@:3}"
}
export -f build attribute profiled scoring training tests_native tests_triton sanitized bench

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv > "$work/parts/gpu.csv" 2>&1
large="--dtypes bfloat16 --most-mib 1536 --fill"
native="--dtypes bfloat16 --providers native"
if step build 100 bash -c build; then
  step attribute 20 bash -c attribute
  step tests_native 80 bash -c tests_native
  # 520 and 655 thousand rows of 4096: the same time per row, or the waves are not whole.
  step bench_below 25 bash -c "bench below 5 $native --shapes prompts --widths 4096 --most-mib 4062 --fill"
  step bench_beyond 25 bash -c "bench beyond 5 $native --shapes prompts --widths 4096 --most-mib 5117 --fill"
  step ncu 40 bash -c profiled
  step bench_large 60 bash -c "bench large 9 $large --providers native --shapes prompts long"
  step bench_64mib 40 bash -c "bench 64mib 25 $native --shapes prompts long --most-mib 64"
  step bench_micro 25 bash -c "bench micro 40 $native --shapes batch --widths 1536"
  step bench_published 25 bash -c "bench published 3 $large --providers native published eager --shapes prompts --widths 1536"
  step bench_compiled 90 bash -c "bench compiled 7 $large --providers native compiled --shapes prompts"
  step memcheck 40 bash -c 'sanitized memcheck'
  step racecheck 40 bash -c 'sanitized racecheck'
  step initcheck 40 bash -c 'sanitized initcheck'
  step tests_triton 60 bash -c tests_triton
  step bench_triton 40 bash -c "bench triton 5 $large --providers native triton --shapes prompts long --widths 1536 4096"
  step bench_tokens 30 bash -c "bench tokens 9 $native --shapes tokens --widths 576 1536 --most-mib 1024"
  step scoring 45 bash -c scoring
  step training 60 bash -c training
fi
publish
echo
cat "$out/summary.txt"
echo "gpu_suite: $failures steps failed, $((SECONDS - started)) s"
exit $((failures > 0))
