"""What somebody without the right to release tries, with real versions and real keys: each is refused and named, and
leaves nothing half done. Those on figures alone are in tests/pipelines/release/test_gate.py, those on the ledger's own
files in test_ledger.py beside it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import releasing
from pipelines.release import audit, decisions, ledger, moving, plan, registry, signers, tracking
from pipelines.release.statement import APPROVAL, SIGNERS, Statement
from tests.flows import knowing
from tests.flows.conftest import Project
from tests.flows.knowing import APPROVER, AS_GOOD, AUTHOR, BAD, GOOD, STRANGER, begin_ledger, make_key, register

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # MLflow's own

NAME, CANDIDATE, CHAMPION = "medsegformer", "clinical-candidate", "champion"
MEANING = "I looked at every held-out scan"
Enter = Callable[[Path], Path]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1 is GOOD, 2 is BAD, 3 is AS_GOOD; nobody asked for anything."""
    project = knowing.make(tmp_path_factory.mktemp("versions") / "project", take=knowing.here, MEDSEG_WORKERS="1")
    assert register(project, GOOD, BAD, AS_GOOD, take=knowing.here) == [1, 2, 3]
    begin_ledger(project, take=knowing.here)
    return project.root


@pytest.fixture(scope="module")
def asked_for(versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The author has asked for version 1 as clinical candidate."""
    with pytest.MonkeyPatch.context() as patch:
        root = entered(versions, tmp_path_factory.mktemp("asked") / "project", patch)
        releasing.request(1, CANDIDATE, key(AUTHOR))
        return root


@pytest.fixture(scope="module")
def released(asked_for: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 is clinical candidate and champion."""
    with pytest.MonkeyPatch.context() as patch:
        root = entered(asked_for, tmp_path_factory.mktemp("released") / "project", patch)
        approve(releasing.open_request(1, CANDIDATE))
        approve(releasing.request(1, CHAMPION, key(AUTHOR)))
        return root


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Into a copy of a project; what it holds and who holds which alias is the same after every attack."""
    return lambda template: entered(template, tmp_path / "project", monkeypatch)


def entered(template: Path, root: Path, patch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, root, symlinks=True)
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "MEDSEG_ROOT"):
        patch.delenv(name, raising=False)
    patch.setenv("MEDSEG_WORKERS", "1")
    patch.chdir(root)
    return root


def key(name: str) -> Path:
    return Path("keys") / name


def client() -> Any:
    return tracking.configure().MlflowClient()


def approve(asked: Statement, name: str = APPROVER) -> str:
    return releasing.answer(asked, decisions.signed(decisions.answer(asked, APPROVAL, MEANING), key(name)))


def put_in_force(*lines: tuple[str, str], revoked: str = "") -> None:
    """Other signers: (names, key) with a role each, told as NAME:ROLE."""
    for names, owner in lines:
        who, role = names.rsplit(":", 1)
        signers.add(who, key(f"{owner}.pub"), role)
    if revoked:
        signers.revoke(f"{revoked}@example.org", key(f"{revoked}.pub"))
    draft = ledger.prepare(NAME, SIGNERS, signers.read().to_json(), registry.published_of(client(), NAME))
    decisions.append(decisions.signed(draft, key(APPROVER)))


def holders() -> dict[str, str]:
    """By MLflow."""
    found = client().get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in found.items() if alias in (CANDIDATE, CHAMPION)}


def nothing_happened(asked: Statement) -> None:
    """The request is still open, no alias moved, the log verifies."""
    assert releasing.open_request(asked.content["version"], asked.content["alias"]) == asked
    assert holders() == {}
    assert audit.verify().ok


def test_the_author_cannot_approve_not_even_with_both_roles(enter: Enter, asked_for: Path) -> None:
    enter(asked_for)
    put_in_force((f"{AUTHOR}:approver", AUTHOR))
    asked = releasing.open_request(1, CANDIDATE)
    with pytest.raises(ValueError, match=f"{AUTHOR} is an author of it"):
        approve(asked, AUTHOR)
    nothing_happened(asked)


def test_a_second_key_of_the_author_does_not_help(enter: Enter, asked_for: Path) -> None:
    root = enter(asked_for)
    make_key(Project(root), "second")
    put_in_force((f"second@example.org,{AUTHOR}:approver", "second"))
    asked = releasing.open_request(1, CANDIDATE)
    with pytest.raises(ValueError, match="is an author of it"):
        approve(asked, "second")
    nothing_happened(asked)


def test_who_committed_the_code_cannot_approve_what_another_asked_for(enter: Enter, versions: Path) -> None:
    enter(versions)
    put_in_force((f"{STRANGER}:author", STRANGER), (f"{AUTHOR}:approver", AUTHOR))
    asked = releasing.request(1, CANDIDATE, key(STRANGER))
    assert AUTHOR in asked.content["authors"]
    with pytest.raises(ValueError, match=f"{AUTHOR} is an author of it"):
        approve(asked, AUTHOR)
    nothing_happened(asked)


def test_who_ran_training_cannot_approve_what_another_committed(enter: Enter, versions: Path) -> None:
    enter(versions)
    weights_sha256 = registry.find(f"models:/{NAME}/1").record["weights_sha256"]
    noted = {"run": "by-the-approver", "plan_sha256": plan.digest(plan.read())}
    audit.append("train.start", **noted, trainer=APPROVER, author=AUTHOR, committer=AUTHOR)
    audit.append("train", run=noted["run"], weights_sha256=weights_sha256)
    asked = releasing.request(1, CANDIDATE, key(AUTHOR))
    with pytest.raises(ValueError, match=f"{APPROVER} is an author of it"):
        approve(asked)
    nothing_happened(asked)


def test_a_stranger_can_neither_ask_nor_approve(enter: Enter, asked_for: Path) -> None:
    enter(asked_for)
    asked = releasing.open_request(1, CANDIDATE)
    with pytest.raises(ValueError, match="stranger"):
        approve(asked, STRANGER)
    with pytest.raises(ValueError, match="stranger"):
        decisions.append(
            decisions.signed(decisions.request(registry.find(f"models:/{NAME}/3"), CANDIDATE, {}), key(STRANGER))
        )
    nothing_happened(asked)


def test_a_revoked_key_approves_nothing(enter: Enter, asked_for: Path) -> None:
    root = enter(asked_for)
    make_key(Project(root), "lost")
    put_in_force(("lost@example.org:approver", "lost"))
    put_in_force(revoked="lost")
    asked = releasing.open_request(1, CANDIDATE)
    with pytest.raises(ValueError, match="revoked"):
        approve(asked, "lost")
    nothing_happened(asked)


def test_a_signature_counts_once_and_for_one_version(enter: Enter, released: Path) -> None:
    enter(released)
    told = ledger.read(NAME)
    old = next(each for each in told.statements if each.kind == APPROVAL)
    with pytest.raises(ValueError, match="changed since it was prepared"):
        decisions.append(old)
    asked = decisions.append(
        decisions.signed(decisions.request(registry.find(f"models:/{NAME}/3"), CANDIDATE, {}), key(AUTHOR))
    )
    with pytest.raises(ValueError, match="no answer to request"):
        releasing.answer(asked, old)
    with pytest.raises(ValueError, match="not of this text"):
        releasing.check(decisions.answer(asked, APPROVAL, MEANING).signed(old.signature))
    assert holders() == {CANDIDATE: "1", CHAMPION: "1"}


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        (".medseg/weights/*/model.safetensors", "is not the registered"),
        (".medseg/versions/*/evaluation/cases.parquet", "cases.parquet is not what it was"),
        (".medseg/versions/*/evaluation/predictions/*.nii.gz", "is not what it was"),
        (".medseg/versions/*/record.json", "record.json is not the record"),
        ("release/evidence/*.json", "is not the evidence that was signed"),
    ],
)
def test_what_changes_between_request_and_approval_is_named_and_nothing_moves(
    enter: Enter, asked_for: Path, pattern: str, told: str
) -> None:
    root = enter(asked_for)
    for path in root.glob(pattern):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    asked = releasing.open_request(1, CANDIDATE)
    with pytest.raises(ValueError, match=told):
        approve(asked)
    nothing_happened(asked)


def test_a_record_changed_in_mlflow_is_no_version_any_more(enter: Enter, asked_for: Path) -> None:
    enter(asked_for)
    asked = releasing.open_request(1, CANDIDATE)
    draft = decisions.signed(decisions.answer(asked, APPROVAL, MEANING), key(APPROVER))
    before = client().get_model_version(NAME, "1").tags["record"]
    client().set_model_version_tag(NAME, "1", "record", before.replace("0.9", "1.0", 1))
    with pytest.raises(ValueError, match="no record that its digest vouches for"):
        releasing.answer(asked, draft)
    client().set_model_version_tag(NAME, "1", "record", before)
    nothing_happened(asked)


def test_lowered_floors_are_another_plan(enter: Enter, asked_for: Path) -> None:
    root = enter(asked_for)
    asked = releasing.open_request(1, CANDIDATE)
    plan = root / "release/plan.yaml"
    plan.write_text(plan.read_text().replace("dice: {default: 0.5}", "dice: {default: 0.0}"))
    with pytest.raises(ValueError, match="the release plan changed since the request"):
        approve(asked)
    nothing_happened(asked)
    with pytest.raises(ValueError, match=r"version 2 is refused .*release/plan.yaml is .* an approver signed"):
        releasing.request(2, CANDIDATE, key(AUTHOR))


def test_forged_tags_and_aliases_change_nothing_of_what_the_gate_compares(enter: Enter, released: Path) -> None:
    enter(released)
    client().set_model_version_tag(NAME, "2", "dice", json.dumps(dict.fromkeys(knowing.STRUCTURES, 1.0)))
    client().set_model_version_tag(NAME, "2", "mean_dice", "1.0")
    client().set_model_version_tag(NAME, "1", "dice", "")
    client().delete_registered_model_alias(NAME, CHAMPION)
    with pytest.raises(
        ValueError, match=r"version 2 is refused .*hippocampus_posterior: gain in Dice over the champion"
    ):
        releasing.request(2, CANDIDATE, key(AUTHOR))
    assert holders() == {CANDIDATE: "1", CHAMPION: "1"}  # and the alias is back where people signed for it


def test_labels_that_were_the_models_own_during_evaluation_are_found(enter: Enter, versions: Path) -> None:
    """The worst of all: a bad version measured against its own answers, labels put back before anybody looks."""
    root = enter(versions)
    project = Project(root, {"MEDSEG_WORKERS": "1"})
    kept = {path: path.read_bytes() for path in (root / knowing.TASK / "labelsTr").iterdir()}
    knowing.here(project, f"train {BAD}", "evaluate", "label_as_segmented")
    with pytest.raises(ValueError, match="its label file changed since it was listed"):
        knowing.here(project, "evaluate")
    # so the manifest lies as well
    lies = (*knowing.MADE_OF_SCANS, "evaluate", *knowing.REGISTERED)
    (forged,) = knowing.versions(project, *lies, take=knowing.here)
    for path, content in kept.items():
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is refused .*its label file changed since it was listed"):
        releasing.request(forged, CANDIDATE, key(AUTHOR))


def test_champion_comes_after_clinical_candidate(enter: Enter, versions: Path) -> None:
    enter(versions)
    with pytest.raises(ValueError, match="only the clinical-candidate may become champion"):
        releasing.request(1, CHAMPION, key(AUTHOR))


@pytest.mark.parametrize("alias", [CANDIDATE, CHAMPION])
def test_an_alias_moved_by_hand_is_believed_by_nobody_and_set_right(enter: Enter, released: Path, alias: str) -> None:
    enter(released)
    client().set_registered_model_alias(NAME, alias, "2")
    with pytest.raises(ValueError, match=r"is version 2 \(candidate\), but by the signed ledger it belongs to"):
        registry.find(f"models:/{NAME}@{alias}")
    assert registry.find(f"models:/{NAME}/2").mark == registry.NOT_RELEASED
    (told,) = moving.unsettled(NAME)
    assert f"{NAME}@{alias} is version 2 in MLflow" in told
    assert moving.settle(NAME) == [f"{NAME}@{alias} is now version 1"]
    assert registry.find(f"models:/{NAME}@{alias}").version == 1
    assert moving.settle(NAME) == []


def test_of_two_promotions_at_once_the_second_has_to_compare_with_the_first(enter: Enter, asked_for: Path) -> None:
    enter(asked_for)
    first, second = releasing.open_request(1, CANDIDATE), releasing.request(3, CANDIDATE, key(AUTHOR))
    approve(first)
    with pytest.raises(ValueError, match=f"{CANDIDATE} is held by another version than when it was prepared"):
        approve(second)
    assert holders() == {CANDIDATE: "1"}


@pytest.mark.parametrize("at", ["set_registered_model_alias", "set_registered_model_tag"])
def test_a_command_killed_between_ledger_and_alias_is_finished_by_the_next(
    enter: Enter, asked_for: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    enter(asked_for)
    asked = releasing.open_request(1, CANDIDATE)

    class KilledError(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient." + at, die)
        with pytest.raises(KilledError):
            approve(asked)
    assert holders() == {}
    assert moving.unsettled(NAME)  # `medseg status` says it
    assert releasing.settle() == [f"{NAME}@{CANDIDATE} is now version 1"]
    assert registry.find(f"models:/{NAME}@{CANDIDATE}").standing.word == CANDIDATE
    assert audit.verify().ok


def test_a_rewritten_signature_takes_every_release_with_it(enter: Enter, released: Path) -> None:
    root = enter(released)
    file = sorted((root / f"release/ledger/{NAME}").iterdir())[3]
    file.write_text(file.read_text().replace(MEANING, "I looked at nothing at all now"))
    with pytest.raises(ValueError, match=f"which nothing proves: .*{file.name}"):
        registry.find(f"models:/{NAME}@{CHAMPION}")
    assert registry.find(f"models:/{NAME}/1").mark == registry.NOT_RELEASED


def test_a_ledger_of_ones_own_in_mlflow_is_not_the_one_that_was_first_read(enter: Enter, released: Path) -> None:
    root = enter(released)
    assert registry.find(f"models:/{NAME}@{CHAMPION}").version == 1
    shutil.rmtree(root / "release/ledger")
    assert registry.find(f"models:/{NAME}@{CHAMPION}").version == 1  # MLflow has it, too
    for tag in client().get_registered_model(NAME).tags:
        client().delete_registered_model_tag(NAME, tag)
    (root / signers.ALLOWED).unlink()
    signers.add("mallory@example.org", key(f"{STRANGER}.pub"), "approver")
    draft = ledger.prepare(NAME, SIGNERS, signers.read().to_json())
    ledger.append(decisions.signed(draft, key(STRANGER)))
    with pytest.raises(ValueError, match="does not begin with the statement that it began with"):
        registry.find(f"models:/{NAME}@{CHAMPION}")


def test_a_recalled_version_never_comes_back(enter: Enter, released: Path) -> None:
    enter(released)
    done = releasing.recall(1, key(APPROVER), "a reader saw leaks")
    assert len(done.moved) == 2
    assert holders() == {}
    assert registry.find(f"models:/{NAME}/1").standing.word == "recalled"
    with pytest.raises(ValueError, match="was recalled by statement"):
        releasing.request(1, CANDIDATE, key(AUTHOR))
    with pytest.raises(ValueError, match="there is nothing to go back to"):
        releasing.rollback(key(APPROVER), "a reader saw leaks")
