#!/usr/bin/env bash
# Make a virtual environment with verl and this source tree in it:  scripts/verl_environment.sh DIRECTORY
#   TORCH   the requirement for torch (default torch==2.13.0): the one place to choose another build.
#   PYTHON  the interpreter (default python3), 3.11 or 3.12.
# verl pins an older transformers than the rest of gainrl is tested with, so it cannot share an environment.  gainrl comes
# in by a path file, without its compiled module: the backend is PyTorch's.  Then:
#   DIRECTORY/bin/python -m pytest --full tests/integrations/verl
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 python=${PYTHON:-python3} torch=${TORCH:-torch==2.13.0}
packages=(verl==0.9.1 TransferQueue==0.1.11 cachetools fastapi uvicorn typer scipy pytest pytest-timeout)

stamp="$venv/.gainrl-verl"
wanted="$("$python" -V) $torch ${packages[*]} $PWD"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
echo "setting up $venv with ${packages[0]} and $torch"
[ "$("$venv/bin/python" -V 2>/dev/null)" = "$("$python" -V)" ] || "$python" -m venv --clear "$venv"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" --no-compile "$torch"  # first and alone; named again below, so that nothing brings another build
"${pip[@]}" --no-compile "$torch" "${packages[@]}"
echo "$PWD" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gainrl.pth"
echo "$wanted" >"$stamp"
