"""An object graph made of names: `a/b/kernel` is the variable `kernel` of the object `b` of `a`.

    key         a/b/kernel/.ATTRIBUTES/VARIABLE_VALUE; in a part, `.` is `..`
    full name   a/b/kernel, by which tf.compat.v1.train.Saver finds it
    slot        a/b/kernel/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE, of the object
                `optimizer`, if it is known whose slot it is
    counter     save_counter, without which tf.train.Checkpoint is not content

tf_keras finds layers by `layer_with_weights-N`, the Nth of a model's layers that has weights, and
some of their parts by other names than those of variables. Each object gets these names too,
layers where their order is certain (`layer_order.py`).

Names of attributes are those of tf_keras 2.21. Escapes: tensorflow/python/trackable/
trackable_utils.py, escape_local_name (v2.21.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..containers.bundle_writer import Row
from ..dtypes import DType
from ..errors import TargetError
from ..notes import Kind, Note
from ..tensors import MemoryTensor, Role, Tensor, TensorDict, TensorSpec
from ..ties import other_names
from .layer_order import layers_in_order
from .object_graph_writer import build_graph
from .templates import SAVE_COUNTER, Arrangement, graph_row, value_key
from .trackables import GRAPH_KEY, VALUE, Attribute, Node, ObjectGraph

__all__ = ["build_tree"]

SAVES = 1  # as after the first save; nothing but the number in the next file's name depends on it
OPTIMIZER = "optimizer"
_RESERVED = frozenset({".ATTRIBUTES", ".OPTIMIZER_SLOT"})
# Attributes of layers by what their variables' names say: one child alone may be meant.
_ATTRIBUTES = {
    re.compile(r"(.+_)?cell(_\d+)?"): "cell",  # LSTM, GRU, SimpleRNN
    re.compile(r"forward_.+"): "forward_layer",  # Bidirectional
    re.compile(r"backward_.+"): "backward_layer",
}
_ATTENTION = {  # MultiHeadAttention
    "query": "_query_dense",
    "key": "_key_dense",
    "value": "_value_dense",
    "attention_output": "_output_dense",
}


def build_tree(tensors: TensorDict, target: Path) -> Arrangement:
    """Return the tensors under the keys of an object graph that their names make.

    Raises:
        TargetError: a name is empty, or no path of an object graph.
    """
    tree = _Tree(target)
    slots = _slots(tensors)
    for name in tensors:
        if name not in slots:
            tree.add(name)
    for name, (owner, slot) in slots.items():
        tree.add_slot(name, owner, slot)
    ties = other_names(tensors)
    for alias in ties:  # an object of its own, since its variable may be one
        tree.add(alias)
    names = {name: ties.get(name, name) for name in tree.keys}
    rows = [Row(tree.keys[each], name, tensors[name]) for each, name in names.items()]
    keys: dict[str, str | None] = {row.key: row.name for row in rows}
    if SAVE_COUNTER not in keys:
        tree.add_variable(tree.child(0, "save_counter"), "save_counter", SAVE_COUNTER)
        rows.append(Row(SAVE_COUNTER, SAVE_COUNTER, _saves()))
        keys[SAVE_COUNTER] = None
    tree.add_attributes()
    notes = tree.number_layers(tensors)
    rows.append(graph_row(build_graph(ObjectGraph(tuple(tree.nodes)))))
    return Arrangement(rows, keys, tuple(notes))


def _saves() -> Tensor:
    return MemoryTensor(TensorSpec(DType.INT64, ()), lambda: SAVES.to_bytes(8, "little"))


def _slots(tensors: TensorDict) -> dict[str, tuple[str, str]]:
    """Return variable and slot's name of optimizer slots, as far as they are known for certain."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in tensors:
        origin = tensors.origin(name)
        if origin.role is Role.SLOT and origin.slot and origin.owner in tensors:
            found.setdefault((origin.owner or "", origin.slot), []).append(name)
    slots = {names[0]: slot for slot, names in found.items() if len(names) == 1}
    return {
        name: slot for name, slot in slots.items() if slot[0] not in slots and _is_text(slot[1])
    }


def _escaped(part: str) -> str:
    return part.replace(".", "..").replace("/", ".S")


class _Tree:
    """Objects in the making; the first is the root.

    Attributes:
        nodes: the objects.
        keys: of the tensors, by name.
    """

    def __init__(self, target: Path) -> None:
        self.nodes = [Node()]
        self.keys: dict[str, str] = {}
        self._target = target
        self._children: dict[tuple[int, str], int] = {}
        self._variables: dict[str, int] = {}

    def child(self, parent: int, name: str) -> int:
        """Return the child of that name, made if it is not there."""
        number = self._children.get((parent, name))
        if number is None:
            number = len(self.nodes)
            self.nodes.append(Node())
            self._link(parent, number, name)
        return number

    def _link(self, parent: int, number: int, name: str) -> None:
        """Give a child a name, unless the parent has one of that name."""
        if (parent, name) not in self._children:
            self._children[parent, name] = number
            self.nodes[parent].children.append((number, name))

    def add(self, name: str) -> None:
        """Add the variable that a name means."""
        self._check(name)
        parts = name.split("/")
        number = 0
        for part in parts:
            number = self.child(number, part)
        self._variables[name] = number
        self.keys[name] = value_key("/".join(map(_escaped, parts)))
        self.add_variable(number, name, self.keys[name])

    def add_variable(self, number: int, name: str, key: str) -> None:
        """Make a node a variable."""
        self.nodes[number].attributes.append(Attribute(VALUE, name, key))

    def add_slot(self, name: str, owner: str, slot: str) -> None:
        """Add the optimizer slot of a variable; nothing but its optimizer leads to it."""
        self._check(name)
        path = "/".join(map(_escaped, owner.split("/")))
        self.keys[name] = value_key(f"{path}/.OPTIMIZER_SLOT/{OPTIMIZER}/{_escaped(slot)}")
        number = len(self.nodes)
        self.nodes.append(Node())
        self.add_variable(number, name, self.keys[name])
        optimizer = self.nodes[self.child(0, OPTIMIZER)]
        optimizer.slots.append((self._variables[owner], slot, number))

    def _check(self, name: str) -> None:
        what = hint = None
        if name in ("", GRAPH_KEY):
            what = "a TensorFlow checkpoint keeps this name for itself"
        elif _RESERVED & set(name.split("/")):
            what = "the name is a key of an object-based checkpoint already"
            hint = "take the object graph from that checkpoint with --layout-of"
        elif not _is_text(name):
            what = "an object graph has no names but UTF-8"
        if what:
            hint = hint or f"leave it out with --exclude {name!r}"
            raise TargetError(what, path=self._target, where=f"tensor `{name}`", hint=hint)

    # Names that tf_keras has for objects

    def add_attributes(self) -> None:
        """Give objects the names by which tf_keras's layers hold them."""
        for number, node in enumerate(self.nodes):
            children = {name: child for child, name in node.children}
            for name, attribute in _attributes(children):
                self._link(number, children[name], attribute)

    def number_layers(self, tensors: TensorDict) -> list[Note]:
        """Number the layers of each model, or say that their order is not known."""
        levels = layers_in_order(tensors, self._variables)
        if levels is None:
            text = (
                "nothing says in which order the layers come, so they have no numbers by which "
                "tf_keras's load_weights finds them (--layout-of takes them from another model)"
            )
            return [Note(Kind.TARGET, text)]
        for path, layers in levels.items():
            parent = 0
            for part in path:
                parent = self._children[parent, part]
            for index, name in enumerate(layers):
                number = self._children[parent, name]
                self._link(parent, number, f"layer_with_weights-{index}")
        return []


def _attributes(children: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of children that tf_keras holds under other ones, and these."""
    names = list(children)
    for pattern, attribute in _ATTRIBUTES.items():
        found = [name for name in names if pattern.fullmatch(name)]
        if len(found) == 1:
            yield found[0], attribute
    if _ATTENTION.keys() <= set(names):
        yield from _ATTENTION.items()
    for name in names:
        if name.endswith(":0"):  # as variables call themselves
            yield name, name.removesuffix(":0")


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # bytes that were none, as PEP 383 carries them
        return False
    return True
