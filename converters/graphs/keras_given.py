"""Where a Keras writer takes config, metadata and assets from: what the user names, or the source.

    --config config.json     the file as it is, and metadata.json beside it
    --config model.keras     the same out of an archive or a folder, and where its weights lie
    --config m.weights.h5    where the weights lie, and no config
    --config model.h5        the attribute `model_config`, which only a legacy `.h5` can hold
    nothing                  what the source has of it

A config is data: what it names is neither imported nor opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..containers.keras_attachments import ASSETS, CONFIG, METADATA
from ..containers.strict_json import JSON_BYTES, parse_json
from ..errors import ConvertError, CorruptFileError, UnsafeFileError, UsageError
from ..names import near
from ..registry import Location, ReadOptions, claims
from ..sources import FileSource, Source
from ..tensors import TensorDict
from .keras_config import Layer, major_of, optimizer, parse
from .keras_h5_names import model_of, optimizer_of
from .keras_layout import BESIDE, KERAS_3, Layout, layout_of_config, with_file

__all__ = ["LABELS", "LAYERS", "MODEL_CONFIG", "TRAINING_CONFIG", "Given", "given", "labels_of"]

# Attachments that are made by our readers; no file of these names is in any archive.
LABELS = "tensorferry/labels.json"  # names of the groups called `vars`
LAYERS = "tensorferry/layers.json"  # names of the layers of a legacy file, in order
MODEL_CONFIG, TRAINING_CONFIG = "model_config", "training_config"


@dataclass(frozen=True)
class Given:
    """A config and what came with it.

    Attributes:
        path: where it is from, for messages.
        text: the config, byte for byte; empty where the user named weights alone.
        legacy: whether it is the one of a legacy `.h5`, which `.keras` does not take.
        parsed: the config as data.
        version: of the Keras that wrote it, where that is noted.
        own: whether it is the source's own.
        metadata: `metadata.json`, byte for byte, where there is one.
        training: `training_config` of a legacy `.h5`, where there is one.
        assets: by their paths.
        weights: of the model that it is from; only names, keys and shapes are looked at.
    """

    path: Path
    text: bytes
    legacy: bool
    parsed: Any
    version: str | None = None
    own: bool = False
    metadata: bytes | None = None
    training: bytes | None = None
    assets: Mapping[str, Source] = field(default_factory=dict)
    weights: TensorDict | None = None

    @property
    def keras(self) -> int:
        """Major version of the Keras that wrote it; tf_keras counts as 2."""
        number = (self.version or "").partition(".")[0]
        if number.isdecimal() and len(number) < 4:
            return int(number)
        return major_of(self.parsed)

    @property
    def model(self) -> Layer | None:
        """The model, or None if the config is none of a model."""
        if self.legacy:
            return model_of(self.parsed, self.keras)
        return parse(self.parsed, self.keras)

    @property
    def optimizer(self) -> Layer | None:
        """The optimizer that the model was compiled with, if any."""
        if not self.legacy:
            return optimizer(self.parsed, self.keras)
        if self.training is None:
            return None
        training = parse_json(self.training)
        config = training.get("optimizer_config") if isinstance(training, dict) else None
        return optimizer_of(config, self.keras)

    @property
    def beside(self) -> set[str]:
        """Names of what the optimizer of the model that it is from keeps."""
        weights = self.weights
        if weights is None:
            return set()
        return {name for name in weights if weights.origin(name).role in BESIDE}

    @property
    def texts(self) -> dict[str, str]:
        """What a legacy `.h5` keeps of it, by the name of the attribute."""
        texts = {MODEL_CONFIG: self.text.decode("utf-8")}
        return texts if self.training is None else {
            **texts, TRAINING_CONFIG: self.training.decode("utf-8"),
        }  # fmt: skip

    def layout(self, tensors: TensorDict) -> Layout:
        """Return the places of the model's variables.

        Raises:
            UsageError: the config is none of a model.
        """
        model, weights = self.model, self.weights
        if weights is not None and weights.format != KERAS_3:
            weights = None
        if model is None and weights is None:
            raise UsageError("the config is none of a model", path=self.path)
        layout = layout_of_config(model, tensors) if model else Layout()
        if weights is None:
            return layout
        specs = {name: tensor.spec for name, tensor in weights.items()}
        origins = {name: weights.origin(name) for name in weights}
        return with_file(layout, origins, specs, labels_of(weights))


def labels_of(tensors: TensorDict) -> dict[str, str | None]:
    """Return the names of the groups called `vars` that the file itself has."""
    source = tensors.attachments.get(LABELS)
    if source is None:
        return {}
    found: dict[str, str | None] = json.loads(source.read(0, source.size))
    return found


def given(tensors: TensorDict, config: Path | None) -> Given | None:
    """Return the config to write with, or None where there is none.

    Args:
        tensors: what is to be written.
        config: what the user named.

    Raises:
        UsageError: what the user named holds no config.
        CorruptFileError: the config is damaged.
    """
    if config is None:
        return _attached(tensors, _path_of(tensors), own=True)
    if not config.exists():
        beside = [each.name for each in config.parent.iterdir()] if config.parent.is_dir() else []
        raise UsageError("does not exist (--config)", path=config, hint=near(config.name, beside))
    location = Location(config)
    if config.is_file() and location.head.lstrip().startswith(b"{"):
        return _file(config)
    for reader in claims(location):
        opened = reader.open(location, ReadOptions())
        found = _attached(opened, config, own=False)
        opened.close()  # what is read later opens it anew
        if found is not None:
            return found
    raise UsageError(
        "no Keras config in it (--config)", path=config,
        hint="name a config.json, or a .keras, .h5 or folder that Keras saved a whole model to",
    )  # fmt: skip


def _path_of(tensors: TensorDict) -> Path:
    return tensors.sources[0].path if tensors.sources else Path(CONFIG)


def _attached(tensors: TensorDict, path: Path, *, own: bool) -> Given | None:
    """Return what the reader of a Keras file found beside the weights."""
    held = tensors.attachments
    name = CONFIG if CONFIG in held else MODEL_CONFIG
    text = _content(held, name, path)
    if text is None:
        known = not own and tensors.format == KERAS_3
        return Given(path, b"", False, None, weights=tensors) if known else None
    metadata = _content(held, METADATA, path)
    version = tensors.details.get("producer_version")
    return Given(
        path,
        text,
        legacy=name == MODEL_CONFIG,
        parsed=_parsed(text, path),
        version=version if isinstance(version, str) else _version(metadata, path),
        own=own,
        metadata=metadata,
        training=_content(held, TRAINING_CONFIG, path),
        assets={each: source for each, source in held.items() if each.startswith(ASSETS)},
        weights=None if own else tensors,
    )


def _file(path: Path) -> Given:
    """Return a `config.json`; metadata beside it tell which Keras wrote it."""
    held: dict[str, Source] = {CONFIG: FileSource(path)}
    beside = path.parent / METADATA
    if path.name == CONFIG and beside.is_file():
        held[METADATA] = FileSource(beside)
    try:
        text, metadata = _content(held, CONFIG, path), _content(held, METADATA, beside)
    finally:
        for source in held.values():
            source.close()
    text = text or b""
    return Given(path, text, False, _parsed(text, path), _version(metadata, beside),
                 metadata=metadata)  # fmt: skip


def _content(held: Mapping[str, Source], name: str, path: Path) -> bytes | None:
    source = held.get(name)
    if source is None:
        return None
    if source.size > JSON_BYTES:
        raise UnsafeFileError(
            f"`{name}`", path=path, expected=f"at most {JSON_BYTES} bytes", got=source.size
        )
    return source.read(0, source.size)


def _parsed(text: bytes, path: Path) -> Any:
    try:
        return parse_json(text)
    except ConvertError as error:
        if error.path is None:
            error.path = str(path)
        raise error.within("config") from None


def _version(metadata: bytes | None, path: Path) -> str | None:
    if metadata is None:
        return None
    try:
        content = parse_json(metadata)
    except CorruptFileError as error:
        error.path = str(path)
        raise error.within(METADATA) from None
    value = content.get("keras_version") if isinstance(content, dict) else None
    return value if isinstance(value, str) else None
