"""Questions made from the OpenAPI description, right ones and wrong ones (schemathesis): each is answered as described.

By hand, harder: `st run http://[::1]:8046/api/openapi.json --exclude-path /api/events`.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from verify_support import network
from via6.web.openapi import description
from via6.web.settings import Settings
from web_support import Served, served

_EXAMPLES = 12
# That of events has no end, and POST is tried where something can be changed (tests/netns/test_web.py).
PATHS = [path for path, item in description()["paths"].items() if "get" in item and path != "/api/events"]


@pytest.fixture(scope="module", params=[False, True], ids=["all", "glass"])
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    nodes = network([("r1", "r2"), ("r2", "r3"), ("r1", "r3")], babel=True)
    with served(tmp_path_factory.mktemp("schema") / "net", nodes.values(), Settings(glass=request.param)) as found:
        if not request.param:
            found.examined()
        yield found


CLIENTS = itertools.count(1)
ASKED = [(path, GenerationMode.POSITIVE) for path in PATHS] + [
    (path, GenerationMode.NEGATIVE) for path in PATHS if description()["paths"][path]["get"]["parameters"]
]


@pytest.mark.parametrize(("path", "mode"), ASKED, ids=[f"{path} {mode.value}" for path, mode in ASKED])
def test_questions_by_the_description(web: Served, path: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_file(io.StringIO(json.dumps(description())))
    operation = schema[path]["get"]

    @seed(6)
    @settings(max_examples=_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def asked(case: Case) -> None:
        words: dict[str, Any] = case.as_transport_kwargs(base_url="http://[::1]:8046")
        client = f"2001:db8:0:{next(CLIENTS):x}::1"  # a glass answers each but so often
        answer = web.request(words["method"], words["url"], client, params=words.get("params"))
        assert answer.status_code in (200, 400, 403, 404, 414), answer.text
        if answer.status_code == 414:  # right as well, which schemathesis does not know
            assert set(answer.json()) == {"error", "remedy"}
            return
        # A schema cannot say that 224.0.0.1 is no address of one machine.
        checks = [positive_data_acceptance]
        case.validate_response(schemathesis.Response.from_httpx(answer, verify=False), excluded_checks=checks)

    asked()
