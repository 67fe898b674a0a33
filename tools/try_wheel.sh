#!/bin/sh
# Build the wheel, install it without extras into an empty environment, and convert a sample there:
# no TensorFlow, and nothing of the repository on the path.
set -eu
python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m build --wheel --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet "$work"/dist/*.whl
cp -r sample_models/tf1_adam_ema "$work/sample"
cd "$work"
for ending in safetensors npz h5 ckpt; do
    venv/bin/convert sample "out.$ending" --verify --quiet
    venv/bin/tensorferry inspect "out.$ending" --quiet >/dev/null
done
if venv/bin/python -c 'import tensorflow' 2>/dev/null; then
    echo "TensorFlow is installed where it must not be" >&2
    exit 1
fi
echo "the wheel converts a sample to four formats in an empty environment"
