"""Model cards: the Hub reads them, Python in them runs, and no name is markup."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from tensorferry.converters import open_tensors
from tensorferry.converters.digests import digest_all
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import NotRecognisedError, UsageError
from tensorferry.converters.tensors import TensorSpec
from tensorferry.pipeline.digest_file import model_digest
from tensorferry.pipeline.options import ConvertOptions
from tensorferry.pipeline.package import extra
from tensorferry.pipeline.package.build import build_package
from tensorferry.pipeline.package.card import card_text, check_template
from tensorferry.pipeline.package.fields import LISTS, TEXTS, read_fields
from tensorferry.pipeline.package.layers import MAX_LAYERS, layers
from tensorferry.pipeline.package.loading import snippets
from tensorferry.pipeline.package.options import PackageOptions
from tensorferry.pipeline.package.records import (
    FileRecord,
    LeftOut,
    PackageFacts,
    TensorRecord,
    Variant,
)

REPOSITORY = Path(__file__).resolve().parents[3]
HOSTILE = [
    "a|b", "<script>alert(1)</script>", "`x`|", "**bold**", "[click](javascript:alert(1))",
    "![i](x)", "a\nb", "\\|", "a\\", "__init__", "&amp;", "x\udcff", "\u202eevil", "~~gone~~",
    "<!--", "$x$", "``", " lead", "# head", "http://example.org", "", "{{ 7 * 7 }}", "`|`<b>",
]  # fmt: skip


@pytest.fixture
def facts(small_package: Callable[..., PackageFacts], tmp_path: Path) -> PackageFacts:
    return small_package(tmp_path)


def with_tensors(facts: PackageFacts, specs: Mapping[str, TensorSpec]) -> PackageFacts:
    records = {name: TensorRecord(spec, "0" * 64, "m") for name, spec in specs.items()}
    return replace(facts, variants=(replace(facts.variants[0], tensors=records),))


# What the Hub reads


def front_matter(facts: PackageFacts) -> dict[str, Any]:
    hub = pytest.importorskip("huggingface_hub", reason="the extra `torch` is not installed")
    card = hub.ModelCard(card_text(facts))
    data: dict[str, Any] = card.data.to_dict()
    return data


def test_the_hub_reads_what_the_owner_says(facts: PackageFacts) -> None:
    fields = {
        "tags": ["vision", "no", "1.5", 'quote " and \\', "ümlaut 🐊", "a: b", "x #y",
                 "\x85\u2028"],
        "datasets": ["mnist"], "language": ["no", "en"], "library_name": "tf-keras",
        "pipeline_tag": "image-classification", "base_model": ["org/model"],
        "metrics": {"accuracy": 0.93, "f1: macro": 0.5},
    }  # fmt: skip
    assert front_matter(replace(facts, fields=fields)) == {
        "license": "apache-2.0",
        "library_name": "tf-keras",
        "pipeline_tag": "image-classification",
        "language": ["no", "en"],
        "base_model": ["org/model"],
        "datasets": ["mnist"],
        "tags": ["safetensors", *fields["tags"]],
        "metrics": ["accuracy", "f1: macro"],
    }


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("", {}),
        ("MIT", {"license": "mit"}),
        ("GPL-3.0-only", {"license": "gpl-3.0"}),
        ("LGPL-2.1-or-later", {"license": "lgpl-2.1"}),
        ("MIT OR Apache-2.0", {"license": "other", "license_name": "MIT OR Apache-2.0",
                               "license_link": "LICENSE"}),
        ("LicenseRef-Acme", {"license": "other", "license_name": "LicenseRef-Acme",
                             "license_link": "LICENSE"}),
    ],
)  # fmt: skip
def test_the_hub_reads_the_licence(
    facts: PackageFacts, licence: str, expected: Mapping[str, str]
) -> None:
    found = front_matter(replace(facts, licence=licence))
    assert {key: value for key, value in found.items() if key.startswith("license")} == expected


def test_a_licence_without_its_text_has_no_link(facts: PackageFacts) -> None:
    found = front_matter(replace(facts, licence="LicenseRef-Acme", files=()))
    assert "license_link" not in found


# What people see


class Page(HTMLParser):
    """Collects tags and tables of a page."""

    def __init__(self, card: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self._cell: list[str] | None = None
        body = card.split("---\n", 2)[2]
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(body))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


# All that our template makes of facts alone.
TAGS = {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "pre"}


def shown(name: str) -> str:
    """Return how a name is shown: on one line, with nothing hidden."""
    odd = {"a\nb": "a\\nb", "x\udcff": "x\\xff", "\u202eevil": "\\u202eevil"}
    return odd.get(name, name)


def test_hostile_names_are_shown_and_are_no_markup(facts: PackageFacts) -> None:
    names = [name for name in HOSTILE if name]
    spec = TensorSpec(DType.FLOAT32, (2,))
    hostile = with_tensors(facts, {f"{name}\u00b7{n}": spec for n, name in enumerate(names)})
    info = {name: {"dtype": "float32", "shape": [1]} for name in HOSTILE}
    signatures = {name: {"inputs": info, "outputs": info} for name in HOSTILE}
    hostile = replace(
        hostile,
        name="|".join(HOSTILE),
        accounting=tuple(LeftOut("dropped", f"why {name}", name) for name in HOSTILE),
        source=replace(
            facts.source,
            name=HOSTILE[1],
            producer=HOSTILE[0],
            summary=" ".join(HOSTILE),
            details={"signatures": signatures},
            files=tuple(FileRecord(name, 1, "0" * 64) for name in HOSTILE),
        ),
        fields={"title": HOSTILE[4], "authors": HOSTILE, "datasets": HOSTILE, "contact": "<b>|",
                "metrics": dict.fromkeys(HOSTILE, 1.0)},
    )  # fmt: skip
    page = Page(card_text(hostile))
    assert page.tags == TAGS
    # What a name has split off would push the last cell of its row out of the table.
    ends = {
        "Layer": "float32", "Signature": None, "File": "0" * 64, "Metric": "1.0", "What": None,
        "Files": "176 bytes", "Name": None,
    }  # fmt: skip
    table = ""
    for row in page.rows:
        if row[0] in ends:
            table = row[0]
        elif ends[table] is not None:
            assert row[-1].endswith(str(ends[table])), row
        elif table == "Signature":
            assert row[1] == row[2], row
            assert len(re.findall(r"float32\[1\]", row[1])) == len(HOSTILE), row
        elif table == "What":
            assert row[0] == "dropped"
            assert row[2].removeprefix("1: ") in map(shown, HOSTILE), row
    cells = {row[0].strip() for row in page.rows}
    assert {shown(name).strip() for name in names} <= cells  # files and signatures


def test_what_the_owner_writes_is_markdown_where_it_may_be(facts: PackageFacts) -> None:
    fields = {"description": "Reads *digits*.", "limitations": "- none", "title": "A *B*"}
    card = card_text(replace(facts, fields=fields))
    assert {"em", "ul"} <= Page(card).tags
    assert "\n# A &#42;B&#42;\n" in card


def test_losses_come_first_and_are_counted(facts: PackageFacts) -> None:
    changes = [LeftOut("excluded", "optimizer slot", f"w{n}/Adam") for n in range(7)]
    changes += [LeftOut("source", "odd"), LeftOut("dropped", "no `float8` there", "w")]
    rows = Page(card_text(replace(facts, accounting=tuple(changes)))).rows
    start = rows.index(["What", "Why", "Tensors"])
    assert rows[start + 1 : start + 4] == [
        ["dropped", "no float8 there", "1: w"],
        ["excluded", "optimizer slot", "7: w0/Adam, w1/Adam, w2/Adam, w3/Adam, w4/Adam, …"],
        ["about the source", "odd", ""],
    ]
    assert "every tensor of the source is here" in card_text(facts)


def test_the_same_facts_give_the_same_card(facts: PackageFacts) -> None:
    assert card_text(facts) == card_text(replace(facts))


# Layers


def grouped(names: list[str]) -> list[tuple[str, int]]:
    spec = TensorSpec(DType.FLOAT32, (2,))
    rows = layers({name: TensorRecord(spec, "0" * 64, "m") for name in names})
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert sum(row["bytes"] for row in rows) == 8 * len(names)
    return [(row["name"], row["tensors"]) for row in rows]


def test_layers_are_in_the_order_of_their_numbers() -> None:
    names = [f"net/layer_{n}/{leaf}" for n in (10, 9, 1) for leaf in ("kernel", "bias")]
    assert grouped([*names, "step"]) == [
        ("net/layer_1", 2), ("net/layer_9", 2), ("net/layer_10", 2), ("step", 1),
    ]  # fmt: skip


def test_names_are_cut_where_few_layers_are_left() -> None:
    names = [f"bert.layer.{n}.attention.{part}.{leaf}"
             for n in range(24) for part in "qkv" for leaf in ("weight", "bias")]  # fmt: skip
    assert grouped(names) == [(f"bert.layer.{n}", 6) for n in range(24)]


def test_of_a_flat_model_the_largest_are_shown() -> None:
    rows = grouped([f"w{n}" for n in range(100)])
    assert len(rows) == MAX_LAYERS
    assert rows[-1] == ("", 100 - MAX_LAYERS + 1)


def test_a_model_without_tensors_has_no_layers(facts: PackageFacts) -> None:
    assert layers({}) == []
    assert "| Layer |" in card_text(with_tensors(facts, {}))


# Python in a card

# Runs each text by itself, and prints the digests of what it calls `weights`.
RUN = """
import json, sys
from blake3 import blake3

def digest(array):
    if hasattr(array, "detach"):
        import torch
        dtype = str(array.dtype).removeprefix("torch.")
        raw = array.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    else:
        dtype, raw = array.dtype.name, array.tobytes()
    head = f"{dtype} {'x'.join(map(str, array.shape))}\\n".encode()
    return blake3(head + raw).hexdigest()

for code in json.load(sys.stdin):
    found = {}
    exec(code, found)
    print(json.dumps({name: digest(array) for name, array in found["weights"].items()}))
"""


@pytest.mark.oracle
@pytest.mark.parametrize("shard", [None, 60])
def test_the_python_of_a_card_loads_what_the_source_holds(
    samples: Path, tmp_path: Path, shard: int | None
) -> None:
    pytest.importorskip("torch")
    options = ConvertOptions(weights_only=True, ema="only")
    options = replace(options, write=replace(options.write, max_shard_bytes=shard))
    report = build_package(
        samples / "tf1_adam_ema",
        tmp_path / "release",
        PackageOptions(convert=options, variants=("f32", "bf16", "f16"), licence="MIT"),
    )
    assert report.facts is not None
    card = (tmp_path / "release" / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^### `(\w+)`$", card.split("## Weights")[0], flags=re.MULTILINE)[1:]
    variants = {each.name: each for each in report.facts.variants}
    shown = [
        (variants[name], code)
        for name, part in zip(parts[::2], parts[1::2], strict=True)
        for code in re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    ]
    assert [variant.name for variant, _ in shown] == ["f32", "f32", "bf16", "bf16", "f16", "f16"]
    loaded = run([code for _, code in shown], tmp_path / "release")
    for (variant, _), digests in zip(shown, loaded, strict=True):
        assert bool(shard) == variant.files[-1].endswith(".json")
        assert digests == {name: each.digest for name, each in variant.tensors.items()}
        assert model_digest(digests) == variant.digest
    with open_tensors(samples / "tf1_adam_ema") as source:
        average = "dense/kernel/ExponentialMovingAverage"
        [found] = digest_all(source, [average], 1).values()
    assert report.facts.variants[0].tensors["dense/kernel"].digest == found


def run(codes: list[str], folder: Path) -> list[dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN],
        input=json.dumps(codes), cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_numpy_is_left_out_where_it_has_no_such_type() -> None:
    def libraries(dtype: DType) -> list[str]:
        record = TensorRecord(TensorSpec(dtype, (1,)), "0" * 64, "m")
        found = snippets(Variant("", (), ("m.safetensors",), {"w": record}, "0" * 64, {}))
        return [each["library"] for each in found]

    assert libraries(DType.BFLOAT16) == libraries(DType.INT8) == ["NumPy", "PyTorch"]
    assert libraries(DType.FLOAT8_E4M3FN) == ["PyTorch"]


# Templates of one's own


def own(folder: Path, text: str) -> Path:
    path = folder / "card.jinja"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_template_may_replace_blocks_of_ours(facts: PackageFacts, tmp_path: Path) -> None:
    text = (
        '{% extends "README.md.jinja" %}\n{% macro line(text) %}*{{ text }}*{% endmacro %}\n'
        "{% block use %}{{ line(fields.own.team) }} {{ super() }}{% endblock %}\n"
    )
    fields = {"own": {"team": "a*b"}, "intended_use": "All."}
    card = card_text(replace(facts, fields=fields), own(tmp_path, text))
    assert "*a&#42;b* ## Intended use\n\nAll." in card
    assert "| Layer |" in card


def test_a_template_is_given_what_the_guide_lists(facts: PackageFacts, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "guide" / "package.md").read_text(encoding="utf-8")
    section = page.split("### A template of one's own")[1].split("\n## ")[0].split("\n### ")[0]
    table = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    names = re.findall(r"`(\w+)`", "".join(table))
    template = own(tmp_path, "".join(f"{{{{ {name} }}}}\n" for name in names))
    assert len(names) > 12
    assert len(card_text(facts, template).splitlines()) > len(names)
    blocks = re.findall(r"`(\w+)`", section.split("The blocks are")[1].split(". Filters")[0])
    ours = REPOSITORY / "pipeline" / "package" / "templates" / "README.md.jinja"
    assert blocks == re.findall(r"{% block (\w+) %}", ours.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a\n{% if %}\n", 2, "Expected an expression"),
        ("a\n\n{{ fields.titel }}\n", 3, "no attribute 'titel'"),
        ("{{ name.__class__.__mro__ }}\n", 1, "unsafe"),
        ("{{ variants.append(1) }}\n", 1, "unsafe"),
        ("\n{{ 1 / 0 }}\n", 2, "division by zero"),
        ("{{ name | nothing }}\n", 1, "No filter named 'nothing'"),
        ("{{ name + 1 }}\n", 1, "can only concatenate"),
        ('{% include "/etc/passwd" %}\n', 1, "/etc/passwd"),
        ('{% extends "../bom.py" %}\n', 1, "bom.py"),
        ("{{ range(10000000) | list }}\n", 1, "Range too big"),
    ],
)
def test_a_template_that_is_wrong_is_named_with_its_line(
    facts: PackageFacts, tmp_path: Path, text: str, line: int, what: str
) -> None:
    path = own(tmp_path, text)
    with pytest.raises(UsageError, match="the template cannot be filled in") as caught:
        card_text(facts, path)
    assert (caught.value.path, caught.value.where) == (str(path), f"line {line}")
    assert what in caught.value.what


def test_a_template_is_looked_at_before_there_are_facts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"card\.jinja: line 1: "):
        check_template(own(tmp_path, "{% if %}"))
    with pytest.raises(NotRecognisedError, match=r"absent\.jinja: cannot be read"):
        check_template(tmp_path / "absent.jinja")
    (tmp_path / "card.jinja").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is no UTF-8"):
        check_template(tmp_path / "card.jinja")


def test_a_missing_extra_is_named(facts: PackageFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "jinja2" else name)
    with pytest.raises(UsageError, match="a package needs jinja2") as caught:
        card_text(facts)
    assert "tensorferry[package]" in (caught.value.hint or "")


# Fields


def fields(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "fields.toml"
    path.write_text(text, encoding="utf-8")
    return read_fields(path)


def test_the_sample_of_the_guide_has_every_field(facts: PackageFacts, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "guide" / "package.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```toml\n(title.*?)```", page, re.DOTALL)
    found = fields(tmp_path, text)
    assert set(found) == {*TEXTS, *LISTS, "metrics", "own"}
    assert found["metrics"] == {"accuracy": 0.93, "loss": 0.21}
    card = card_text(replace(facts, fields=found))
    own_text = {key: value for key, value in found.items() if isinstance(value, str)}
    assert [key for key, value in own_text.items() if value not in card] == []


def test_own_fields_are_taken_as_they_are(tmp_path: Path) -> None:
    text = '[own]\na = "x"\nb = 1\nc = 1.5\nd = true\ne = ["y", [2]]\n'
    assert fields(tmp_path, text) == {
        "own": {"a": "x", "b": 1, "c": 1.5, "d": True, "e": ["y", [2]]}
    }


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('titel = "x"\n', "`titel`", "is no known key"),
        ("title = 1\n", "`title`", "expected a text, got `1`"),
        ('title = " "\n', "`title`", "expected a text"),
        ('tags = "x"\n', "`tags`", "expected a list of texts"),
        ("tags = [1]\n", "`tags`", "expected a list of texts"),
        ("metrics = 1\n", "`metrics`", "expected a table, got int"),
        ('[metrics]\naccuracy = "0.9"\n', "`metrics.accuracy`", "expected a finite number"),
        ("[metrics]\naccuracy = inf\n", "`metrics.accuracy`", "expected a finite number"),
        ("[metrics]\naccuracy = true\n", "`metrics.accuracy`", "expected a finite number"),
        ("[own]\nday = 2024-01-01\n", "`own.day`", "expected a text, a number"),
        ("[own.deep]\nx = 1\n", "`own.deep`", "expected a text, a number"),
    ],
)
def test_fields_that_are_wrong_are_named(tmp_path: Path, text: str, where: str, what: str) -> None:
    with pytest.raises(UsageError, match=re.escape(what)) as caught:
        fields(tmp_path, text)
    assert (caught.value.path, caught.value.where) == (str(tmp_path / "fields.toml"), where)
