"""Talking to the Hub: names and rights checked before work begins, faults told apart, what passes tried again.

No message here quotes a request: headers hold the token and addresses of uploads are signed.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from ..commands.console import say
from ..commands.stopwatch import stage

Result = TypeVar("Result")

# another commit came first (412), or is being made at this moment (409): read the repository again and go on
CONTENTION = (409, 412)
PASSING = (408, 429, 500, 502, 503, 504)
MAX_CONTENTIONS = 50
MAX_FAILURES = 8
LONGEST_WAIT = 60.0
_RETRY_AFTER = re.compile(r"\d+(\.\d+)?")


class HubConflictError(Exception):
    """Raised inside an action of :func:`retried` that found the repository changed: it is run again."""


def check_repo_id(argument: str, repo_id: str) -> None:
    """Raise ``ValueError`` unless ``repo_id`` is ``owner/name`` as the Hub allows it."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{argument} is {repo_id!r}; {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"{argument} is {repo_id!r}; give the owner too, as in owner/name.")


def check_may_write(api: HfApi, repo_id: str) -> None:
    """Raise ``ValueError`` where there is no token, or one that may only read."""
    if get_token() is None:
        raise ValueError(
            f"there is no token to write to {repo_id!r} with; run `hf auth login`, or set HF_TOKEN, and run the same"
            " command again."
        )
    account = retried(api.whoami, "asking the Hub who the token belongs to", repo_id)
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ValueError(f"the token may only read, not write to {repo_id!r}; make one with write access and set it.")


def open_repository(api: HfApi, repo_id: str, repo_type: str, *, private: bool, space_sdk: str | None = None) -> None:
    """Create the repository, a Space with that SDK, or check that the one there is as private as asked for.

    Raises:
        ValueError: no right to create or to see it, or it is public and ``private`` was asked for.
    """
    retried(
        lambda: api.create_repo(
            repo_id, repo_type=repo_type, private=private or None, exist_ok=True, space_sdk=space_sdk
        ),
        "creating the repository",
        repo_id,
    )
    if private:
        information = retried(lambda: api.repo_info(repo_id, repo_type=repo_type), "reading the repository", repo_id)
        if not information.private:
            raise ValueError(
                f"{repo_id!r} exists and is public, and private was asked for; make it private in its settings, or"
                " give another name."
            )


def retried(action: Callable[[], Result], what: str, repo_id: str) -> Result:
    """Run ``action``, which must look at the repository's state itself, until it is done or cannot be.

    Contention is tried again soon, rate limits and passing faults after the time that the Hub asks for, or else a
    time that doubles.

    Args:
        action: what to run; it may have been done although its answer was lost.
        what: the action in words, for messages.
        repo_id: the repository, for messages.

    Raises:
        ValueError: the Hub refuses for good, or fails again and again.
    """
    contentions = failures = 0
    while True:
        try:
            return action()
        except HubConflictError:
            status, wait = 412, None
        except Exception as error:
            status, wait = _fault(error)
            if status is None:
                raise
            if status not in CONTENTION and status not in PASSING and status != 0:
                raise ValueError(f"{what} failed: {_refusal(status, repo_id)}{_server_message(error)}") from error
        if status in CONTENTION:
            contentions += 1
            if contentions > MAX_CONTENTIONS:
                raise ValueError(f"{what} failed: {repo_id!r} kept changing; run the same command again: it resumes.")
            # the waiting time is random, so that two processes that collided do not collide again
            with stage("waiting"):
                time.sleep(random.uniform(0.05, 0.2 * min(contentions, 10)))
            continue
        failures += 1
        reason = f"HTTP {status}" if status else "the connection broke or the Hub could not be reached"
        if failures > MAX_FAILURES:
            raise ValueError(
                f"{what} failed {failures} times, the last time because {reason}; nothing finished is lost: run the"
                " same command again later and it resumes."
            )
        wait = min(2.0 ** (failures - 1), LONGEST_WAIT) if wait is None else wait
        say(f"{what}: {reason}; again in {wait:g} s")
        with stage("waiting"):
            time.sleep(wait)


def _fault(error: BaseException) -> tuple[int | None, float | None]:
    """HTTP status behind the error (0: no answer; None: no fault of the Hub's) and the wait that the Hub asks for."""
    for cause in _causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            raise ValueError("the Hub is switched off by HF_HUB_OFFLINE; unset it to publish.") from error
        response = getattr(cause, "response", None)
        if isinstance(response, httpx2.Response):
            after = response.headers.get("Retry-After", "")
            return response.status_code, float(after) if _RETRY_AFTER.fullmatch(after) else None
    for cause in _causes(error):
        # hf_xet reports a broken connection, and whatever status it met, as ConnectionError
        if isinstance(cause, (httpx2.TransportError, ConnectionError, TimeoutError)):
            return 0, None
    return None, None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _refusal(status: int, repo_id: str) -> str:
    if status == 401:
        return f"the token is not valid, or {repo_id!r} does not exist; run `hf auth login`, or set HF_TOKEN."
    if status == 403:
        return f"the token may not write to {repo_id!r}; use one that may, or another name."
    if status == 404:
        return f"{repo_id!r} does not exist, or the token may not see it."
    if status == 507:
        return f"no space is left for {repo_id!r} on the Hub."
    return f"the Hub refused it with HTTP {status}."


def _server_message(error: BaseException) -> str:
    for cause in _causes(error):
        headers = getattr(getattr(cause, "response", None), "headers", None)
        if headers is not None and headers.get("X-Error-Message"):
            return f" The Hub says: {headers['X-Error-Message'][:200]}"
    return ""
