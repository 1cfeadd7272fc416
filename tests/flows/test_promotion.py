"""Promotion through the real Prefect API, server and worker, against a real MLflow registry of toy versions."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import mlflow
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.states import Scheduled

from flows import approval
from flows.promotion import Approval, promotion, validate
from tests.flows.conftest import Project, eventually
from tests.flows.toy import STRUCTURES, new_version

ALIAS = "clinical-candidate"
NAME = "medsegformer"
FRONT, BACK = STRUCTURES


@pytest.fixture
def api(served: Project) -> Iterator[SyncPrefectClient]:
    yield from served.prefect()


@pytest.fixture(scope="module")
def registry(served: Project) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{served.root}/.medseg/mlflow.db")


def register(registry: mlflow.MlflowClient, dice: dict[str, float]) -> int:
    return new_version(registry, NAME, {"dice": json.dumps(dice)})


def start(api: SyncPrefectClient, version: int) -> UUID:
    deployment = api.read_deployment_by_name("promotion/promotion")
    return api.create_flow_run_from_deployment(deployment.id, parameters={"version": version, "alias": ALIAS}).id


def settled(api: SyncPrefectClient, run: UUID) -> State[Any]:
    """The state once the run waits for a signature or has ended."""

    def state() -> State[Any] | None:
        found = api.read_flow_run(run).state
        return found if found and (found.is_paused() or found.is_final()) else None

    return eventually(state, 90, "the promotion waits or has ended")


def tags(registry: mlflow.MlflowClient, version: int) -> dict[str, str]:
    found = registry.get_model_version(NAME, str(version)).tags
    return {key.removeprefix(f"promotion.{ALIAS}."): value for key, value in found.items() if key.startswith("promo")}


def holder(registry: mlflow.MlflowClient) -> int | None:
    return next((int(v) for a, v in registry.get_registered_model(NAME).aliases.items() if a == ALIAS), None)


def test_version_below_its_floor_is_refused_with_the_structure_named(
    api: SyncPrefectClient, registry: mlflow.MlflowClient
) -> None:
    version = register(registry, {FRONT: 0.9, BACK: 0.1})
    state = settled(api, start(api, version))
    assert state.is_failed()
    assert f"{BACK}: Dice 0.100 is below its floor 0.300" in str(state.message)
    kept = tags(registry, version)
    assert kept["decision"] == "refused"
    assert kept["reviewer"] == "gate"
    assert BACK in json.loads(kept["reasons"])[0]
    assert holder(registry) != version


def test_alias_moves_only_after_a_valid_signature(
    api: SyncPrefectClient, registry: mlflow.MlflowClient, served: Project
) -> None:
    version = register(registry, {FRONT: 0.9, BACK: 0.9})
    run = start(api, version)
    assert settled(api, run).is_paused()
    assert not tags(registry, version)  # a flow that will run again from the top has only read
    too_short = api.resume_flow_run(run, run_input={"approve": True, "reviewer": "A", "reason": "looked at all of it"})
    assert too_short.status.value == "REJECT"
    before = holder(registry)
    signed = served.medseg("approve", str(run), "--reviewer", "Ada Lovelace", "--reason", "looked at all of it")
    assert signed.returncode == 0, signed.stderr
    assert signed.stdout.strip() == f"{NAME}@{ALIAS} is now version {version}, approved by Ada Lovelace"
    assert before != holder(registry) == version
    kept = tags(registry, version)
    assert (kept["decision"], kept["reviewer"]) == ("approved", "Ada Lovelace")
    assert json.loads(kept["reasons"]) == ["looked at all of it"]
    again = served.medseg("approve", str(run), "--reviewer", "Ada Lovelace", "--reason", "looked at all of it")
    assert again.returncode == 1
    assert "does not wait for a signature" in again.stderr


def test_signature_that_passes_prefects_form_but_not_ours_moves_nothing(
    api: SyncPrefectClient, registry: mlflow.MlflowClient
) -> None:
    version = register(registry, {FRONT: 0.9, BACK: 0.9})
    run = start(api, version)
    assert settled(api, run).is_paused()
    api.resume_flow_run(run, run_input={"approve": True, "reviewer": "  ", "reason": "looked at all of it"})
    state = eventually(lambda: settled(api, run) if settled(api, run).is_final() else None, 90, "it has ended")
    assert state.is_failed()
    assert "the signature is not valid, nothing was moved: reviewer" in str(state.message)
    assert holder(registry) != version


def test_version_far_below_the_present_holder_is_refused_and_so_is_a_lost_structure(
    api: SyncPrefectClient, registry: mlflow.MlflowClient
) -> None:
    best = register(registry, {FRONT: 0.95, BACK: 0.95})
    registry.set_registered_model_alias(NAME, ALIAS, str(best))
    state = settled(api, start(api, register(registry, {FRONT: 0.9})))
    assert state.is_failed()
    assert f"{FRONT}: Dice 0.900 is 0.050 below the present holder's 0.950" in str(state.message)
    assert f"{BACK}: no Dice was measured" in str(state.message)
    assert holder(registry) == best


def test_person_may_refuse_and_the_reason_is_kept(served: Project, registry: mlflow.MlflowClient) -> None:
    version = register(registry, {FRONT: 0.96, BACK: 0.96})
    person = ("--reviewer", "Ada Lovelace", "--reason", "left hemisphere looks wrong", "--reject")
    refused = served.medseg("promote", str(version), "--to", ALIAS, *person)
    assert refused.returncode == 0, refused.stderr
    assert refused.stdout.strip() == f"version {version} is refused by Ada Lovelace: left hemisphere looks wrong"
    assert tags(registry, version)["decision"] == "refused"
    assert holder(registry) != version
    every = [json.loads(value) for key, value in tags(registry, version).items() if key.startswith("20")]
    assert [record["by"] for record in every] == ["Ada Lovelace"]


def test_unknown_version_is_refused_with_the_known_ones(api: SyncPrefectClient, registry: mlflow.MlflowClient) -> None:
    register(registry, {FRONT: 0.9})
    state = settled(api, start(api, 999))
    assert state.is_failed()
    assert "has no version 999; registered: 1" in str(state.message)


def test_promotion_that_no_worker_takes_is_cancelled(api: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "PICKUP_TIMEOUT_S", 1)
    run = api.create_flow_run(
        promotion, parameters={"version": 1}, state=Scheduled()
    )  # of no deployment, so for no worker
    with pytest.raises(ValueError, match=r"no worker took promotion .* it is cancelled, and nothing moved"):
        approval._wait(api, run.id)
    assert api.read_flow_run(run.id).state.is_cancelled()


@pytest.mark.parametrize(
    ("reviewer", "reason"),
    [("A", "long enough reason"), ("4 2", "long enough reason"), ("Ada", "short"), ("Ada", " " * 12)],
)
def test_signature_needs_a_name_and_a_reason(reviewer: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"reviewer|reason"):
        validate(Approval.model_construct(approve=True, reviewer=reviewer, reason=reason))
