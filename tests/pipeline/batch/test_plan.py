from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tensorferry.converters.errors import UsageError
from tensorferry.converters.registry import WriteOptions
from tensorferry.pipeline.batch.jobs import Part
from tensorferry.pipeline.batch.plan import plan_jobs
from tensorferry.pipeline.convert import ConvertOptions

TO = ConvertOptions(target_format="safetensors")


@pytest.fixture
def zoo(samples: Path, tmp_path: Path) -> Path:
    """Return a folder with four models and a text."""
    root = tmp_path / "zoo"
    shutil.copytree(samples / "several_steps", root / "runs" / "a")
    shutil.copytree(samples / "npz_file", root, dirs_exist_ok=True)
    (root / "README").write_text("models")
    return root


def targets(zoo: Path, options: ConvertOptions = TO, **words: object) -> list[str]:
    target = zoo.parent / "out"
    jobs = plan_jobs(zoo, target, options, **words).jobs  # type: ignore[arg-type]
    return [str(Path(job.target).relative_to(target)) for job in jobs]


def test_targets_mirror_the_sources(zoo: Path) -> None:
    assert targets(zoo) == [
        "model.safetensors",
        "runs/a/model.ckpt-10.safetensors",
        "runs/a/model.ckpt-20.safetensors",
        "runs/a/model.ckpt-30.safetensors",
    ]
    assert targets(zoo, latest=True)[1:] == ["runs/a/model.ckpt-30.safetensors"]
    assert targets(zoo, ConvertOptions(target_format="npz"))[0] == "model.npz"


def test_a_template_names_the_targets(zoo: Path) -> None:
    assert targets(zoo, name="{stem}/{step}{ending}", latest=True) == [
        "model/.safetensors",
        "model.ckpt-30/30.safetensors",
    ]
    assert targets(zoo, name="all/{parent}/{name}.st")[0] == "all/model.npz.st"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{parent}/{stm}", "no field of a name is called `stm`"),
        ("{parent", "is no template"),
        ("{0}{stem}", "no field of a name is called `0`"),
        ("{stem.__class__}", "no field of a name is called `stem.__class__`"),
        ("{parent}/model.npz", "gives all models one name"),
        ("/{stem}", "is no path inside"),
        ("../{stem}", "is no path inside"),
    ],
)
def test_bad_templates_are_refused(zoo: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        targets(zoo, name=name)


def test_two_models_of_one_target_are_refused_before_work_begins(zoo: Path) -> None:
    shutil.copy(zoo / "model.npz", zoo / "runs" / "model.npz")
    with pytest.raises(UsageError, match="two models would become one file") as caught:
        targets(zoo, name="{stem}{ending}")
    assert "--name" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ConvertOptions(), "needs the format to write"),
        (ConvertOptions(target_format="tflite"), "is only read"),
        (ConvertOptions(target_format="saved-model"), "needs --template"),
        (ConvertOptions(target_format="zarr"), "no format is called"),
    ],
)
def test_a_format_that_fits_is_needed(zoo: Path, options: ConvertOptions, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        targets(zoo, options)


def test_what_was_written_is_no_source(zoo: Path) -> None:
    with pytest.raises(UsageError, match="same folder"):
        plan_jobs(zoo, zoo / "runs" / "..", TO)
    inside = zoo / "out"
    before = len(plan_jobs(zoo, inside, TO).jobs)
    shutil.copytree(zoo / "runs", inside)
    assert len(plan_jobs(zoo, inside, TO).jobs) == before


def test_a_root_that_is_a_model_has_its_name(samples: Path, tmp_path: Path) -> None:
    plan = plan_jobs(samples / "saved_model_module", tmp_path, TO)
    assert [job.target for job in plan.jobs] == [str(tmp_path / "saved_model_module.safetensors")]


def test_flags_go_with_every_job(zoo: Path) -> None:
    options = ConvertOptions(target_format="npz", write=WriteOptions(compress=True))
    assert {job.flags for job in plan_jobs(zoo, zoo.parent / "out", options).jobs} == {options}


def test_parts_of_a_plan_are_the_plan(zoo: Path) -> None:
    out = zoo.parent / "out"
    plan = plan_jobs(zoo, out, TO)
    parts = [plan.part(Part(number, 3), out) for number in (1, 2, 3)]
    assert {job for part in parts for job in part.jobs} == {*plan.jobs}
    assert sum(len(part.jobs) for part in parts) == len(plan.jobs)
    assert [len(part.skipped) for part in parts] == [1, 0, 0]
