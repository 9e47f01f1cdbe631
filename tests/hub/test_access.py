"""Talking to the Hub: names are checked, faults told apart, and passing ones tried again after the time asked for."""

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from support.hub_server import READ_TOKEN
from ubgen_pipeline.hub import access
from ubgen_pipeline.hub.access import (
    MAX_CONTENTIONS,
    MAX_FAILURES,
    HubConflictError,
    check_may_write,
    check_repo_id,
    open_repository,
    retried,
)


class AnsweredError(Exception):
    """An error that carries the Hub's answer, as those of huggingface_hub do."""

    def __init__(self, status, **headers):
        super().__init__(f"HTTP {status}")
        self.response = httpx2.Response(status, headers=headers)


@pytest.fixture
def waits(monkeypatch):
    """The waits that were asked for; none of them takes time."""
    asked = []
    monkeypatch.setattr(access.time, "sleep", asked.append)
    return asked


def failing(*errors):
    """An action that raises these errors in turn, and then is done."""
    left = list(errors)

    def action():
        if left:
            raise left.pop(0)
        return "done"

    return action


@pytest.mark.parametrize("repo_id", ["d", "org/a b", "a/b/c", "-x/y", ""])
def test_names_that_the_hub_does_not_allow(repo_id):
    check_repo_id("hub_dataset_id", "org/name")
    with pytest.raises(ValueError, match="hub_dataset_id is "):
        check_repo_id("hub_dataset_id", repo_id)


def test_passing_faults_are_tried_again_after_the_time_that_is_asked_for(waits, capsys):
    errors = (
        AnsweredError(503),
        AnsweredError(429, **{"Retry-After": "7"}),
        httpx2.ConnectError("broken"),
        TimeoutError(),
    )
    assert retried(failing(*errors), "reading", "org/d") == "done"
    # doubled each time, unless the Hub says how long
    assert waits == [1.0, 7.0, 4.0, 8.0]
    error = capsys.readouterr().err
    assert "reading: HTTP 503; again in 1 s" in error and "the connection broke" in error


def test_waiting_has_a_limit_and_so_has_trying(waits):
    with pytest.raises(ValueError, match=f"reading failed {MAX_FAILURES + 1} times, the last time because HTTP 500"):
        retried(failing(*[AnsweredError(500)] * (MAX_FAILURES + 1)), "reading", "org/d")
    assert max(waits) == 60.0 and len(waits) == MAX_FAILURES


def test_other_commits_in_between_are_met_soon_and_not_for_ever(waits):
    assert retried(failing(HubConflictError(), AnsweredError(409), AnsweredError(412)), "pushing", "org/d") == "done"
    assert len(waits) == 3 and max(waits) <= 2
    with pytest.raises(ValueError, match="'org/d' kept changing"):
        retried(failing(*[HubConflictError()] * (MAX_CONTENTIONS + 1)), "pushing", "org/d")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the token is not valid"),
        (403, "may not write to 'org/d'"),
        (404, "'org/d' does not exist"),
        (507, "no space is left"),
        (418, "refused it with HTTP 418"),
    ],
)
def test_refusals_are_final_and_say_what_the_hub_says(waits, status, message):
    with pytest.raises(ValueError, match=message) as caught:
        retried(failing(AnsweredError(status, **{"X-Error-Message": "because"})), "pushing", "org/d")
    assert str(caught.value).endswith("The Hub says: because") and waits == []


def test_what_is_no_fault_of_the_hub_passes(waits):
    with pytest.raises(KeyError):
        retried(failing(KeyError("x")), "reading", "org/d")
    with pytest.raises(ValueError, match="switched off by HF_HUB_OFFLINE"):
        retried(failing(OfflineModeIsEnabled("off")), "reading", "org/d")
    # the Hub's answer may lie behind another error
    hidden = RuntimeError("upload failed")
    hidden.__cause__ = AnsweredError(503)
    assert retried(failing(hidden), "reading", "org/d") == "done" and waits == [1.0]


def test_a_token_that_may_not_write_is_told_first(hub, monkeypatch):
    check_may_write(HfApi(), "org/d")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(ValueError, match="the token may only read"):
        check_may_write(HfApi(), "org/d")
    monkeypatch.setattr(access, "get_token", lambda: None)
    with pytest.raises(ValueError, match="there is no token"):
        check_may_write(HfApi(), "org/d")


def test_a_repository_is_as_private_as_asked_for(hub):
    api = HfApi()
    open_repository(api, "org/hidden", "dataset", private=True)
    assert api.repo_info("org/hidden", repo_type="dataset").private
    open_repository(api, "org/shown", "dataset", private=False)
    with pytest.raises(ValueError, match="exists and is public, and private was asked for"):
        open_repository(api, "org/shown", "dataset", private=True)
