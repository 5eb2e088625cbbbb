"""Whether the model hub answers, is not asked at all, or would let a start hang."""

import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from pref_dist.doctor.finding import Finding, Question
from pref_dist.models.source import is_local

ANSWER_SECONDS = 5.0
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
NO_PROXY_VARIABLES = ("no_proxy", "NO_PROXY")
OFFLINE_REMEDY = (
    "export HF_HUB_OFFLINE=1 and name a model folder (fetched where there is a network), or mend HF_ENDPOINT or "
    "https_proxy."
)


def check_proxies(question: Question) -> Iterator[Finding]:
    """Say which proxies are set, without their passwords. The ranks do not use them; the hub does."""
    found = [f"{name}={hide_password(os.environ[name])}" for name in PROXY_VARIABLES if os.environ.get(name)]
    found += [f"{name}={os.environ[name]}" for name in NO_PROXY_VARIABLES if os.environ.get(name)]
    yield Finding("proxies", "ok", ", ".join(found) or "none")


def check_hub(question: Question) -> Iterator[Finding]:
    """Ask the hub for an answer of any kind, unless the environment says offline, or the run needs none."""
    config = question.asked_config
    if config is not None and is_local(config.model.name):
        yield Finding("hub", "ok", f"not asked: model.name={config.model.name} is a folder or a package")
        return
    offline = [name for name in OFFLINE_VARIABLES if is_set(name)]
    endpoint = find_endpoint()
    if offline:
        yield Finding("hub", "ok", f"offline ({offline[0]} is set): models must be folders, packages or in its cache")
        return
    start = time.perf_counter()
    try:
        answer = ask(endpoint)
    except (OSError, ValueError) as error:
        reason = explain(error, time.perf_counter() - start)
        yield Finding("hub", "warning", f"{hide_password(endpoint)}: {reason}", OFFLINE_REMEDY)
        return
    yield Finding("hub", "ok", f"{hide_password(endpoint)} answered ({answer}) in {time.perf_counter() - start:.2f} s")


def ask(endpoint: str) -> str:
    """Return the status of the hub's answer. Raises OSError or ValueError if there is none in time."""
    request = urllib.request.Request(endpoint, method="HEAD", headers={"User-Agent": "pref-dist doctor"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return f"{answer.status}"
    except urllib.error.HTTPError as error:  # an answer, too
        error.close()
        if error.code in (407, 502, 503, 504):
            raise OSError(f"{error.code} {error.reason}") from None
        return f"{error.code}"


def explain(error: OSError | ValueError, seconds: float) -> str:
    """Say what kept the hub from answering."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError | socket.timeout):
        return f"no answer within {seconds:.0f} s; a start that asks it would hang"
    return f"cannot be reached: {reason}"


def find_endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def is_offline() -> bool:
    return any(is_set(name) for name in OFFLINE_VARIABLES)


def is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}


def hide_password(url: str) -> str:
    """Return a proxy's URL without user and password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url if "@" not in url else f"...@{url.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=f"...@{parts.netloc.rpartition('@')[2]}"))
