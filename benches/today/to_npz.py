"""What people do today: `to_npz.py PREFIX TARGET`."""

import sys

import numpy as np
import tensorflow as tf

reader = tf.train.load_checkpoint(sys.argv[1])
names = reader.get_variable_to_shape_map()
np.savez(sys.argv[2], **{name: reader.get_tensor(name) for name in names})
