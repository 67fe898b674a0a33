"""Files in JSON that Tensorferry wrote itself, such as reports; they may come from anybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..converters.containers.strict_json import read_json
from ..converters.errors import CorruptFileError, NotRecognisedError
from ..converters.sources import FileSource

__all__ = ["own_json"]


@contextmanager
def own_json(path: Path, max_bytes: int) -> Iterator[object]:
    """Give what a file holds; what the block finds wrong with it names the file.

    Raises:
        NotRecognisedError: there is no such file.
        CorruptFileError: it is no JSON.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        what = "is no regular file" if path.exists() else "does not exist"
        raise NotRecognisedError(what, path=path)
    source = FileSource(path)
    try:
        yield read_json(source, max_bytes=max_bytes, bytes_in_names=True)
    except CorruptFileError as error:
        error.path = error.path or str(path)
        error.args = (error.message,)
        raise
    finally:
        source.close()
