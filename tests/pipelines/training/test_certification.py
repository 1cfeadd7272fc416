"""The certificate of a parameter file, planted mistakes, and the train stage's question for it."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from model.certificate import document, ways
from model.certificate.document import Launch
from model.certificate.launch_plan import LaunchPlan
from model.certificate.report import Cohort, certificate
from model.certificate.ways import GIB, Goal, search
from model.engine import numerics
from model.engine.hardware import Gpu, find_gpu
from model.network.config import PRESETS
from pipelines import params
from pipelines.params import profiles
from pipelines.training import certificates, certification
from pipelines.training.certification import certify, plan_of
from pipelines.work import code
from tests.conftest import REPOSITORY
from tests.model.certificate.test_calibration import PretendedBench

A100 = find_gpu("a100-80gb")
COHORT = Cohort(scans=1000)
GOAL = Goal(steps=1000, within_days=28.0)
WANTED = LaunchPlan(
    network=PRESETS["nano"], classes=4, channels=1, patch=(128, 128, 128), ranks=16, group=16, strategy="fsdp",
    checkpointing="full", micro_batch=1, global_batch=16,
)  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parameters, profiles and nothing else; two GPUs need a certificate here: simulating nine takes longer."""
    monkeypatch.setattr(document, "WITHOUT_CERTIFICATE", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "profiles").mkdir()
    for name in ("base", "smoke", "xl-a100x32"):
        (tmp_path / "profiles" / f"{name}.yaml").write_bytes((REPOSITORY / "profiles" / f"{name}.yaml").read_bytes())
    (tmp_path / "params.yaml").write_text(profiles.compose("smoke"))
    return tmp_path


@pytest.fixture
def one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search tries one level of checkpointing, not three: for what is not about the search."""
    monkeypatch.setattr(ways, "CHECKPOINTING", ("none",))


def gpu_of(gib: float) -> Gpu:
    return replace(A100, memory_bytes=gib * GIB)


def refused(wanted: LaunchPlan, kind: Gpu, goal: Goal = GOAL) -> dict[str, list[str]]:
    """The options of each remedy that is told for a run that does not fit."""
    content = certificate(wanted, kind, goal, COHORT)
    assert not content["fits"]
    assert content["remedies"]
    return {each["options"][0]: each["options"] for each in content["remedies"]}


@pytest.mark.slow
def test_a_patch_too_large_is_refused_and_the_patch_that_is_told_fits() -> None:
    wanted = replace(WANTED, patch=(256, 256, 256))
    told = refused(wanted, gpu_of(5), replace(GOAL, strategy="hsdp"))
    edge = int(told["--patch"][1])
    assert edge < 256
    assert certificate(replace(wanted, patch=(edge,) * 3), gpu_of(5), replace(GOAL, strategy="hsdp"), COHORT)["fits"]


@pytest.mark.slow
def test_an_interconnect_too_slow_is_refused_and_the_one_that_is_told_fits() -> None:
    wanted = replace(WANTED, network=PRESETS["base"], patch=(32, 32, 32))
    slow, goal = replace(A100, network_bytes_per_s=1e6), replace(GOAL, strategy="hsdp")
    content = certificate(wanted, slow, goal, COHORT)
    assert "wait for messages" in content["faults"][0]
    gbits = float(next(each["options"][1] for each in content["remedies"] if each["options"][0] == "--network"))
    assert certificate(wanted, replace(A100, network_bytes_per_s=gbits * 1e9 / 8), goal, COHORT)["fits"]


@pytest.mark.slow
def test_a_preset_that_does_not_fit_is_refused_and_the_strategy_that_is_told_fits() -> None:
    wanted = replace(WANTED, network=PRESETS["large"], patch=(32, 32, 32))
    small = gpu_of(24)
    told = refused(wanted, small, replace(GOAL, strategy="ddp"))
    assert told["--strategy"] == ["--strategy", "auto"]
    content = certificate(wanted, small, GOAL, COHORT)
    assert content["fits"]
    assert any("impossible: 1.43 billion parameters x 16 bytes" in reason for reason in content["reasons"])


def test_xl_cannot_be_replicated_and_the_arithmetic_says_why() -> None:
    wanted = replace(WANTED, network=PRESETS["xl"], ranks=32, global_batch=256)
    best = search(wanted, A100, replace(GOAL, strategy="ddp"))[0]
    assert "6.72 billion parameters x 16 bytes" in best.faults[0]


@pytest.mark.usefixtures("one_level")
def test_too_many_steps_are_refused_with_the_number_that_fits() -> None:
    goal, largest = Goal(steps=10**9, within_days=1.0, strategy="hsdp"), find_gpu("b200")  # no other need be tried
    told = refused(WANTED, largest, goal)
    assert certificate(WANTED, largest, replace(goal, steps=int(told["--steps"][1])), COHORT)["fits"]


@pytest.mark.usefixtures("one_level")
def test_a_certificate_lets_the_run_start_that_it_was_made_for(project: Path) -> None:
    content = certify("nano", 2, "a100-80gb", strategy="ddp")
    assert {"fits", "strategy", "peak_memory_gib", "spare_fraction", "step_time_s", "days"} <= set(content)
    assert content["fits"]
    assert json.loads(Path(content["file"]).read_text())["digest"] == content["digest"]
    page = Path(content["file"]).with_suffix(".html").read_text()
    assert page.count("<svg") >= 3
    assert "http" not in page
    settings = params.load("params.yaml")
    changes = {name.removeprefix("train."): value for name, value in content["to_set"].items()}
    settings = settings.model_copy(update={"train": settings.train.model_copy(update=changes)})
    launch = Launch(2, 2, "NVIDIA A100-SXM4-80GB", 85e9, certificates.digest(settings.model, settings.train))
    assert certificates.require(launch) == "nano-a100-80gbx2.json"
    with pytest.raises(ValueError, match="is for other parameters or other code"):
        certificates.require(replace(launch, digest="other"))


def test_a_certificate_is_bound_to_what_trains_simulates_and_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, counted = params.load(REPOSITORY / "params.yaml"), set[str]()

    def digest(*roots: str, without: tuple[str, ...] = code.WITHOUT_INFLUENCE) -> str:
        counted.update(code.closure(*roots, without=without))
        return ""

    monkeypatch.setattr(code, "digest", digest)
    certificates.digest(settings.model, settings.train)
    assert counted >= {
        "model.engine.trainer", "pipelines.training.configs", "pipelines.scans.source_tables",  # patch
        "model.certificate.timing", "pipelines.training.certification",  # the largest patch, the mix of sources
    }  # fmt: skip


@pytest.mark.usefixtures("one_level")
def test_a_gpu_is_calibrated_and_its_next_certificate_counts_with_what_was_measured(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bench that takes as long as a slow GPU would stands for the GPU that is not here."""
    monkeypatch.setattr(certification, "_gpu_here", lambda: A100)
    monkeypatch.setattr(certification, "CUDA", torch.device("cpu"))
    monkeypatch.setattr(certification, "Bench", PretendedBench)
    monkeypatch.setattr(numerics, "cpu_trains_in_bfloat16", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    found = certification.calibrate_here(None)
    assert found.card == "NVIDIA A100-SXM4-80GB"
    content = certify("nano", 2, "a100-80gb", strategy="ddp")
    assert content["time"]["rates"] == asdict(found.applied()) != content["time"]["assumed_rates"]
    assert content["time"]["rates_from"].startswith("measured on NVIDIA A100-SXM4-80GB on ")
    assert certificates.folder() / "calibration-a100-80gb.json" in certificates.folder().iterdir()
    page = Path(content["file"]).with_suffix(".html").read_text()
    assert all(told in page for told in ("Guessed against measured", "encoder.stages.3.blocks.0", "of /dev/shm"))
    assert {"shared_gib", "pinned_gib", "descriptors", "region_factor"} <= set(content["host"])


@pytest.mark.usefixtures("one_level")
def test_pretraining_has_a_certificate_of_its_own(project: Path) -> None:
    content = certify("nano", 2, "a100-80gb", strategy="ddp", stage="pretrain", steps=60)
    assert content["fits"]
    assert Path(content["file"]).name == "nano-a100-80gbx2-pretrain.json"
    settings = params.load("params.yaml")
    changes = {name.removeprefix("pretrain."): value for name, value in content["to_set"].items()}
    settings = settings.model_copy(update={"pretrain": settings.pretrain.model_copy(update=changes)})
    launch = Launch(2, 2, "NVIDIA A100-SXM4-80GB", 85e9, certificates.digest(settings.model, settings.pretrain))
    assert certificates.require(launch) == "nano-a100-80gbx2-pretrain.json"
    with pytest.raises(ValueError, match="is for other parameters or other code"):
        certificates.require(replace(launch, digest=certificates.digest(settings.model, settings.train)))


def test_a_run_without_a_certificate_is_refused_or_recorded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(project)
    launch = Launch(16, 8, "NVIDIA A100-SXM4-80GB", 85e9, "")
    with pytest.raises(ValueError, match="16 GPUs need a launch certificate"):
        certificates.require(launch)
    monkeypatch.setenv("MEDSEG_UNCERTIFIED", "1")
    assert certificates.require(launch) == certificates.UNCERTIFIED
    assert certificates.require(replace(launch, gpu="")) == "not needed"
    assert certificates.require(replace(launch, ranks=8)) == "not needed"


def test_the_stage_asks_for_what_its_parameters_and_placement_say(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = params.load("params.yaml")
    assert certificates.launch(settings.model, settings.train, 4, 2) == Launch(
        4, 2, "", 0.0, certificates.digest(settings.model, settings.train)
    )
    monkeypatch.setenv("MEDSEG_SHARD_RANKS", "4")
    assert certificates.launch(settings.model, settings.train, 4, 2).group == 4


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"gpu": "tpu"}, "no GPU 'tpu'"),
        ({"gpu": "here"}, "this machine has no GPU that PyTorch sees"),
        ({"patch": 30}, "--patch 30 must be divisible by 4; nearest: 32"),
        ({"ranks": 7}, "cannot be shared by 7 ranks"),
    ],
)
def test_impossible_wishes_are_refused(project: Path, wish: dict[str, object], reason: str) -> None:
    wishes = {"preset": "nano", "ranks": 2, "gpu": "h100", **wish}
    with pytest.raises(ValueError, match=reason):
        certify(**wishes)  # type: ignore[arg-type]


def test_a_profile_s_sources_are_mixed_as_the_stream_draws_them(project: Path) -> None:
    """By their published numbers of scans to the power of 0.7."""
    settings = profiles.settings("xl-a100x32")
    plan = plan_of(settings, settings.train, "xl", 32)
    assert {each.source: round(each.share, 2) for each in plan.mix} == {"brats": 0.53, "kits": 0.27, "acdc": 0.20}
    assert {each.source: each.channels for each in plan.mix} == {"brats": 4, "kits": 1, "acdc": 1}
    assert plan.mix[2].patch == (16, 256, 256)
    assert (plan.channels, plan.patch, plan.compile) == (4, (256, 256, 256), True)


@pytest.mark.slow
def test_the_reference_run_fits_with_memory_to_spare_and_in_four_weeks(project: Path) -> None:
    """6.7 billion parameters, 256^3, 32 A100-80GB: about 75 CPU seconds and half a GB."""
    content = certify("xl", 32, "a100-80gb")
    assert content["fits"]
    assert content["simulated"]
    assert content["spare_fraction"] >= 0.15
    assert content["days"] <= 28
    assert (content["patch"], content["global_batch"], content["precision"]) == ([256, 256, 256], 256, "float16")
    assert not content["to_set"]  # the profile says what the search finds
