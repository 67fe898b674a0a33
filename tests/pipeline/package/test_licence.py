"""Licences: texts that are recognised, those that are not, and SPDX expressions."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import pytest
from tensorferry.converters.errors import UsageError
from tensorferry.pipeline.package import extra
from tensorferry.pipeline.package.licence import licence_beside, licence_of_text, spdx

REPOSITORY = Path(__file__).resolve().parents[3]
SYSTEM = Path("/usr/share/common-licenses")  # of Debian

MIT = """Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software, to
deal in the Software without restriction. The above copyright notice and this
permission notice shall be included in all copies or substantial portions of the Software.
"""
BSD_2 = """Redistribution and use in source and binary forms are permitted provided that:
* Redistributions of source code must retain the above copyright notice.
* Redistributions in binary form must reproduce the above copyright notice.
"""
BSD_3 = f"""{BSD_2}* Neither the name of the holder nor the names of its contributors may be used
to endorse or promote products derived from this software.
"""
BSD_4 = f"""{BSD_3}* All advertising materials mentioning features must display something.
"""
UNLICENSE = "This is free and unencumbered software released into the public domain.\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MIT, "MIT"),
        (MIT.replace("\n", "\r\n").upper(), "MIT"),
        (BSD_2, "BSD-2-Clause"),
        (BSD_3, "BSD-3-Clause"),
        (BSD_4, ""),
        (UNLICENSE, "Unlicense"),
        ("# Apache License\n\nVersion 2.0, January 2004\n", "Apache-2.0"),
        ("Attribution 4.0 International\n\n=====", "CC-BY-4.0"),
        ("# Creative Commons Attribution-ShareAlike 4.0 International\n", "CC-BY-SA-4.0"),
        ("Attribution-NonCommercial 4.0 International\n", "CC-BY-NC-4.0"),
        ("Attribution-NonCommercial-ShareAlike 4.0 International\n", "CC-BY-NC-SA-4.0"),
        ("Attribution-NoDerivatives 4.0 International\n", "CC-BY-ND-4.0"),
        ("Attribution-NonCommercial-NoDerivatives 4.0 International\n", "CC-BY-NC-ND-4.0"),
        ("SPDX-License-Identifier: mit or apache-2.0\n", "MIT OR Apache-2.0"),
        ("SPDX-License-Identifier: nonsense\n", ""),
        (f"Apache License, Version 2.0\n{MIT}", ""),
        ("All rights reserved.\n", ""),
        ("", ""),
    ],
)
def test_texts(text: str, expected: str) -> None:
    assert licence_of_text(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Apache-2.0", "Apache-2.0"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2", "LGPL-2.0-only"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("LGPL-3", "LGPL-3.0-only"),
        ("MPL-2.0", "MPL-2.0"),
        ("CC0-1.0", "CC0-1.0"),
        ("MPL-1.1", ""),
        ("GFDL-1.3", ""),
        ("GPL-1", ""),
        ("Artistic", ""),
    ],
)
def test_whole_texts(name: str, expected: str) -> None:
    path = SYSTEM / name
    if not path.is_file():
        pytest.skip(f"no {name} among the texts of this system")
    assert licence_of_text(path.read_text(encoding="utf-8", errors="replace")) == expected


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("pytest", "MIT"),
        ("jinja2", "BSD-3-Clause"),
        ("hypothesis", "MPL-2.0"),
        ("tensorferry", None),
    ],
)
def test_texts_of_distributions(package: str, expected: str | None) -> None:
    if expected is None:
        assert licence_beside(str(REPOSITORY / "README.md")).expression == "Apache-2.0"
        return
    files = distribution(package).files or []
    texts = [Path(str(each.locate())) for each in files if each.name.startswith("LICENSE")]
    assert {licence_of_text(each.read_text(encoding="utf-8")) for each in texts} == {expected}


@pytest.mark.parametrize(
    "name", ["LICENSE", "license.txt", "LICENCE.md", "COPYING", "LICENSE-MIT", "Licence.rst"]
)
def test_files_that_are_looked_at(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(MIT)
    assert licence_beside(str(tmp_path / "model.ckpt")) == ("MIT", tmp_path / name)
    assert licence_beside(str(tmp_path)) == ("MIT", tmp_path / name)
    assert licence_beside(f"{tmp_path}/models.zip::inside/model") == ("MIT", tmp_path / name)


@pytest.mark.parametrize("name", ["license.py", "LICENSES", "licenses.csv", "model.txt"])
def test_files_that_are_not_looked_at(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(MIT)
    assert licence_beside(str(tmp_path)) == ("", None)


def test_a_text_that_is_known_goes_before_one_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "COPYING").write_text("Ask us.\n")
    assert licence_beside(str(tmp_path)) == ("", tmp_path / "COPYING")
    (tmp_path / "LICENSE").write_text(MIT)
    assert licence_beside(str(tmp_path)) == ("MIT", tmp_path / "LICENSE")


def test_nothing_is_looked_for_beside_a_url_or_where_nothing_is(tmp_path: Path) -> None:
    assert licence_beside("s3://bucket/model.ckpt") == ("", None)
    assert licence_beside(str(tmp_path / "absent" / "model.ckpt")) == ("", None)
    (tmp_path / "LICENSE").mkdir()
    assert licence_beside(str(tmp_path)) == ("", None)


def test_bytes_that_are_no_text_are_no_licence(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_bytes(bytes(range(256)) * 10)
    assert licence_beside(str(tmp_path)) == ("", tmp_path / "LICENSE")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mit", "MIT"),
        ("apache-2.0 or MIT", "Apache-2.0 OR MIT"),
        ("GPL-3.0", "GPL-3.0-only"),
        ("(MIT AND BSD-3-Clause) OR Zlib", "(MIT AND BSD-3-Clause) OR Zlib"),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0",) * 2,
        ("LicenseRef-Acme-1.0",) * 2,
        ("MIT OR LicenseRef-Acme",) * 2,
    ],
)
def test_expressions(text: str, expected: str) -> None:
    assert spdx(text) == expected


@pytest.mark.parametrize("text", ["", " ", "MIT AND", "Apache 2", "MIT OR (", "MIT/X", "OR", "™"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no SPDX licence expression") as caught:
        spdx(text)
    assert "LicenseRef-NAME" in (caught.value.hint or "")


def test_the_unknown_part_is_named() -> None:
    with pytest.raises(UsageError, match="SPDX knows no `Acme`"):
        spdx("MIT OR Acme")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "cyclonedx" else name)
    with pytest.raises(UsageError, match="a package needs cyclonedx") as caught:
        spdx("MIT")
    assert "tensorferry[package]" in (caught.value.hint or "")
