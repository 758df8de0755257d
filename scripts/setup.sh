#!/usr/bin/env bash
# Make a virtual environment with gainrl in it:  scripts/setup.sh DIRECTORY EXTRAS [WHEEL]
#   EXTRAS  e.g. demo or dev; WHEEL installs that file instead of this source tree (editable).
#   TORCH   the requirement for torch (default torch==2.13.0): the one place to choose another build.
#   PYTHON  the interpreter (default python3), 3.11 or newer.
#   CONSTRAINTS  a file of pip's constraints, e.g. constraints/oldest.txt; without one pip takes the newest releases.
# As root, installs what a bare Debian or Ubuntu lacks; anybody else is told what to have installed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extras=$2 wheel=${3:-}
python=${PYTHON:-python3} torch=${TORCH:-torch==2.13.0} constraints=${CONSTRAINTS:-}

command -v "$python" >/dev/null || { echo "no $python here: set PYTHON= to an interpreter, 3.11 or newer" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "gainrl needs Python 3.11 or newer, and $python is $("$python" -V): set PYTHON= to another interpreter" >&2
  exit 1
}
missing=()
command -v c++ >/dev/null || missing+=(build-essential)
command -v bwrap >/dev/null || missing+=(bubblewrap)
"$python" -c 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("seccomp"))' || missing+=(libseccomp2)
named=python3; case "${python##*/}" in python3.*) named=${python##*/} ;; esac
"$python" -c 'import ensurepip' 2>/dev/null || missing+=("$named-venv")
[ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+=("$named-dev")
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing: ${missing[*]}"
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
  else
    {
      echo "not installed here: ${missing[*]} (Debian's names: a C++ compiler, bubblewrap, libseccomp, Python's ensurepip and headers)"
      echo "install them, on Debian or Ubuntu with:  sudo apt-get install ${missing[*]}"
    } >&2
    exit 1
  fi
fi

stamp="$venv/.gainrl-$extras"
wanted="$("$python" -V) $torch $(cat pyproject.toml CMakeLists.txt $(find csrc -type f | sort) ${wheel:+"$wheel"} ${constraints:+"$constraints"} | sha256sum)"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
echo "setting up $venv with gainrl[$extras] and $torch"
[ "$("$venv/bin/python" -V 2>/dev/null)" = "$("$python" -V)" ] || "$python" -m venv --clear "$venv"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check ${constraints:+--constraint "$constraints"})
"${pip[@]}" "$torch"  # first and alone: gainrl's own range then leaves it as it is
built="$venv/.gainrl-built"
if [ -n "$wheel" ]; then
  "${pip[@]}" "$wheel[$extras]"
elif [ "$(cat "$built" 2>/dev/null)" = "$wanted" ]; then
  "${pip[@]}" "gainrl[$extras]"  # built and installed already, for other extras: only their packages are missing
else
  rm -f "$venv"/.gainrl-*
  "${pip[@]}" -e ".[$extras]"
  echo "$wanted" >"$built"
fi
echo "$wanted" >"$stamp"
