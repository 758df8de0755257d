#!/usr/bin/env bash
# The distributions of gainrl for the Python at hand, built, checked and tried without torch:  scripts/wheels.sh [FOLDER]
#   FOLDER       where they go (default dist; emptied first)
#   VENV         an environment with gainrl's extra `wheels` (default .venv)
#   GAINRL_CUDA  AUTO (CUDA code where nvcc is found, the default), ON or OFF
# The same steps as .github/workflows/wheels.yml, which takes them in manylinux for every supported Python.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist} venv=${VENV:-.venv} cuda=${GAINRL_CUDA:-AUTO}
venv=$(cd "$venv" && pwd)
export PATH="$venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "source distribution, and the wheel that it builds"
CMAKE_ARGS="-DGAINRL_CUDA=$cuda" python -m build --outdir "$work" . >"$work/log" 2>&1 || { tail -n 60 "$work/log" >&2; exit 1; }
sdist=$(ls "$work"/*.tar.gz)
auditwheel show "$work"/gainrl-*.whl
auditwheel repair --wheel-dir "$out" "$work"/gainrl-*.whl
mv "$sdist" "$out/"

echo "the pure-Python wheel"
python -m pip wheel --quiet --no-deps -Cwheel.cmake=false -Cwheel.py-api=py3 --wheel-dir "$out" "$out/${sdist##*/}"

with_cuda=()
if [ "$cuda" = ON ] || { [ "$cuda" = AUTO ] && command -v nvcc >/dev/null; }; then with_cuda=(--cuda); fi
python scripts/check_wheel.py "${with_cuda[@]}" "$out"

echo "each in an environment without torch"
python -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet numpy pytest pytest-timeout
cp -r tests pyproject.toml "$work/"  # away from the sources, so that only the wheel can be imported
for wheel in "$out"/*manylinux*.whl "$out"/*none-any.whl; do
  "$work/venv/bin/python" -m pip install --quiet --no-deps --force-reinstall "$wheel"
  required=native
  case "$wheel" in *none-any.whl) required= ;; esac
  (cd "$work" && GAINRL_REQUIRE=$required GAINRL_WHEEL="${wheel##*/}" venv/bin/python -m pytest -q tests/packaging/test_without_torch.py)
done
