"""Operations of a graph that reach beyond it: files, network, Python. Found, never run.

A graph is a program: whoever runs it lets it do what its operations do. TensorFlow's own advice is
to run graphs of strangers in a sandbox (SECURITY.md of tensorflow, v2.21.0); here is told which
operations make that advice matter. Looked at are the graph and all functions of its library, since
most of a TensorFlow 2 model is in functions.

How grave an operation is depends on where its path comes from. Followed back are all inputs of the
path, through any operation: what ends in an argument or a placeholder is given by the caller, what
ends in a constant was put there by whoever made the graph.

Saving and restoring are part of most graphs, with a path that the caller gives. Names and inputs
are those of tensorflow/core/ops/*.cc (v2.21.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ..containers.graph_proto import Node, functions, nodes
from ..containers.messages import Body
from ..containers.tensor_proto import parse_tensor
from ..dtypes import DType
from ..errors import CorruptFileError
from ..findings import Finding, Level
from ..names import decode

__all__ = ["RISKY_OPS", "Risk", "custom_operators", "risky_nodes"]


class Risk(Enum):
    """What an operation does; the value is the rule of the finding."""

    PYTHON = "security/python-op"
    WRITE = "security/file-write-op"
    READ = "security/file-read-op"
    DATA = "security/data-op"
    NETWORK = "security/network-op"
    CODE = "security/code-op"
    TABLE = "security/asset-op"
    SAVE = "security/save-op"
    RESTORE = "security/restore-op"


class _Risky(NamedTuple):
    """An operation: what it does, and what tells the path or address: inputs, or an attribute."""

    risk: Risk
    inputs: tuple[int, ...] = ()
    attribute: str = ""


def _each(names: str, risk: Risk, *inputs: int, attribute: str = "") -> dict[str, _Risky]:
    return dict.fromkeys(names.split(), _Risky(risk, inputs, attribute))


RISKY_OPS: Mapping[str, _Risky] = {
    **_each("PyFunc PyFuncStateless EagerPyFunc", Risk.PYTHON),
    **_each("WriteFile", Risk.WRITE, 0),
    **_each("SaveDataset SaveDatasetV2 SnapshotDataset SnapshotDatasetV2", Risk.WRITE, 1),
    **_each("DatasetToTFRecord ExperimentalDatasetToTFRecord", Risk.WRITE, 1),
    **_each("CacheDataset CacheDatasetV2 CreateSummaryFileWriter", Risk.WRITE, 1),
    **_each("DumpTensor", Risk.WRITE, attribute="log_dir_path"),
    **_each("CalibrationStatisticsSaver", Risk.WRITE, attribute="output_file_path"),
    **_each("PrintV2", Risk.WRITE, attribute="output_stream"),
    **_each("ReadFile MatchingFiles MatchingFilesDataset", Risk.READ, 0),
    **_each("ExperimentalMatchingFilesDataset", Risk.READ, 0),
    **_each("LoadDataset ListSnapshotChunksDataset SnapshotDatasetReader", Risk.DATA, 0),
    **_each("SnapshotChunkDataset LMDBDataset ExperimentalLMDBDataset", Risk.DATA, 0),
    **_each("TextLineDataset TFRecordDataset TFRecordDatasetV2", Risk.DATA, 0),
    **_each("FixedLengthRecordDataset FixedLengthRecordDatasetV2", Risk.DATA, 0),
    **_each("CSVDataset CSVDatasetV2 ExperimentalCSVDataset", Risk.DATA, 0),
    **_each("WholeFileReader WholeFileReaderV2 TextLineReader TextLineReaderV2", Risk.DATA),
    **_each("TFRecordReader TFRecordReaderV2 LMDBReader", Risk.DATA),
    **_each("FixedLengthRecordReader FixedLengthRecordReaderV2", Risk.DATA),
    **_each("RecordInput", Risk.DATA, attribute="file_pattern"),
    **_each("Skipgram", Risk.DATA, attribute="filename"),
    **_each("SqlDataset ExperimentalSqlDataset", Risk.NETWORK, 1),
    **_each("CreateSummaryDbWriter", Risk.NETWORK, 1),
    **_each("RpcServer RpcClient", Risk.NETWORK, 0),
    **_each("RpcCall RpcServerStart RpcServerRegister", Risk.NETWORK),
    **_each("DataServiceDataset DataServiceDatasetV2 DataServiceDatasetV3", Risk.NETWORK, 2),
    **_each("DataServiceDatasetV4", Risk.NETWORK, 2),
    **_each("RegisterDataset RegisterDatasetV2", Risk.NETWORK, 1),
    **_each("DistributedSave", Risk.NETWORK, 2),
    **_each("FileSystemSetConfiguration", Risk.NETWORK),
    **_each("DebugIdentity DebugIdentityV2 DebugIdentityV3", Risk.NETWORK, attribute="debug_urls"),
    **_each("DebugNanCount DebugNumericSummary", Risk.NETWORK, attribute="debug_urls"),
    **_each("XlaCustomCall", Risk.CODE, attribute="target_name"),
    **_each("XlaCustomCallV2", Risk.CODE, attribute="call_target_name"),
    **_each("Abort", Risk.CODE),
    **_each("InitializeTableFromTextFile InitializeTableFromTextFileV2", Risk.TABLE, 1),
    **_each("GenerateVocabRemapping", Risk.TABLE, 0, 1),
    **_each("FixedUnigramCandidateSampler", Risk.TABLE, attribute="vocab_file"),
    **_each("Save SaveSlices SaveV2", Risk.SAVE, 0),
    **_each("MergeV2Checkpoints", Risk.SAVE, 1),
    **_each("Restore RestoreSlice RestoreV2 DTensorRestoreV2 LoadAndRemapMatrix", Risk.RESTORE, 0),
}
# Operations whose attribute is harmless unless it says this much.
_ONLY = {"PrintV2": re.compile("^file:"), **dict.fromkeys(
    ("DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DebugNumericSummary"),
    re.compile("^(grpc|file):"),
)}  # fmt: skip
# An absolute path, a home, a drive, one that leads upwards, an address.
_OUTSIDE = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\\\\)|(^|[/\\])\.\.([/\\]|$)|^\w[\w+.-]*://")
_DOES = {
    Risk.PYTHON: "calls Python",
    Risk.WRITE: "writes files",
    Risk.READ: "reads files",
    Risk.DATA: "reads files of data",
    Risk.NETWORK: "reaches out to the network",
    Risk.CODE: "runs machine code by name, or ends the process",
    Risk.TABLE: "reads a vocabulary from a file, as assets are",
    Risk.SAVE: "saves a checkpoint",
    Risk.RESTORE: "reads a checkpoint",
}
# Operations that call functions, and the attributes that name those.
_CALLS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall", "RemoteCall"), ("f",)),
    **dict.fromkeys(("While", "StatelessWhile"), ("cond", "body")),
    **dict.fromkeys(("If", "StatelessIf"), ("then_branch", "else_branch")),
}
_GIVEN = frozenset({"Placeholder", "PlaceholderV2"})  # one with a default runs without a caller
_MAX_STEPS = 1000  # of following one path
_MAX_PATHS = 64  # constants of more elements hold no paths
_TEXT_BYTES = 1 << 14
_SHOWN = 200  # characters of a path
# tensorflow/python/training/saver.py: what a Saver calls its file where nobody says, and the
# folder beside it for the parts of a sharded one.
_DEFAULT = re.compile(r"(model|(_temp(_[0-9a-f]{32})?/|\.)part)?")


def risky_nodes(graph: Body, path: str) -> Iterator[Finding]:
    """Yield a finding for each operation of a GraphDef, and of its functions, that is risky.

    Args:
        graph: the message.
        path: the file, for the findings.

    Raises:
        CorruptFileError: the graph is damaged.
    """
    bodies = [("", nodes(graph)), *((each.name, each.nodes) for each in functions(graph))]
    scopes = [_Scope(name, {node.name: node for node in body}, path) for name, body in bodies]
    saving = _saving(scopes)
    for scope in scopes:
        yield from scope.findings(saving)


def custom_operators(names: Iterable[str], path: str) -> Iterator[Finding]:
    """Yield a finding for each operator of a TensorFlow Lite model that is not its own.

    Those that begin with `Flex` are TensorFlow's.
    """
    for name in names:
        risky = RISKY_OPS.get(name.removeprefix("Flex")) if name.startswith("Flex") else None
        level = _level(risky.risk, set(), given=True) if risky else Level.NOTE
        if risky and level:
            text = f"`{name}` {_DOES[risky.risk]}"
            yield Finding(risky.risk.value, level, text, path=path)
        elif not name.startswith("Flex"):
            text = f"`{name}` is an operation of a library: what it does is not known"
            yield Finding("security/custom-op", Level.NOTE, text, path=path)


@dataclass(frozen=True)
class _Scope:
    """The graph itself, or a function."""

    name: str
    nodes: Mapping[str, Node]
    path: str

    def findings(self, saving: frozenset[str]) -> Iterator[Finding]:
        """Yield what is risky.

        Args:
            saving: functions that save to a path which their caller gives.
        """
        for node in self.nodes.values():
            risky = RISKY_OPS.get(node.op)
            if saving & self.called(node):
                yield from self._call(node)
            if risky is not None:
                yield from self._finding(node, risky)
            elif ">" in node.op:  # `package>Op`, by convention of libraries with operations
                text = f"`{node.op}` is an operation of a library: what it does is not known"
                yield self._found(node, "security/custom-op", Level.NOTE, text)

    def _finding(self, node: Node, risky: _Risky) -> Iterator[Finding]:
        paths, given = self._paths(node, risky)
        if node.op in _ONLY:
            paths = {path for path in paths if _ONLY[node.op].search(path)}
            if not paths:
                return
        if risky.inputs and node.op.startswith("CacheDataset") and paths <= {""} and not given:
            return  # in memory
        level = _level(risky.risk, paths, given=given)
        if level is None:
            return
        text = f"`{node.op}` {_DOES[risky.risk]}"
        named = sorted(path for path in paths if path)
        if named:
            text += ": " + ", ".join(f"`{path[:_SHOWN]}`" for path in named[:3])
        elif given:
            text += ", at a path that the caller gives"
        yield self._found(node, risky.risk.value, level, text)

    def called(self, node: Node) -> frozenset[str]:
        """Return the functions a node calls; TF1's functions are called as ops of their name."""
        return frozenset({node.op, *map(node.function, _CALLS.get(node.op, ()))})

    def _call(self, node: Node) -> Iterator[Finding]:
        """Yield a finding where a function that saves is given a fixed place to save to."""
        paths, _ = self._constants(node.inputs)
        outside = sorted(path for path in paths if _OUTSIDE.search(path))
        if outside:
            text = f"`{node.op}` calls a function that saves a checkpoint: `{outside[0][:_SHOWN]}`"
            yield self._found(node, Risk.SAVE.value, Level.ERROR, text)

    def _found(self, node: Node, rule: str, level: Level, text: str) -> Finding:
        inside = f" of function `{self.name}`" if self.name else ""
        return Finding(rule, level, text, path=self.path, where=f"node `{node.name}`{inside}")

    # Where a path comes from

    def _paths(self, node: Node, risky: _Risky) -> tuple[set[str], bool]:
        """Return the constants that a path is made of, and whether the caller gives a part."""
        if risky.attribute:
            return set(_texts(node, risky.attribute)), False
        data = [name for name in node.inputs if not name.startswith("^")]
        return self._constants(data[number] for number in risky.inputs if number < len(data))

    def _constants(self, tensors: Iterable[str]) -> tuple[set[str], bool]:
        """Return the texts that tensors are made of, and whether the caller gives a part."""
        paths: set[str] = set()
        given = False
        waiting = [name for name in tensors if not name.startswith("^")]
        seen: set[str] = set()
        while waiting and len(seen) < _MAX_STEPS:
            name = waiting.pop().partition(":")[0]
            if name in seen:
                continue
            seen.add(name)
            source = self.nodes.get(name)
            if source is None or source.op in _GIVEN:
                given = True
            elif source.op in ("Const", "HostConst"):
                paths.update(_constant(source))
            else:
                waiting += [each for each in source.inputs if not each.startswith("^")]
        return paths, given


def _saving(scopes: Iterable[_Scope]) -> frozenset[str]:
    """Return the functions that save, or call one that does."""
    calls: dict[str, set[str]] = {}
    found: set[str] = set()
    for scope in scopes:
        if not scope.name:
            continue
        calls[scope.name] = set().union(*map(scope.called, scope.nodes.values()))
        risks = {RISKY_OPS[each].risk for each in calls[scope.name] & RISKY_OPS.keys()}
        if Risk.SAVE in risks:
            found.add(scope.name)
    while more := {name for name, called in calls.items() if called & found} - found:
        found |= more
    return frozenset(found)


def _level(risk: Risk, paths: set[str], *, given: bool) -> Level | None:
    outside = any(_OUTSIDE.search(path) for path in paths)
    if risk is Risk.TABLE:
        return Level.NOTE
    if risk is Risk.RESTORE:  # what it reads becomes a variable, and warm starts do so
        return Level.NOTE if outside else None
    if risk is Risk.SAVE:
        if given or all(map(_DEFAULT.fullmatch, paths)):
            return Level.NOTE if outside else None
        return Level.ERROR if outside else Level.NOTE
    if risk is Risk.DATA:  # graphs for training read their data so
        return Level.WARNING if outside else Level.NOTE
    if risk is Risk.READ:
        return Level.ERROR if outside else Level.WARNING
    return Level.ERROR


def _texts(node: Node, name: str) -> Iterator[str]:
    """Yield an attribute that is a text, or the texts of one that is a list."""
    for number in (2, 1):
        value = node.attr(name, number)
        if isinstance(value, Body) and number == 2:
            yield _text(value)
        elif isinstance(value, Body):
            yield from (_text(each) for n, each in value.bodies() if n == 2)


def _text(body: Body) -> str:
    return body.text() if body.length <= _TEXT_BYTES else "(a very long text)"


def _constant(node: Node) -> Iterator[str]:
    """Yield the texts of a Const, if it is a small one of texts."""
    value = node.attr("value", 8)
    if not isinstance(value, Body) or value.length > _TEXT_BYTES:
        return
    try:
        tensor = parse_tensor(value)
        if tensor.spec.dtype is DType.STRING and tensor.spec.size <= _MAX_PATHS:
            yield from map(decode, tensor.elements())
    except CorruptFileError:  # reading the tensors tells
        return
