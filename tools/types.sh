#!/bin/sh
# Strict types. mypy follows relative imports only through folders named as the package is, so it
# is shown two links.
set -eu
mkdir -p .dev/tensorferry
ln -sfn ../../converters .dev/tensorferry/converters
ln -sfn ../../pipeline .dev/tensorferry/pipeline
"$1" -p tensorferry
