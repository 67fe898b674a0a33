"""Weights in pieces that several frameworks want: gates, heads, kernels in two dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from ...converters.tensors import Tensor
from ..transforms import divided, filled, joined, permuted, reordered, reshaped, summed
from .layers import Layer, Undecided

__all__ = [
    "biased",
    "channels",
    "depth_rows",
    "einsum_axes",
    "einsum_kernel",
    "flat",
    "gru_bias",
    "heads_in",
    "heads_out",
    "joined_rows",
    "kernels",
    "lstm_gates",
    "matrix",
    "refuse_flattened",
    "resets_after",
    "spatial_last",
]


_LSTM_ORDERS: Mapping[str, Sequence[int]] = {"ifco": (0, 1, 2, 3), "ijfo": (0, 2, 1, 3)}


def matrix(layer: Layer) -> Tensor:
    """Return the kernel of a dense layer as `(out, in)`."""
    kernel = layer.parts["kernel"]
    return kernel if layer.facts.get("transposed") else permuted(kernel, (1, 0))


def refuse_flattened(layer: Layer) -> None:
    """Refuse a layer that reads what was flattened, where channels come before other axes.

    Raises:
        Undecided: its weights are, or may be, in the order of axes that were flattened.
    """
    flattened = layer.facts.get("flattened")
    if flattened == "perhaps":
        raise Undecided("may read what was flattened, and nothing tells the order of its axes")
    if flattened:
        raise Undecided(f"reads what was flattened, in the order of the axes{_rule(layer)}")


def _rule(layer: Layer) -> str:
    """Return what a rule would do that puts the rows in order, where the axes are known."""
    axes = layer.facts.get("axes")
    if not axes or "kernel" not in layer.parts:
        return ""
    last = len(axes) - 1
    steps = (
        f"{{ reshape = {[*axes, -1]} }}",
        f"{{ permute = {[last + 1, last, *range(last)]} }}",
        f"{{ reshape = [-1, {prod(axes)}] }}",
    )
    return f" {'x'.join(map(str, axes))}; as PyTorch flattens, do = [{', '.join(steps)}]"


def spatial_last(kernel: Tensor, *, swap: bool = True) -> Tensor:
    """Return a kernel `(*spatial, a, b)` as `(b, a, *spatial)`, or `(a, b, *spatial)` unswapped."""
    rank = len(kernel.spec.shape)
    last = (rank - 1, rank - 2) if swap else (rank - 2, rank - 1)
    return permuted(kernel, (*last, *range(rank - 2)))


def channels(alpha: Tensor) -> Tensor:
    """Return the slopes of a PReLU, one for each channel.

    Raises:
        Undecided: there are more of them.
    """
    shape = alpha.spec.shape
    if prod(shape[:-1]) != 1:
        raise Undecided("has slopes for each place, and not for each channel only")
    return reshaped(alpha, (-1,)) if shape else reshaped(alpha, (1,))


def flat(tensor: Tensor) -> Tensor:
    """Return a tensor in one dimension."""
    return reshaped(tensor, (tensor.spec.size,))


def lstm_gates(tensor: Tensor, axis: int, layer: Layer) -> Tensor:
    """Return the four gates along an axis in the order i, f, c, o.

    Raises:
        Undecided: their order is not known.
    """
    return _in_order(
        tensor, axis, layer.facts.get("gates"), {"ifco": (0, 1, 2, 3), "ijfo": (0, 2, 1, 3)}
    )


def _in_order(tensor: Tensor, axis: int, gates: object, orders: dict[str, Sequence[int]]) -> Tensor:
    order = orders.get(gates) if isinstance(gates, str) else None
    if order is None:
        raise Undecided("the order of its gates is not known")
    return reordered(tensor, axis, order)


def kernels(layer: Layer, gates: int) -> Iterator[tuple[str, str, Tensor]]:
    """Yield which kernel of a recurrent layer it is (`input`, `recurrent`), its part, and it.

    Args:
        layer: with two kernels, or both in one.
        gates: number of gates.
    """
    if "joined_kernel" in layer.parts:
        above, below = joined_rows(layer, gates)
        yield "input", "joined_kernel", above
        yield "recurrent", "joined_kernel", below
    for part, kernel in layer.some("kernel", "recurrent_kernel"):
        yield "input" if part == "kernel" else "recurrent", part, kernel


def joined_rows(layer: Layer, gates: int) -> tuple[Tensor, Tensor]:
    """Return the input and the recurrent kernel of a TF1 cell, which keeps them in one.

    Args:
        layer: with the part `joined_kernel` of `(in + units, gates * units)`.
        gates: number of gates.
    """
    kernel = layer.parts["joined_kernel"]
    rows, columns = kernel.spec.shape
    units = columns // gates
    above, below = divided(kernel, 0, (rows - units, units))
    return above, below


def biased(bias: Tensor, layer: Layer) -> Tensor:
    """Return the bias of an LSTM, gates i, f, c, o, with what a TF1 cell adds when it runs."""
    bias = lstm_gates(bias, 0, layer)
    extra = layer.facts.get("forget_bias")
    if not extra:
        return bias
    i, f, c, o = divided(bias, 0, [bias.spec.size // 4] * 4)
    return joined([i, summed([f, filled(f.spec, float(extra))]), c, o], 0)


def heads_in(kernel: Tensor) -> Tensor:
    """Return a kernel `(dim, heads, size)` as `(heads * size, dim)`."""
    return permuted(reshaped(kernel, (kernel.spec.shape[0], -1)), (1, 0))


def heads_out(kernel: Tensor) -> Tensor:
    """Return a kernel `(heads, size, dim)` as `(dim, heads * size)`."""
    return permuted(reshaped(kernel, (-1, kernel.spec.shape[-1])), (1, 0))


def einsum_axes(layer: Layer) -> tuple[list[int], int]:
    """Return the axes of the kernel of an einsum: those it is summed over first, and their number.

    Raises:
        Undecided: it is no product of a matrix, or its equation is not known.
    """
    rank = len(layer.parts["kernel"].spec.shape)
    leading = layer.facts.get("summed")
    if isinstance(leading, int):
        return list(range(rank)), leading
    equation = layer.facts.get("equation")
    if not isinstance(equation, str) or equation.count("->") != 1 or equation.count(",") != 1:
        raise Undecided("its equation is not known")
    inputs, result = equation.replace(" ", "").replace("...", "").split("->")
    left, letters = inputs.split(",")
    if len(letters) != rank or len(set(letters)) != rank:
        raise Undecided(f"its equation {equation} does not fit its kernel")
    summed_over = [letter for letter in left if letter in letters and letter not in result]
    free = [letter for letter in result if letter in letters and letter not in left]
    if len(free) + len(summed_over) != rank:
        raise Undecided(f"{equation} is no dense layer")
    return [letters.index(letter) for letter in (*summed_over, *free)], len(summed_over)


def einsum_kernel(layer: Layer) -> Tensor:
    """Return the kernel of an einsum as `(out, in)`, both in one dimension.

    Raises:
        Undecided: it is no product of a matrix, or its equation is not known.
    """
    axes, count = einsum_axes(layer)
    kernel = permuted(layer.parts["kernel"], (*axes[count:], *axes[:count]))
    rows = prod(kernel.spec.shape[: len(axes) - count])
    return reshaped(kernel, (rows, kernel.spec.size // rows if rows else 0))


def depth_rows(kernel: Tensor) -> Tensor:
    """Return a depthwise kernel `(*spatial, in, multiplier)` as `(in * multiplier, *spatial)`."""
    turned = spatial_last(kernel, swap=False)
    inputs, multiplier, *spatial = turned.spec.shape
    return reshaped(turned, (inputs * multiplier, *spatial))


def resets_after(layer: Layer, lacks: str) -> None:
    """Insist on a GRU that resets after its product.

    Args:
        layer: the GRU.
        lacks: who has no other, such as `which PyTorch cannot`.

    Raises:
        Undecided: it resets before, or that is not known.
    """
    after = layer.facts.get("reset_after")
    if after is None:
        raise Undecided("nothing tells whether it resets before or after it multiplies")
    if not after:
        raise Undecided(f"resets before it multiplies (reset_after=False), {lacks}")


def gru_bias(bias: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the biases `(2, 3 units)` of a GRU as r, z and h of the input, and of the state."""
    units = bias.spec.shape[1] // 3
    ordered = reordered(bias, 1, (1, 0, 2))
    rows = [flat(row) for row in divided(ordered, 0, (1, 1))]
    of_input, of_state = ([*divided(row, 0, [units] * 3)] for row in rows)
    return of_input, of_state
