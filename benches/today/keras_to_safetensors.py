"""What people do today: `keras_to_safetensors.py FILE TARGET`."""

import sys

import keras
from safetensors.numpy import save_file

model = keras.saving.load_model(sys.argv[1], compile=False)
save_file({variable.path: variable.numpy() for variable in model.variables}, sys.argv[2])
