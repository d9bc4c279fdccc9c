#!/usr/bin/env bash
# Everything a GPU machine can tell, in one command, each part bounded in time, so that any hour with a GPU yields figures:
#
#     bash benchmarks/gpu.sh              on a machine with a CUDA device
#     bash benchmarks/gpu.sh --rehearse   on one without: every part at its smallest, on the CPU
#
# Parts: the CUDA tests, meshes to posed renders on the GPU and on the CPU, the renderer against its rivals, what the method
# costs, peak memory and seconds of each lever, and a short lab-scale ablation. Results go to $OUT (default:
# benchmarks/results/gpu), a file a part and summary.md with commit, machine, seconds and exit codes. A part that fails or
# runs out of time does not stop the others.
#
# Without network: pack what the machine lacks into .gpu/ beforehand, and the views with benchmarks/gpu_views.py (into
# .gpu/views.tar); both are used when they are there. Without views the ablation trains on the bundled objects.
#
# PYTHON names the interpreter; LAB_STEPS, LAB_SECONDS bound the ablation; PARTS names the parts to run.
set -uo pipefail
cd "$(dirname "$0")/.."

rehearse=""
case "${1:-}" in
    "") ;;
    --rehearse) rehearse=1 ;;
    *) echo "usage: bash benchmarks/gpu.sh [--rehearse]" >&2; exit 2 ;;
esac

if [ -f .gpu/gpu_enter.sh ]; then
    # shellcheck disable=SC1091 # it comes with the packed files
    source .gpu/gpu_enter.sh || exit 1
fi
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
if [ -z "$rehearse" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: expected a CUDA device, got none that torch sees; --rehearse runs every part at its smallest on the CPU" >&2
    exit 1
fi

out="${OUT:-benchmarks/results/gpu}"
mkdir -p "$out"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
export OUROBOROS3D_CACHE="${OUROBOROS3D_CACHE:-$scratch/cache}"

machine="$("$python" - <<'CODE'
import os, platform, torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(f"{', '.join(gpus) or 'no GPU'}; {os.cpu_count()} cores; Python {platform.python_version()}; torch {torch.__version__}")
CODE
)"
{
    echo "# ${rehearse:+Rehearsal on a CPU: }figures of one GPU machine"
    echo
    echo "\`bash benchmarks/gpu.sh ${rehearse:+--rehearse}\` at commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $machine, $(date -u +%F)."
    echo
    echo "| part | exit code | seconds | file |"
    echo "|---|--:|--:|---|"
} > "$out/summary.md"

failed=0
part() { # part NAME SECONDS COMMAND...: its output in NAME.log; 124 = it ran out of time
    local name=$1 limit=$2 started=$SECONDS code
    shift 2
    case " ${PARTS:-tests render render_cpu renderer step_cost levers lab} " in *" $name "*) ;; *) return ;; esac
    echo "== $name (at most $limit s)"
    timeout --kill-after=10 "$limit" "$@" > "$out/$name.log" 2>&1
    code=$?
    tail -n 4 "$out/$name.log"
    echo "| $name | $code | $((SECONDS - started)) | $name.log |" >> "$out/summary.md"
    [ "$code" = 0 ] || failed=1
}

data=()
views="${VIEWS:-.gpu/views.tar}"
if [ -f "$views" ]; then
    mkdir "$scratch/views"
    tar -xf "$views" -C "$scratch/views" && data=(--data.root "$scratch/views")
fi

tests=(tests/test_cuda.py tests/renderers/test_gaussians.py tests/renderers/test_surface_fusion.py
    tests/datamodules/rendering/test_rendering_on_gpu.py)
render=("$python" -m ouroboros3d render ouroboros3d/datamodules/bundled)
if [ -n "$rehearse" ]; then
    part tests 300 "$python" -m pytest -q -m gpu "${tests[@]}"
    part render 200 "${render[@]}" --out "$scratch/renders" --max_objects 2 --size 64 --views 4 --workers 1
    part renderer 120 "$python" benchmarks/renderer.py --scenes 1 --rounds 1 --names ours dense --markdown "$out/renderer.md"
    part step_cost 400 "$python" benchmarks/step_cost.py --repeats 1 --json "$out/step_cost.json"
    part levers 400 "$python" benchmarks/levers.py --names "trainable: lora" --out "$out/levers.md"
    part lab 400 "$python" -m ouroboros3d ablate --only staged recursive --seeds 0 --jobs 1 --runs "$scratch/runs" \
        --config tests/tiny.yaml "${data[@]}"
else
    part tests 420 "$python" -m pytest -q -m gpu "${tests[@]}"
    part render 240 "${render[@]}" --out "$scratch/renders" --device cuda --gpus_per_worker 0.25
    part render_cpu 240 "${render[@]}" --out "$scratch/renders_cpu"
    part renderer 300 "$python" benchmarks/renderer.py --device cuda --json "$out/renderer.json" --markdown "$out/renderer.md"
    part step_cost 300 "$python" benchmarks/step_cost.py --json "$out/step_cost.json"
    part levers 420 "$python" benchmarks/levers.py --out "$out/levers.md"
    part lab "${LAB_SECONDS:-1500}" "$python" -m ouroboros3d ablate --only staged recursive --seeds 0 --jobs 1 \
        --runs "$scratch/runs" --config ablations/scales/lab.yaml --trainer.max_steps "${LAB_STEPS:-1000}" \
        --model.warmup_steps 50 --trainer.val_check_interval 500 \
        --trainer.precision bf16-mixed "${data[@]}"
fi
for file in "$scratch"/runs/comparison/comparison.{md,csv}; do
    [ -f "$file" ] && cp "$file" "$out/lab_$(basename "$file")"
done
echo "results: $out/summary.md"
exit "$failed"
