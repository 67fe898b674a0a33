#!/bin/sh
# Convert a committed sample checkpoint to safetensors, and show what is in both.
set -eu
rm -rf demo
mkdir demo
convert sample_models/tf_keras_object demo/model.safetensors --verify
echo
convert inspect sample_models/tf_keras_object
echo
convert inspect demo/model.safetensors
