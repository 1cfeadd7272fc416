"""What the OpenAPI document promises is what the service does: Schemathesis asks all that it may ask."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from pipelines.service import api
from tests.pipelines.service.strangers import LIMITS, make_service

load_all_checks()


@pytest.fixture(scope="module")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    folder = tmp_path_factory.mktemp("door")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        service = make_service(folder, LIMITS.model_copy(update={"queue": 10_000, "per_token": 10_000}))
        token = service.tokens.add("stranger")
        app = api.application(service)
        yield schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Authorization": f"Bearer {token}"})


schema = schemathesis.pytest.from_fixture("promised")


# A body of random bytes is no scan: what the document allows is refused then, as it says.
@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_the_document_holds(case: schemathesis.Case, promised: schemathesis.BaseSchema) -> None:
    token = promised.config.headers if False else None
    case.call_and_validate(excluded_checks=[positive_data_acceptance])
