#!/usr/bin/env bash
# One stretch of training the published network on a GPU that one has for ten minutes at a time, and what is worth carrying away:
#
#     DATA=folder OUT=folder bash configs/reference_gpu.sh 1
#     DATA=folder OUT=folder START=full64-1 bash configs/reference_gpu.sh 2 [--config.section.key=value ...]
#
# DATA holds the data set of configs/reference.py. WHEELS=folder installs all wheels of a folder first, without a network. MINUTES
# (6.5) is when training stops, counted from its start; installing, compiling the evaluation and packing come on top. In OUT:
# full64-2.tar.aa, .ab, ... of at most 15 MB (cat full64-2.tar.* | tar x), the run's log, and the report with its PSNR.
set -euo pipefail
cd "$(dirname "$0")/.."
number=$1 name=full64-$1 runs=${RUNS:-runs} run=${RUNS:-runs}/full64-$1
shift
if [ -n "${WHEELS:-}" ]; then
  python -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
# A seed of its own for each stretch: with another's it would see the same images in the same order, with the same noise.
python train.py --config configs/reference_gpu.py --workdir "$run" --config.data.data_dir="$DATA" --config.seed="$number" \
  --config.train.minutes="${MINUTES:-6.5}" --config.train.start_from="${START:-}" "$@"
rm -rf "$runs/export/$name" # of an earlier call with the same number, which this one went on with
mkdir -p "$runs/export" "$OUT"
python -m unetrep_jax.checkpoints "$run/last" "$runs/export/$name" --dtype bfloat16
tar -C "$runs/export" -c "$name" | split -b 15MB - "$OUT/$name.tar."
cp "$run/metrics.jsonl" "$OUT/$name.metrics.jsonl"
python analyze.py --ckpt "$run/last" --only denoising
cp "$run/analysis/report.md" "$OUT/$name.report.md"
grep -F '| network, blind' "$run/analysis/report.md" # PSNR in dB at 10, 25, 50 and 100 of 255
