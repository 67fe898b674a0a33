"""Who runs against whom, and which bars they are held against."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from checkpoints import (
    ARCHIVE,
    LEGACY,
    LOOK,
    LOOKED_AT,
    MANY,
    MIXED,
    NAMES,
    NAMES_COUNT,
    OTHER,
    PACKAGE,
    PACKAGED,
    PAGE,
    POLICY,
    RECIPE,
    SAME,
    TINY,
    TRIVIAL,
    TRIVIAL_COUNT,
    ZOO,
    ZOOS,
    files_of,
    source_of,
)
from measure import Bar, Contestant, Group

OVERHEAD = Path(__file__).with_name("overhead.py")
TODAY = Path(__file__).with_name("today")
TENSORFLOW_ROUNDS = 2
MEGABYTE = 1_000_000

COPY, NOISE, NUMPY = "cp", "cp again (noise)", "python -c 'import numpy'"
BARE = "python -c pass"
COMPARE, READ = "cmp", "cat"
SYNCED = "cp and sync"
COPY_AND_SUM, SUM, OPENSSL = "cp and sha256sum", "sha256sum", "openssl dgst -sha256"
PACKAGE_MEMORY = Bar("memory", 200 * MEGABYTE)
OURS, THEIRS = "convert to {}", "TensorFlow script to {}"
KERAS_SCRIPT = "keras_to_safetensors.py"
MEMORY = Bar("memory", 64 * MEGABYTE)
MORE_MEMORY = Bar("memory", 100 * MEGABYTE)
STATS_MEMORY = Bar("memory", 150 * MEGABYTE)
RECIPE_MEMORY = Bar("memory", 300 * MEGABYTE)
STATS_SECONDS = Bar("seconds", 1342 / 400)  # of 1,342 MB at 400 MB/s


@dataclass(frozen=True)
class Target:
    """A format to write: what to call it, where to, its script of today, and its bar over cp."""

    title: str
    name: str
    script: str
    bar: Bar


TARGETS = (
    Target("safetensors", "out.safetensors", "to_safetensors.py", Bar("ratio", 1.1, COPY, 1.0)),
    Target("TF checkpoint", "out.ckpt", "to_tf_checkpoint.py", Bar("ratio", 1.3, COPY)),
    Target("npz", "out.npz", "to_npz.py", Bar("ratio", 1.8, COPY)),
    Target("HDF5", "out.h5", "to_hdf5.py", Bar("ratio", 1.8, COPY)),
)


@dataclass(frozen=True)
class Chosen:
    """A conversion with flags: what to call it, where to, the flags, and its bar over cp."""

    title: str
    name: str
    flags: tuple[str, ...]
    bars: tuple[Bar, ...] = ()


CHOSEN = (
    Chosen("safetensors --verify", "out.safetensors", ("--verify",)),
    Chosen("safetensors --verify=sample", "out.safetensors", ("--verify=sample",)),
    Chosen("safetensors, 300 MB shards", "out.safetensors", ("--max-shard-size", "300MB"),
           (Bar("ratio", 1.2, COPY),)),
    Chosen("safetensors as bf16", "out.safetensors", ("--dtype", "bf16"),
           (Bar("ratio", 1.3, COPY),)),
    Chosen("safetensors as f16", "out.safetensors", ("--dtype", "f16"), (Bar("ratio", 3, COPY),)),
    Chosen("TF checkpoint, object-based", "out.ckpt", ("--object-based",),
           (Bar("ratio", 1.3, COPY),)),
)  # fmt: skip
KERAS_WEIGHTS = Chosen(".weights.h5", "out.weights.h5", (), (Bar("ratio", 2, COPY),))


@dataclass(frozen=True)
class Bench:
    """What all groups need to know.

    Attributes:
        folder: where the models lie.
        python: the interpreter that has Tensorferry.
        program: its console script.
        rounds: how many rounds instead of each group's own number.
        tensorflow: whether to run the scripts of today.
    """

    folder: Path
    python: Path
    program: Path
    rounds: int | None = None
    tensorflow: bool = True

    def group(self, kind: str) -> Group:
        """Return the contestants that run on a kind of model."""
        makers: dict[str, Callable[[], list[Contestant]]] = {
            "1MB": self._small,
            "1.3GB": self._large,
            TINY: self._tiny,
            LEGACY: partial(self._keras, LEGACY),
            ARCHIVE: partial(self._keras, ARCHIVE),
            MANY: self._many,
            LOOK: self._look,
            RECIPE: self._recipe,
            ZOO: self._zoo,
            PACKAGE: self._package,
            MIXED: self._mixed,
            TRIVIAL: self._trivial,
            NAMES: self._names,
        }
        rounds = {"100MB": 5, TINY: 5, TRIVIAL: 5, NAMES: 3}
        contestants = tuple(makers[kind]() if kind in makers else self._middle(kind))
        files = files_of(self.folder, LOOKED_AT if kind in (LOOK, PACKAGE, RECIPE) else kind)
        return Group(kind, files, contestants, self.rounds or rounds.get(kind, 9))

    def _small(self) -> list[Contestant]:
        kind = "1MB"
        bar = Bar("ratio", 1.5, NUMPY, 1.0)
        python = str(self.python)
        return [
            Contestant(NUMPY, (python, "-c", "import numpy")),
            Contestant(BARE, (python, "-c", "pass")),
            self._cp(kind),
            *(self._ours(kind, target, bar) for target in TARGETS),
            *self._theirs(kind, TARGETS[:1]),
        ]

    def _middle(self, kind: str) -> list[Contestant]:
        return [
            self._cp(kind),
            self._cp(kind, NOISE),
            *(self._ours(kind, target, MEMORY) for target in TARGETS),
        ]

    def _large(self) -> list[Contestant]:
        kind = "1.3GB"
        first, *others = TARGETS
        faster = Bar("faster", 8, THEIRS.format(first.title))
        return [
            self._cp(kind),
            self._cp(kind, NOISE),
            self._ours(kind, first, first.bar, MEMORY, *([faster] if self.tensorflow else [])),
            *(self._ours(kind, target, target.bar, MEMORY) for target in others),
            *(self._chosen(kind, each) for each in CHOSEN),
            *self._theirs(kind, TARGETS),
        ]  # fmt: skip

    def _tiny(self) -> list[Contestant]:
        prefix = source_of(self.folder, TINY)
        return [
            self._cp(TINY),
            self._run("inspect --json", "inspect", prefix, "--json", bars=(Bar("seconds", 0.8),)),
            self._run("inspect", "inspect", prefix, bars=(Bar("seconds", 1.5),)),
            self._ours(TINY, TARGETS[0], Bar("seconds", 2.0)),
        ]

    def _keras(self, kind: str) -> list[Contestant]:
        target = TARGETS[0]
        bar = Bar("ratio", 1.4, COPY)
        return [
            self._cp(kind),
            self._cp(kind, NOISE),
            self._ours(kind, target, bar, MORE_MEMORY),
            *([self._chosen(kind, KERAS_WEIGHTS)] if kind == ARCHIVE else []),
            *self._theirs(kind, (replace(target, script=KERAS_SCRIPT),), "Keras script to {}"),
        ]

    def _many(self) -> list[Contestant]:
        file = source_of(self.folder, MANY)
        return [
            self._cp(MANY),
            # How fast the machine is at the time, since the bar is in seconds.
            Contestant(BARE, (str(self.python), "-c", "pass")),
            self._run("inspect --json", "inspect", file, "--json", bars=(Bar("seconds", 0.4),)),
            self._ours(MANY, TARGETS[0]),
        ]

    def _look(self) -> list[Contestant]:
        model, same, other = (source_of(self.folder, each) for each in (LOOKED_AT, SAME, OTHER))
        data, copy = (files_of(self.folder, each)[1] for each in (LOOKED_AT, SAME))
        differs = '"$0" diff "$1" "$2"; test $? = 1'  # which is the exit code then
        return [
            Contestant(READ, (_found("cat"), str(data))),
            Contestant(COMPARE, (_found("cmp"), str(data), str(copy))),
            self._run("inspect --stats", "inspect", model, "--stats",
                      bars=(STATS_SECONDS, STATS_MEMORY)),
            self._run("check", "check", model, bars=(Bar("ratio", 1.5, READ), STATS_MEMORY)),
            self._run("diff, equal", "diff", model, same, bars=(Bar("ratio", 3, COMPARE),)),
            Contestant("diff, all changed",
                       (_found("sh"), "-c", differs, str(self.program), str(model), str(other))),
            self._run("verify of a copy", "verify", model, same, bars=()),
            self._run("inspect --stats --html of 10,000 tensors", "inspect",
                      source_of(self.folder, PAGE), "--stats", "--html", "{out}/page.html",
                      bars=(Bar("seconds", 10),)),
        ]  # fmt: skip

    def _recipe(self) -> list[Contestant]:
        source = source_of(self.folder, LOOKED_AT)
        words = (source, "{out}/", "--to", "safetensors", "--recipe", "builtin:bert", "-q")
        bars = (Bar("ratio", 4, COPY, 2.5), RECIPE_MEMORY)
        return [
            self._cp(LOOKED_AT),
            self._cp(LOOKED_AT, NOISE),
            self._ours(LOOKED_AT, TARGETS[0]),
            self._run("convert by builtin:bert", *words, bars=bars),
            self._run("convert by builtin:bert, one thread", *words, "--jobs", "1", bars=()),
        ]

    def _zoo(self) -> list[Contestant]:
        root = self.folder / ZOO
        copy = 'cp "$0"/* "$1"'
        synced = f"{copy} && sync -f $1"
        words = ("batch", root, "{out}", "--to", "safetensors", "-q")
        bar = Bar("seconds", sum(ZOOS[ZOO].values()) / 200)
        return [
            Contestant(COPY, (_found("sh"), "-c", copy, str(root), "{out}")),
            Contestant(SYNCED, (_found("sh"), "-c", synced, str(root), "{out}")),
            self._run("batch, neither verified nor synced", *words, "--no-verify", "--no-fsync",
                      bars=(bar, STATS_MEMORY)),
            self._run("batch, synced", *words, "--no-verify",
                      bars=(Bar("ratio", 1.43, SYNCED), STATS_MEMORY)),
            self._run("batch, verified and synced", *words, bars=(STATS_MEMORY,)),
        ]  # fmt: skip

    def _package(self) -> list[Contestant]:
        index, data = files_of(self.folder, LOOKED_AT)
        packaged, weights = files_of(self.folder, PACKAGED)
        both = 'cp "$0" "$1" "$2" && sha256sum "$1"'
        source, policy = source_of(self.folder, LOOKED_AT), self.folder / POLICY
        bars = (Bar("ratio", 3, COPY_AND_SUM), PACKAGE_MEMORY)
        words = ("package", source, "{out}", "-q")
        return [
            Contestant(COPY_AND_SUM,
                       (_found("sh"), "-c", both, str(index), str(data), "{out}")),
            Contestant(SUM, (_found("sha256sum"), str(weights))),
            # The same by a library that uses the processor's own instructions.
            Contestant(OPENSSL, (_found("openssl"), "dgst", "-sha256", str(weights))),
            self._run("package, with gates", *words, "--policy", policy, bars=bars),
            self._run("package as bf16, with gates", *words, "--dtype", "bf16", bars=bars),
            self._run("package of f32 and bf16", *words, "--variant", "f32", "--variant", "bf16",
                      bars=(PACKAGE_MEMORY,)),
            self._run("package.tar", "package", source, "{out}/package.tar", "-q",
                      bars=(PACKAGE_MEMORY,)),
            self._run("package verify", "package", "verify", packaged.parent, "-q",
                      bars=(Bar("ratio", 1.3, SUM), PACKAGE_MEMORY)),
        ]  # fmt: skip

    def _mixed(self) -> list[Contestant]:
        root = self.folder / MIXED
        copy = (_found("sh"), "-c", 'cp "$0"/* "$1"', str(root), "{out}")
        words = ("batch", root, "{out}", "--to", "safetensors", "-q")
        return [
            Contestant(COPY, copy),
            self._run("batch, mixed sizes", *words, "--no-fsync",
                      bars=(Bar("busy", 0.9), STATS_MEMORY)),
        ]  # fmt: skip

    def _trivial(self) -> list[Contestant]:
        """Return what a batch costs where its models cost nothing: `overhead.py`."""
        root, python = self.folder / TRIVIAL, str(self.python)
        words = (str(OVERHEAD), str(root), "{out}")
        none = "discovery and ledger of none"
        bar = Bar("each", 0.002, none, count=TRIVIAL_COUNT)
        whole = ("batch", root, "{out}", "--to", "safetensors", "-q", "--no-verify", "--no-fsync")
        return [
            Contestant(none, (python, str(OVERHEAD), str(TODAY), "{out}")),
            Contestant("discovery, ledger and dispatch", (python, *words), bars=(bar,)),
            self._run("batch of models of 4 bytes", *whole, bars=(STATS_MEMORY,)),
        ]

    def _names(self) -> list[Contestant]:
        root = self.folder / NAMES
        words = ("batch", root, "{out}", "--to", "safetensors", "--dry-run")
        bars = (Bar("seconds", 60), Bar("memory", 500 * MEGABYTE))
        return [
            Contestant("find", (_found("find"), str(root), "-size", "+1")),
            self._run(f"batch --dry-run of {NAMES_COUNT:,} models", *words, bars=bars),
        ]

    def _cp(self, kind: str, name: str = COPY) -> Contestant:
        files = map(str, files_of(self.folder, kind))
        return Contestant(name, (_found("cp"), *files, "{out}"))

    def _ours(self, kind: str, target: Target, *bars: Bar) -> Contestant:
        source = source_of(self.folder, kind)
        return self._run(OURS.format(target.title), source, f"{{out}}/{target.name}", bars=bars)

    def _chosen(self, kind: str, chosen: Chosen) -> Contestant:
        source, target = source_of(self.folder, kind), f"{{out}}/{chosen.name}"
        name = OURS.format(chosen.title)
        return self._run(name, source, target, *chosen.flags, bars=(*chosen.bars, MORE_MEMORY))

    def _run(self, name: str, *words: str | Path, bars: tuple[Bar, ...]) -> Contestant:
        return Contestant(name, (str(self.program), *map(str, words)), bars=bars)

    def _theirs(
        self, kind: str, targets: tuple[Target, ...], name: str = THEIRS
    ) -> list[Contestant]:
        if not self.tensorflow:
            return []
        source = str(source_of(self.folder, kind))
        return [
            Contestant(
                name.format(target.title),
                (sys.executable, str(TODAY / target.script), source, f"{{out}}/{target.name}"),
                rounds=TENSORFLOW_ROUNDS,
            )
            for target in targets
        ]


def _found(program: str) -> str:
    """Return the full path of a program of the system."""
    return shutil.which(program) or f"/bin/{program}"
