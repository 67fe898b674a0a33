"""What a page is made of: everything in one file, nothing in it that a name could set loose."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
import subprocess
import sys
import time
import unicodedata
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.errors import CorruptFileError, UsageError, printable
from tensorferry.converters.findings import Finding, Level
from tensorferry.converters.notes import Kind, Note
from tensorferry.converters.tensors import TensorDict
from tensorferry.pipeline.diff import Difference
from tensorferry.pipeline.html import diff_page, inspect_page, write_page
from tensorferry.pipeline.stats import Stats, stats_all

MAX_BYTES = 8_000_000
MAX_SECONDS = 10


@dataclass
class Parsed(HTMLParser):
    """A page as a parser sees it."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        last = self.tags[-1][0] if self.tags else ""
        if last == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        elif last != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found

    @property
    def policy(self) -> dict[str, list[str]]:
        content = next(
            words["content"] or "" for tag, words in self.tags if words.get("http-equiv")
        )
        return {part.split()[0]: part.split()[1:] for part in content.split(";")}


def parsed(page: str) -> Parsed:
    parser = Parsed()
    parser.feed(page)
    parser.close()
    return parser


@pytest.fixture(scope="module")
def sample(samples: Path) -> Parsed:
    """Return the page of a sample with values and flags."""
    with open_tensors(samples / "tf1_adam_ema") as tensors:
        findings = [
            Finding("value/nan", Level.ERROR, "3 values are NaN", "dense/kernel"),
            Finding("integrity/trailing", Level.NOTE, "12 bytes follow", path="a.data", where="7"),
            Finding("value/zero", Level.WARNING, "all zero", "not/there"),
        ]
        return parsed(inspect_page("a model", tensors, stats_all(tensors, 2), findings))


# One file, no requests, no other scripts


def test_nothing_is_loaded(sample: Parsed) -> None:
    links = [words.get(name) for _, words in sample.tags for name in ("src", "href")]
    assert {link for link in links if link and not link.startswith("#")} == {"data:,"}
    assert not [tag for tag, _ in sample.tags if tag in ("iframe", "object", "embed", "img")]


def test_the_policy_lets_nothing_out_and_no_other_script_run(sample: Parsed) -> None:
    _, packed, script = sample.scripts
    library = gzip.decompress(base64.b64decode(packed)).decode()
    assert sample.policy == {
        "default-src": ["'none'"],
        "script-src": [digest(script), digest(library)],
        "style-src": ["'unsafe-inline'"],
        "img-src": ["data:", "blob:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    assert "plotly.js" in library[:200]


def digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def test_there_are_no_handlers_in_attributes(sample: Parsed) -> None:
    assert not [name for _, words in sample.tags for name in words if name.startswith("on")]


def test_the_same_model_gives_the_same_page(large: TensorDict) -> None:
    few = large.select(list(large)[:5])
    assert inspect_page("m", few, {}, []) == inspect_page("m", few, {}, [])


# Names that somebody else chose


def test_hostile_names_stay_texts(hostile: TensorDict) -> None:
    page = inspect_page("</title><script>window.hit = 4</script>", hostile, {}, [])
    found = parsed(page)
    assert len(found.scripts) == 3
    assert found.data["tensors"]["name"] == [printable(name) for name in hostile]
    assert "<script>window.hit" not in page


def test_no_control_or_direction_changing_character_is_in_the_page(hostile: TensorDict) -> None:
    name = "".join(hostile)
    noted = replace(
        hostile,
        summary=name,
        notes=(Note(Kind.SOURCE, name, name),),
        details={name: {name: [name]}},
        metadata={name: name},
    )
    page = inspect_page(name, noted, {}, [Finding(name, Level.NOTE, name, name, name, name)])
    odd = {char for char in page if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert odd == {"\n"}


def test_a_page_can_be_written_whatever_the_names_are(hostile: TensorDict, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", inspect_page("odd", hostile, {}, []))
    assert parsed((tmp_path / "page.html").read_text("utf-8")).data["kind"] == "inspect"


# What is shown


def test_the_summary_has_totals_and_facts(sample: Parsed) -> None:
    assert "29 tensors 1.41 kB stored 1,408 bytes 351 elements" in sample.text
    assert "TensorFlow checkpoint V2" in sample.text
    assert re.search(
        r"By role optimizer slot 12 664 bytes 47 % weight 6 332 bytes 24 %", sample.text
    )
    assert re.search(r"By dtype float32 28 1.4 kB 99 % int64 1 8 bytes 1 %", sample.text)
    assert re.search(r"kind name-based prefix \S+/model.ckpt-7 shards 1", sample.text)


def test_signatures_are_shown(samples: Path) -> None:
    with open_tensors(samples / "saved_model_module") as tensors:
        found = parsed(inspect_page("m", tensors, {}, []))
    assert re.search(r"Signatures serving_default: .*x float32\[\?,4\].* -> .*y", found.text)
    assert "signatures / " not in found.text


def test_notes_with_the_same_text_are_one(hostile: TensorDict) -> None:
    notes = (
        *(Note(Kind.SOURCE, "is odd", name) for name in ("a", "b")),
        Note(Kind.SOURCE, "is odder", "c"),
        *(Note(Kind.TARGET, f"thing {number}") for number in range(200)),
    )
    found = parsed(inspect_page("m", replace(hostile, notes=notes), {}, [])).text
    assert "source 2 tensors: is odd source tensor `c`: is odder target thing 0" in found
    assert "thing 97 … and 102 more" in found


def test_nested_and_long_facts_are_shortened(hostile: TensorDict) -> None:
    details = {
        "optimizers": [{"kind": "Adam", "parameters": {"learning_rate": 0.01}}],
        "tags": ["serve", "gpu"],
        "none": None,
        "long": "x" * 5000,
        **{f"fact {number}": number for number in range(300)},
    }
    found = parsed(inspect_page("m", replace(hostile, details=details), {}, [])).text
    assert "optimizers / kind Adam optimizers / parameters / learning_rate 0.01" in found
    assert "tags serve, gpu" in found
    assert "x… (5,000 characters in all)" in found
    assert "none" not in found.split("tags")[1].split("long")[0]
    assert "only the first 200 are shown" in found


def test_tensors_are_listed_with_what_is_known(sample: Parsed) -> None:
    tensors = sample.data["tensors"]
    at = tensors["name"].index("dense/kernel/Adam_1")
    assert tensors["role"]["texts"][tensors["role"]["codes"][at]] == "optimizer slot"
    assert (tensors["slot"][str(at)], tensors["owner"][str(at)]) == ("v", "dense/kernel")
    assert (tensors["shape"][at], tensors["bytes"][at], tensors["size"][at]) == ([4, 8], 128, 32)


def test_a_tensor_that_cannot_be_read_says_why(hostile: TensorDict) -> None:
    name = next(iter(hostile))
    broken = replace(hostile, broken={name: CorruptFileError("is short", path="a.data")})
    assert parsed(inspect_page("m", broken, {}, [])).data["tensors"]["error"] == {
        "0": "a.data: is short"
    }


def test_values_are_there_where_they_were_read(samples: Path) -> None:
    with open_tensors(samples / "tf1_adam_ema") as tensors:
        stats = stats_all(tensors, 1)
        found = parsed(inspect_page("m", tensors, stats, [])).data["stats"]
    at = list(tensors).index("dense/kernel")
    truth = stats["dense/kernel"]
    assert found["min"][at] == pytest.approx(truth.minimum, rel=1e-5)
    assert found["counts"][at] == list(truth.counts)
    assert found["percents"] == list(truth.percentiles)
    assert found["percentiles"][at][3] == pytest.approx(truth.percentiles[50], rel=1e-5)
    assert str(at) not in found["edges"]  # they follow from the ends


def test_uneven_edges_and_odd_numbers_are_kept(hostile: TensorDict) -> None:
    name, other = list(hostile)[:2]
    stats = {
        name: Stats(3, 3, 0, 8, 1, 1, edges=(0, 1, 8), counts=(2, 1), percentiles={50: 1}),
        other: Stats(2, 0, nans=2, norm=math.inf),
    }
    found = parsed(inspect_page("m", hostile, stats, [])).data["stats"]
    assert found["edges"] == {"0": [0, 1, 8]}
    assert (found["min"][1], found["norm"][1], found["nans"][1]) == ("nan", "inf", 2)
    assert (found["min"][2], found["counts"][2]) == (None, None)


def test_flags_point_to_tensors_by_number(sample: Parsed) -> None:
    nan, trailing, elsewhere = sample.data["findings"]
    assert sample.data["tensors"]["name"][nan["tensor"]] == "dense/kernel"
    assert (trailing["path"], trailing["where"], trailing["tensor"]) == ("a.data", "7", None)
    assert (elsewhere["tensor"], elsewhere["name"]) == (None, "not/there")


def test_a_model_without_tensors_has_a_page() -> None:
    empty = TensorDict("npz", "nothing", {})
    assert "0 tensors 0 bytes" in parsed(inspect_page("m", empty, {}, [])).text
    assert "All tensors are the same" in parsed(diff_page("a", "b", empty, empty, [])).text


# Two models


def test_a_difference_is_shown_from_both_sides(
    verdicts: tuple[TensorDict, TensorDict, list[Difference]],
) -> None:
    first, second, differences = verdicts
    found = parsed(diff_page("a.ckpt", "b.h5", first, second, differences))
    tensors = found.data["tensors"]
    at = {name: number for number, name in enumerate(tensors["name"])}
    assert tensors["shape"][at["turned/kernel"]] == [2, 3]
    assert tensors["shapeB"][at["turned/kernel"]] == [3, 2]
    assert tensors["axes"] == {str(at["turned/kernel"]): [1, 0]}
    assert tensors["other"] == {str(at["old/kernel"]): "new/kernel"}
    assert tensors["shapeB"][at["old/kernel"]] == [2]
    assert tensors["shapeB"][at["gone/kernel"]] is None
    assert tensors["shape"][at["extra/kernel"]] == tensors["shapeB"][at["extra/kernel"]] == [7]
    assert tensors["most"][at["nan/kernel"]] == "nan"
    assert tensors["relative"][at["nan/kernel"]] == "inf"
    assert tensors["relative"][at["gone/kernel"]] is None
    assert len(tensors["verdict"]["texts"]) == len({each.verdict for each in differences})


def test_verdicts_are_counted(verdicts: tuple[TensorDict, TensorDict, list[Difference]]) -> None:
    found = parsed(diff_page("a.ckpt", "b.h5", *verdicts)).text
    assert "A a.ckpt B b.h5 The models differ. 4 same 2 changed 1 close" in found


# Files and libraries


def test_a_page_replaces_the_one_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    write_page(path, "new ü")
    assert path.read_bytes() == "new ü".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        write_page(tmp_path / "nowhere" / "page.html", "page")


@pytest.mark.parametrize("library", ["jinja2", "plotly"])
def test_without_the_extra_one_is_told(
    library: str, monkeypatch: pytest.MonkeyPatch, hostile: TensorDict
) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not there
    with pytest.raises(UsageError, match=f"needs {library}") as caught:
        inspect_page("m", hostile, {}, [])
    assert caught.value.hint == "install the extra: pip install 'tensorferry[report]'"


def test_the_libraries_are_imported_for_a_page_only() -> None:
    program = "import sys, tensorferry.pipeline.html; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"jinja2", "plotly", "numpy"} & set(done.stdout.split())


def test_ten_thousand_tensors_fit(large: TensorDict, large_stats: dict[str, Stats]) -> None:
    findings = [Finding("value/constant", Level.WARNING, "all are 1", name) for name in large]
    began = time.monotonic()
    page = inspect_page("large", large, large_stats, findings)
    assert time.monotonic() - began < MAX_SECONDS
    assert len(page.encode()) < MAX_BYTES
