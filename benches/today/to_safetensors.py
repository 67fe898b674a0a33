"""What people do today: `to_safetensors.py PREFIX TARGET`."""

import sys

import tensorflow as tf
from safetensors.numpy import save_file

reader = tf.train.load_checkpoint(sys.argv[1])
names = reader.get_variable_to_shape_map()
save_file({name: reader.get_tensor(name) for name in names}, sys.argv[2])
