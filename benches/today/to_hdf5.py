"""What people do today: `to_hdf5.py PREFIX TARGET`."""

import sys

import h5py
import tensorflow as tf

reader = tf.train.load_checkpoint(sys.argv[1])
with h5py.File(sys.argv[2], "w") as file:
    for name in reader.get_variable_to_shape_map():
        file.create_dataset(name, data=reader.get_tensor(name))
