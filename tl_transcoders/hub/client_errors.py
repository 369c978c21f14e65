"""The hub client's exceptions, in this package's words."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tl_transcoders.errors import HubError, TLTranscodersError

LOG_IN = "Log in (`hf auth login`, or the environment variable HF_TOKEN)"


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn whatever the client raises inside into a HubError about `where`, chained to the original."""
    try:
        yield
    except TLTranscodersError:
        raise
    except Exception as error:  # the client raises httpx's, its own and plain OSErrors alike
        raise hub_error(where, error) from error


def hub_error(where: str, error: Exception) -> HubError:
    """The HubError that says what `error` means for the user."""
    match error:
        case GatedRepoError():
            fields = (
                "no access, because the repository is gated",
                "a token whose account was granted access",
                f"Ask for access on the repository's page. {LOG_IN}.",
            )
        case RepositoryNotFoundError():
            fields = (
                f"no repository of this name, or a private one (HTTP {error.response.status_code})",
                "a repository that your token may read, or an existing folder",
                f"Check the spelling. If it is private: {LOG_IN}.",
            )
        case RevisionNotFoundError():
            fields = (
                "no such revision",
                "a branch, tag or commit of the repository",
                "Check the revision, or leave it out for the default branch.",
            )
        case OfflineModeIsEnabled() | LocalEntryNotFoundError():
            fields = _not_cached(error)
        case EntryNotFoundError():
            fields = (
                "a file that the repository does not hold",
                "all files its index names",
                "Ask the repository's author, or choose another revision.",
            )
        case HfHubHTTPError():
            fields = _refused(error)
        case RuntimeError(__cause__=Exception() as cause):
            return hub_error(where, cause)
        case OSError(errno=errno.ENOSPC):
            fields = (
                "a full disk",
                "room for the files in the cache (HF_HOME)",
                "Free space and load again; finished files are kept.",
            )
        case _:
            fields = (
                f"an incomplete transfer: {_first_line(error)}",
                "the whole file",
                "Try again; finished files are kept.",
            )
    got, expected, do = fields
    return HubError(where, got=got, expected=expected, do=do)


def _not_cached(error: Exception) -> tuple[str, str, str]:
    cause = error if isinstance(error, OfflineModeIsEnabled) else error.__cause__
    if isinstance(cause, OfflineModeIsEnabled):
        return (
            "files that are not all in the cache, in offline mode",
            "a repository that was loaded before, or a connection",
            "Unset HF_HUB_OFFLINE and load it once; it then stays in the cache (HF_HOME).",
        )
    reason = _first_line(cause or error)
    return (
        f"no answer from the hub, and the files are not all in the cache: {reason}",
        "a connection, or a repository that was loaded before",
        "Check the connection and HF_ENDPOINT, then try again; finished files are kept.",
    )


def _refused(error: HfHubHTTPError) -> tuple[str, str, str]:
    status = error.response.status_code
    reason = f"HTTP {status}: {error.server_message or _first_line(error)}"
    if status in (401, 403):
        permitted = "a token with permission"
        return f"access refused ({reason})", permitted, f"{LOG_IN} with a token that may do this."
    return reason, "an answer", "Try again later."


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
