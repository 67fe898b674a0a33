"""Samples of TensorFlow 1.15; see `old_producers.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from old_producers import plain, row, truth

if TYPE_CHECKING:
    from old_producers import Rows


def _network(tf: Any) -> tuple[Any, Any]:
    """Build a convolution and a step of a recurrence with layers that are gone since."""
    x = tf.placeholder(tf.float32, (None, 4, 6), name="x")
    y = tf.layers.conv1d(x, 5, 3, name="conv")
    y = tf.layers.batch_normalization(y, name="bn")
    cell = tf.nn.rnn_cell.LSTMCell(3)
    y, _ = cell(y[:, -1], cell.zero_state(tf.shape(y)[0], tf.float32))
    return x, tf.layers.dense(y, 2, name="out")


def _fill(tf: Any, session: Any, slots: dict[str, tuple[str, str]]) -> Rows:
    trained = {each.op.name for each in tf.trainable_variables()}
    session.run(tf.global_variables_initializer())
    rows = {}
    for each in tf.global_variables():
        name = plain(each.name)
        each.load(truth(name, np.asarray(session.run(each))), session)
        slot, owner = slots.get(name, ("", ""))
        facts = {"slot": slot, "owner": owner} if slot else {}
        held = np.asarray(session.run(each))
        rows[name] = row(held, trainable=name in trained, **facts)
    return rows


def tensorflow_1_15() -> dict[str, Any]:
    """Save with both kinds of Saver, as a SavedModel and as a frozen graph."""
    import tensorflow as tf

    x, y = _network(tf)
    step = tf.train.get_or_create_global_step()
    adam = tf.train.AdamOptimizer()
    adam.minimize(tf.reduce_sum(y), global_step=step)
    slots = {
        adam.get_slot(each, slot).op.name: (slot, each.op.name)
        for slot in ("m", "v")
        for each in tf.trainable_variables()
    }
    with tf.Session() as session:
        rows = _fill(tf, session, slots)
        for version in ("V1", "V2"):
            Path(version).mkdir()
            saver = tf.train.Saver(write_version=getattr(tf.train.SaverDef, version))
            saver.save(
                session, f"{version}/model.ckpt", global_step=7, write_meta_graph=version == "V2"
            )
        session.run(tf.variables_initializer(tf.global_variables()))
        saver.restore(session, "V2/model.ckpt-7")
        for each in tf.global_variables():
            if row(np.asarray(session.run(each)))["sha256"] != rows[plain(each.name)]["sha256"]:
                raise RuntimeError(each.name)
        model = {name: each for name, each in rows.items() if "slot" not in each}
        tf.saved_model.simple_save(session, "saved_model", {"x": x}, {"y": y})
        whole = tf.get_default_graph().as_graph_def()
        graph = tf.graph_util.convert_variables_to_constants(session, whole, [y.op.name])
    Path("frozen.pb").write_bytes(graph.SerializeToString())
    frozen = {node.name for node in graph.node if node.op == "Const"}
    return {
        "files": {
            "V1/model.ckpt-7": rows,
            "V2/model.ckpt-7": rows,
            "saved_model": rows,
            "frozen.pb": {name: each for name, each in model.items() if name in frozen},
        }
    }
