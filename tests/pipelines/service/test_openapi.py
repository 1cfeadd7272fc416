"""What the OpenAPI document promises is what the service does: Schemathesis asks all that it may ask."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from pipelines.service import api, readiness
from tests.pipelines.service.strangers import LIMITS, make_service

load_all_checks()
OPERATIONS = [
    ("POST", "/segmentations"), ("GET", "/segmentations"), ("GET", "/segmentations/{job_id}"),
    ("DELETE", "/segmentations/{job_id}"), ("GET", "/segmentations/{job_id}/results/{kind}"), ("GET", "/health"),
    ("GET", "/ready"), ("GET", "/metrics"),
]  # fmt: skip
OWN = ("segmentations", "health", "ready", "metrics")
Promised = tuple[schemathesis.BaseSchema, dict[str, str]]


@pytest.fixture(scope="module")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promised]:
    folder = tmp_path_factory.mktemp("door")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        service = make_service(folder, LIMITS.model_copy(update={"queue": 10_000, "per_token": 10_000}))
        readiness.tell(service.spool.folder, 0, model="m version 1")  # else /ready is 503, as it should be
        headers = {"Authorization": f"Bearer {service.tokens.add('stranger')}"}
        yield schemathesis.openapi.from_asgi("/openapi.json", api.application(service), headers=headers), headers


def test_all_operations_but_those_of_monai_label_are_asked(promised: Promised) -> None:
    told = {(each.ok().method.upper(), each.ok().path) for each in promised[0].get_all_operations()}
    own = {(method, path) for method, path in told if path.split("/")[1] in OWN}
    assert own == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_the_document_holds(promised: Promised, method: str, path: str, mode: schemathesis.GenerationMode) -> None:
    """All checks but one: a body of random bytes is no scan, and what the document allows is refused then."""
    schema, headers = promised

    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    def holds(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

    try:
        holds()
    except Unsatisfiable:
        pytest.skip("nothing of it can be asked wrongly")
