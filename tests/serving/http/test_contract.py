"""The OpenAPI description is kept: Schemathesis asks what it allows and what it does not, and every answer is a described one."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from http_service import service_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from ctl_lightning.serving.http.app import create_app
from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.recommender import Recommender

schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = 60
"""Requests of each operation that the description allows, and as many that it does not."""


@pytest.fixture
def description(served: tuple[Path, Path]) -> Any:
    service = service_of(Recommender.from_checkpoint(*served), served[1], Limits(max_upload=2**20))
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(service))


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_every_answer_is_described(description: Any, mode: str) -> None:
    operations = [found.ok() for found in description.get_all_operations()]
    assert len(operations) == 8
    statuses = set()
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        )
        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
        def ask(case: Any) -> None:
            answer = case.call()
            # Whatever bytes are a photo to the description; to the service few of them are.
            case.validate_response(answer, excluded_checks=[schemathesis.checks.positive_data_acceptance])
            statuses.add(answer.status_code)
            assert answer.status_code < 500

        with suppress(*([Unsatisfiable] if operation.method == "get" else [])):  # nothing about it can be wrong
            ask()
    assert statuses & {404, 415, 422}
