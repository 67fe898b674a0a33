"""Tensors from anywhere put into the places of a Keras model.

A tensor goes to the place that has its name; where none has, to the one with its key; else to the
one place of which the name is another spelling, if no other tensor fits there. What fits nowhere,
what is missing and what has another shape is found out for all tensors together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..dtypes import DType
from ..tensors import Role, TensorDict, TensorSpec
from .keras_config import Layer
from .keras_layout import (
    BESIDE,
    KERAS_3,
    METRICS,
    OPTIMIZER,
    VARS,
    Layout,
    Place,
    modern_key,
    optimizer_places,
)
from .keras_shapes import Shape, fits

__all__ = ["Fit", "fit", "fit_by_key", "looks_like_key"]

# What Keras 3 keeps in no weights file, and what is no part of the model.
_SEED = "seed_generator_state"
_NO_PART = (*BESIDE, Role.TABLE, Role.TEXT)
_KEY = re.compile(r"(?:.+/)?vars/.+", re.DOTALL)


@dataclass
class Fit:
    """Which tensor goes where.

    Attributes:
        keys: name of the tensor for each key, in the order of the model.
        labels: groups called `vars`, each with the name of its object.
        dropped: tensors that have no place and are no part of the model.
        missing: places without a tensor.
        extra: tensors without a place.
        misshapen: places with a tensor of another shape.
    """

    keys: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str | None] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    missing: list[Place] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    misshapen: list[tuple[Place, str]] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """All that does not fit, or None."""
        problems = [f"`{place.name}`{_shown(place.shape)} is missing" for place in self.missing]
        problems += [f"`{name}` should be{_shown(place.shape)}" for place, name in self.misshapen]
        problems += [f"`{name}` is not in it" for name in self.extra]
        return "; ".join(problems) or None

    @property
    def hint(self) -> str:
        """What to do about it."""
        if self.missing or self.misshapen:
            return "name the config of the very model that the weights are from, with --config"
        return "leave what is too much out with --exclude"


def looks_like_key(name: str) -> bool:
    """Tell whether a name may be the path of a dataset in a weights file."""
    return _KEY.fullmatch(name) is not None


def fit_by_key(keys: Mapping[str, str], labels: Mapping[str, str | None]) -> Fit:
    """Return the fit of tensors whose places are known beforehand.

    Args:
        keys: of each tensor, by its name; what is no key of Keras's, or another's, has no place.
        labels: groups called `vars`, each with the name of its object.
    """
    done = Fit(labels={modern_key(group): label for group, label in labels.items()})
    for name, key in keys.items():
        modern = modern_key(key)
        if modern in done.keys or not looks_like_key(modern):
            done.extra.append(name)
        else:
            done.keys[modern] = name
    return done


def fit(
    layout: Layout,
    tensors: TensorDict,
    optimizer: Layer | None,
    beside: Collection[str] = (),
    *,
    own: bool,
) -> Fit:
    """Put tensors into places.

    Args:
        layout: the places of the model.
        tensors: what there is.
        optimizer: from the config.
        beside: names that are known to be an optimizer's.
        own: whether the tensors are those of a Keras 3 file with this very config, so that what
            has no place in the layout keeps the one it had.
    """
    matcher = _Matcher(layout, tensors)
    matcher.match(layout.places)
    if optimizer is not None and not own:
        matcher.match_optimizer(optimizer)
    matcher.drop_incomplete()
    matcher.place_rest(own=own)
    return matcher.result(beside)


class _Matcher:
    def __init__(self, layout: Layout, tensors: TensorDict) -> None:
        self._places = list(layout.places)
        self._labels = dict(layout.labels)
        self._open = layout.open
        self._tensors = tensors
        self._left: dict[str, str] = {}  # what is still to be placed, by its plain name
        self._keys: dict[str, str] = {}
        for name in tensors:
            plain = name.removesuffix(":0").lstrip("/")
            plain = name if plain in self._left else plain
            self._left[plain] = name
            key = modern_key(tensors.origin(name).key)
            if tensors.format == KERAS_3 or looks_like_key(key):
                self._keys.setdefault(key, plain)
            if looks_like_key(name):
                self._keys[modern_key(name)] = plain
        self._found: dict[str, str] = {}
        self._dropped: list[str] = []

    def match(self, places: list[Place]) -> None:
        """Fill places; those of an optimizer by their names alone."""
        for place in places:
            if place.name in self._left:
                self._take(place, place.name)
        needed = [place for place in places if place.needed]
        for place in self._unfilled(needed):
            plain = self._keys.get(place.key)
            if plain in self._left and self._fits(place, plain):
                self._take(place, plain)
        self._match_spellings(self._unfilled(needed))
        for place in self._unfilled(needed):
            # SpectralNormalization keeps the kernel of the layer that it wraps.
            wrapped = place.key.replace(f"/{VARS}/", f"/layer/{VARS}/")
            if place.alias and wrapped in self._found:
                self._found[place.key] = self._found[wrapped]

    def match_optimizer(self, optimizer: Layer) -> None:
        """Fill the places that the config's optimizer has, where no file tells any."""
        places, labels = optimizer_places(optimizer, self._trained())
        known = {place.key for place in self._places}
        places = [place for place in places if place.key not in known]
        self.match(places)
        self._places += places
        self._labels = labels | self._labels

    def _match_spellings(self, places: list[Place]) -> None:
        """Match other spellings of names, where neither tensor nor place has another choice."""
        wanting: dict[str, list[Place]] = {}
        for place in places:
            if place.alias:
                continue
            for spelling in place.others:
                if spelling in self._left and self._fits(place, spelling):
                    wanting.setdefault(spelling, []).append(place)
        offered: dict[str, int] = {}
        for rivals in wanting.values():
            for place in rivals:
                offered[place.key] = offered.get(place.key, 0) + 1
        for spelling, rivals in wanting.items():
            if len(rivals) == 1 and offered[rivals[0].key] == 1:
                self._take(rivals[0], spelling)

    def _trained(self) -> list[tuple[str, TensorSpec]]:
        """Return the trained variables that were found, in the order of the model."""
        specs = (
            (place, self._tensors[self._found[place.key]].spec)
            for place in self._places
            if place.key in self._found and place.trained and not place.alias
        )
        return [(place.name, spec) for place, spec in specs if spec.dtype is not DType.INT8]

    def drop_incomplete(self) -> None:
        """Give up an optimizer of which some variables are missing: Keras reads all or none."""
        groups: dict[str, list[Place]] = {}
        for place in self._places:
            if not place.needed:
                groups.setdefault(place.key.rpartition("/")[0], []).append(place)
        for places in groups.values():
            if self._unfilled(places):
                keys = {place.key for place in places}
                self._places = [place for place in self._places if place.key not in keys]
                filled = [place.key for place in places if place.key in self._found]
                self._dropped += [self._found.pop(key) for key in filled]

    def place_rest(self, *, own: bool) -> None:
        """Place what belongs to objects whose variables nobody knows, by number."""
        for plain, name in list(self._left.items()):
            key = modern_key(self._tensors.origin(name).key) if own else self._open_key(plain)
            if key is not None and looks_like_key(key) and key not in self._found:
                self._found[key] = name
                del self._left[plain]

    def _open_key(self, plain: str) -> str | None:
        if not looks_like_key(plain):
            return None
        above, _, number = f"/{plain}".rpartition(f"/{VARS}/")
        if above[1:] in self._open:
            return "/".join(filter(None, (self._open[above[1:]], VARS, number)))
        groups = [
            f"{group}/" for group in (OPTIMIZER, *METRICS, *filter(None, self._open.values()))
        ]
        key = modern_key(plain)
        return key if "" in self._open or key.startswith(tuple(groups)) else None

    def result(self, beside: Collection[str]) -> Fit:
        """Return what was found, in the order of the model."""
        done = Fit(labels=self._labels, dropped=self._dropped)
        for place in self._places:
            name = self._found.get(place.key)
            if name is not None:
                done.keys[place.key] = name
                if not fits(place.shape, self._tensors[name].spec.shape):
                    done.misshapen.append((place, name))
            elif place.needed:
                done.missing.append(place)
        for key, name in self._found.items():
            done.keys.setdefault(key, name)
        for name in self._left.values():
            no_part = self._tensors.origin(name).role in _NO_PART or name.endswith(_SEED)
            (done.dropped if no_part or name in beside else done.extra).append(name)
        return done

    # Tools

    def _fits(self, place: Place, plain: str | None) -> bool:
        return plain is not None and fits(place.shape, self._tensors[self._left[plain]].spec.shape)

    def _unfilled(self, places: list[Place]) -> list[Place]:
        return [place for place in places if place.key not in self._found]

    def _take(self, place: Place, plain: str) -> None:
        self._found[place.key] = self._left.pop(plain)


def _shown(shape: Shape | None) -> str:
    """Return a shape after a blank; nothing where the config does not tell it."""
    if shape is None:
        return ""
    dims = ", ".join("?" if dim is None else str(dim) for dim in shape)
    return f" ({dims},)" if len(shape) == 1 else f" ({dims})"
