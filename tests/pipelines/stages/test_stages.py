"""dvc.yaml says the truth: a stage's deps are the modules it imports, and placement is not among its params."""

from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from pipelines.__main__ import STAGES
from tests.conftest import REPOSITORY

# What cannot change a result: where and how a stage runs, what it logs. The values in params.yaml are tracked.
WITHOUT_INFLUENCE = {
    "pipelines", "pipelines.__main__", "pipelines.params.block", "pipelines.params.quality_bounds", "pipelines.params.bysource",
    "pipelines.training.certificates", "pipelines.work.dask_executor", "pipelines.work.digests", "pipelines.work.writing", "pipelines.work.parallel",
    "pipelines.params", "pipelines.work.project", "pipelines.params.recipe", "pipelines.release.registry", "pipelines.work.within_memory",
    "pipelines.work.tether", "pipelines.release.tracking",
    "model", "model.certificate", "model.certificate.document", "model.engine.hardware", "model.engine.progress", "model.engine.watch",
}  # fmt: skip

LOADED = {f"pipelines.{name}" for name in ("prepare", "manifest", "nifti", "resampling", "volume")}  # names, `load`
# What a stage imports but cannot be changed by: its input, already tracked, was made with it, or only a name is used.
READS_A_NAME_OF = {
    "deidentify": {"model.network.config"},  # through params: the bound of a patch size
    "ingest": {
        "model.network.config",
        "pipelines.dicom",
        "pipelines.dicom.key",
    },  # the latter through inventory, itself tracked
    "preprocess": {"model.network.config"},
    "pretrain": LOADED,
    "train": LOADED,
}


def declared() -> dict[str, dict[str, object]]:
    return dict(YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"])


def imported_by(stage: str) -> set[str]:
    graph = grimp.build_graph("flows", "pipelines", "model")
    module = f"pipelines.{stage}"
    return {module} | graph.find_upstream_modules(module)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ("inventory", "register")])
def test_a_stage_depends_on_every_module_it_imports(stage: str) -> None:
    deps = [str(dep) for dep in declared()[stage]["deps"]]  # type: ignore[attr-defined]
    for module in sorted(imported_by(stage) - WITHOUT_INFLUENCE - READS_A_NAME_OF.get(stage, set())):
        path = module.replace(".", "/")
        covered = f"{path}.py" in deps or f"{path}/__init__.py" in deps
        assert covered, f"{stage} imports {module} but does not depend on it"


def test_training_does_not_depend_on_prediction() -> None:
    deps = set(declared()["train"]["deps"])  # type: ignore[call-overload]
    assert not deps & {
        "pipelines/serving/prediction.py",
        "pipelines/serving/segmenter.py",
        "model/tasks/inference.py",
        "pipelines/stages/evaluate.py",
    }
    assert not imported_by("train") & {
        "pipelines.serving.prediction",
        "pipelines.serving.segmenter",
        "model.tasks.inference",
    }


def test_training_is_never_given_the_held_out_cases() -> None:
    assert not [dep for dep in declared()["train"]["deps"] if str(dep) in ("data/cases", "data/cases/test", "data")]  # type: ignore[attr-defined]


def test_stages_and_modules_have_one_name() -> None:
    assert tuple(declared()) == STAGES
    for stage in STAGES:
        assert (REPOSITORY / "pipelines" / f"{stage}.py").is_file()
        assert declared()[stage]["cmd"] == f"exec python -m pipelines {stage}"


def test_no_stage_depends_on_a_folder_of_code() -> None:
    """Its __pycache__ would be part of the hash, and the stage stale after every run."""
    for name, stage in declared().items():
        code = [str(dep) for dep in stage.get("deps", []) if not str(dep).startswith(("data/", "models/", "reports/"))]  # type: ignore[attr-defined]
        assert all(dep.endswith(".py") for dep in code), name


def test_every_dep_in_the_code_exists() -> None:
    for stage in declared().values():
        for dep in stage.get("deps", []):  # type: ignore[attr-defined]
            if not str(dep).startswith(("data/", "models/", "reports/")):
                assert Path(REPOSITORY / str(dep)).exists(), dep
