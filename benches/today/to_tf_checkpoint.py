"""What people do today: `to_tf_checkpoint.py PREFIX TARGET`."""

import sys

import tensorflow as tf

reader = tf.train.load_checkpoint(sys.argv[1])
names = sorted(reader.get_variable_to_shape_map())
tf.raw_ops.SaveV2(
    prefix=sys.argv[2],
    tensor_names=names,
    shape_and_slices=[""] * len(names),
    tensors=[reader.get_tensor(name) for name in names],
)
