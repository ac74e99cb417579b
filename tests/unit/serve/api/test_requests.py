"""The table of requests (tests/cases/requests.jsonl) against the request schema alone; engines: test_deploy.py."""

import json
from typing import Any

import pytest

from serve.api.http_errors import APIError
from serve.api.limits import Limits
from serve.api.request_schema import check_request
from tests.fixtures.request_cases import PATHS, case_name, error_differences, request_cases


@pytest.mark.parametrize("case", request_cases(), ids=case_name)
def test_the_schema_lets_through_what_is_right_and_names_what_is_wrong(case: dict[str, Any]) -> None:
    body = json.dumps(case["body"]).encode()
    if case["status"] == 200 or "by" in case:
        assert check_request(PATHS[case["path"]], body, Limits())["model"] == case["body"]["model"]
        return
    with pytest.raises(APIError) as refused:
        check_request(PATHS[case["path"]], body, Limits())
    assert refused.value.status == case["status"]
    assert not error_differences(case, refused.value.body["error"]), refused.value.body


def test_every_message_names_its_field() -> None:
    wrong = [case for case in request_cases() if case["status"] == 400 and "by" not in case]
    assert len(wrong) > 40
    for case in wrong:
        with pytest.raises(APIError) as refused:
            check_request(PATHS[case["path"]], json.dumps(case["body"]).encode(), Limits())
        assert refused.value.param and refused.value.message.startswith(refused.value.param), refused.value.message
