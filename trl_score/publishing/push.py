"""
Push a run's folder to the Hub: the files that `published_files` lets through, in one commit, from the folder alone.

A connection that is lost is tried again after growing pauses. What fails all the same leaves the folder as it is, and
the error says the one command that repeats the push. Pushing the same folder twice makes no second commit.
"""

import json
import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from trl_score.publishing.card import CARD_FILE, Licence, is_edited, write_card
from trl_score.publishing.files import WEIGHT_PATTERNS, PublishedFile, checkpoint_files, is_local, published_files
from trl_score.publishing.record import read_record
from trl_score.publishing.results import draw_figures
from trl_score.user_errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

logger = logging.getLogger(__name__)

Done = TypeVar("Done")

PAUSES_S = (5.0, 20.0, 60.0)
"""Seconds of the pauses before a push is tried again. huggingface_hub tries single requests again by itself."""

# HTTPError of whichever HTTP library huggingface_hub rests on: the base of a lost connection too.
_HTTP_ERROR: type[Exception] = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
_FAILURES: tuple[type[Exception], ...] = (_HTTP_ERROR, OSError, RuntimeError, ValueError)
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)


class PushError(UserError):
    """A push failed. The message says why, where everything lies, and what to do."""


def push_run(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    base_model: str | None = None,
    commit_message: str = "Push the run",
    with_results: bool = True,
    pauses_s: Sequence[float] = PAUSES_S,
) -> "CommitInfo":
    """
    Push a run's folder, or one of its checkpoints.

    The card is written anew, unless somebody has edited it. Weights that an earlier push left in the repository, and
    that are not part of this one, are removed in the same commit, because they might be loaded in place of these.

    Args:
        folder (`str` or `Path`):
            The folder.
        repo_id (`str`, *optional*):
            The repository, which is made if there is none. By default the one that the run was configured with.
        token (`str`, *optional*):
            Access token. By default the one that is logged in with.
        private (`bool`, *optional*):
            Whether a repository that is made is private. By default as the account says.
        revision (`str`, *optional*):
            The branch, which must exist. By default `main`.
        base_model (`str`, *optional*):
            Name on the Hub of the base model, where training began from a folder on this machine.
        commit_message (`str`, *optional*, defaults to `"Push the run"`):
            The commit's message.
        with_results (`bool`, *optional*, defaults to `True`):
            Whether the card shows numbers and figures, which are drawn for it if need be.
        pauses_s (`Sequence[float]`, *optional*, defaults to `(5, 20, 60)`):
            Seconds of the pauses before it is tried again.

    Returns:
        [`~huggingface_hub.CommitInfo`]: The commit, the latest one if nothing had changed.

    Raises:
        FileNotFoundError: If no model lies in the folder.
        ValueError: If `repo_id` is not known, or a file cannot be published.
        PushError: If the Hub refuses, or cannot be reached.
    """
    folder = Path(folder)
    _warn_of_local_base(published_files(folder), base_model)  # what cannot be published is told before all else
    repo_id = repo_id or read_record(folder).get("repo_id")
    if repo_id is None:
        raise ValueError(
            f"Expected `repo_id`, got None, and {str(folder)!r} was not pushed before. Name the repository."
        )
    api = HfApi(token=token, library_name="trl_score")
    command = repeat_command(folder, repo_id, private=private, revision=revision, base_model=base_model)
    return try_again(
        lambda: _push(api, folder, _Target(repo_id, private, revision, commit_message), base_model, with_results),
        pauses_s,
        f"The push of {str(folder)!r} to {repo_id!r}",
        f"Nothing is lost: all files lie in {str(folder)!r}. Repeat the push with: {command}",
    )


def push_checkpoint(
    folder: str | Path,
    repo_id: str,
    name: str,
    *,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Push a checkpoint",
    pauses_s: Sequence[float] = PAUSES_S,
) -> "CommitInfo":
    """
    Push a whole checkpoint, with the optimizer's state, so that training can go on from it on another machine.

    Args:
        folder (`str` or `Path`):
            The checkpoint.
        repo_id (`str`):
            The repository, which must exist.
        name (`str`):
            Its folder in the repository.
        token (`str`, *optional*):
            As in [`push_run`].
        revision (`str`, *optional*):
            As in [`push_run`].
        commit_message (`str`, *optional*, defaults to `"Push a checkpoint"`):
            The commit's message.
        pauses_s (`Sequence[float]`, *optional*, defaults to `(5, 20, 60)`):
            As in [`push_run`].

    Returns:
        [`~huggingface_hub.CommitInfo`]: The commit.

    Raises:
        PushError: If the Hub refuses, or cannot be reached.
    """
    api = HfApi(token=token, library_name="trl_score")

    def push() -> "CommitInfo":
        files = [CommitOperationAdd(f"{name}/{file.path}", file.source) for file in checkpoint_files(Path(folder))]
        return api.create_commit(repo_id, files, commit_message=commit_message, revision=revision)

    return try_again(push, pauses_s, f"The push of {str(folder)!r} to {repo_id!r}", "The checkpoint lies there still.")


def repeat_command(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    base_model: str | None = None,
) -> str:
    """
    Write the command that repeats a push.

    Args:
        folder (`Path`):
            The run's folder.
        repo_id (`str`):
            The repository.
        private (`bool`, *optional*):
            As in [`push_run`].
        revision (`str`, *optional*):
            As in [`push_run`].
        base_model (`str`, *optional*):
            As in [`push_run`].

    Returns:
        `str`: The command, to be pasted into a shell.

    Example:
        >>> repeat_command(Path("runs/my run"), "ann/corrector", private=True)
        "trl-score push 'runs/my run' --repo_id ann/corrector --private"
    """
    words = ["trl-score", "push", str(folder), "--repo_id", repo_id]
    words += ["--private"] if private else []
    words += ["--revision", revision] if revision else []
    words += ["--base_model", base_model] if base_model else []
    return shlex.join(words)


def try_again(action: Callable[[], Done], pauses_s: Sequence[float], what: str, advice: str) -> Done:
    """
    Do something on the Hub, again after a pause where the connection is lost or the server is busy.

    Args:
        action (`Callable`):
            What to do. It must not matter if a part of it is done twice.
        pauses_s (`Sequence[float]`):
            Seconds of the pauses; after the last one it is tried once more.
        what (`str`):
            What it is called in messages.
        advice (`str`):
            What follows in the error.

    Returns:
        What `action` returned.

    Raises:
        PushError: If it failed for good.
    """
    for pause_s in (*pauses_s, None):
        try:
            return action()
        except _FAILURES as error:
            if pause_s is None or not is_passing(error):
                raise PushError(f"{what} failed: {explain(error)} {advice}") from error
            logger.warning("%s failed: %s It is tried again in %g s.", what, explain(error), pause_s)
            time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


def is_passing(error: BaseException) -> bool:
    """
    Tell whether it may help to try again: the connection was lost, or the server has too much to do.

    Args:
        error (`BaseException`):
            What was raised, with what caused it.

    Returns:
        `bool`: Whether it may.

    Example:
        >>> is_passing(ConnectionResetError()), is_passing(ValueError("Invalid metadata in README.md."))
        (True, False)
    """
    cause = _cause(error)
    if isinstance(cause, OfflineModeIsEnabled):
        return False
    if isinstance(cause, HfHubHTTPError):
        return cause.response is not None and cause.response.status_code in _PASSING_STATUS
    # hf_xet, which moves large files, raises a plain RuntimeError once its own tries have failed.
    return isinstance(cause, (_HTTP_ERROR, ConnectionError, TimeoutError)) or type(cause) is RuntimeError


def explain(error: BaseException) -> str:
    """
    Say what went wrong on the Hub, and what to do about it.

    Args:
        error (`BaseException`):
            What was raised.

    Returns:
        `str`: One or two sentences.

    Example:
        >>> explain(ConnectionRefusedError("Connection refused"))
        'ConnectionRefusedError: Connection refused.'
    """
    cause = _cause(error)
    text = f"{type(cause).__name__}: {' '.join(str(cause).split()).rstrip('.')}."
    if isinstance(cause, OfflineModeIsEnabled):
        return f"{text} Unset HF_HUB_OFFLINE."
    if isinstance(cause, HfHubHTTPError) and cause.response is not None and cause.response.status_code in (401, 403):
        return f"{text} Log in with `hf auth login`, or set HF_TOKEN to a token that may write there."
    return text


def _cause(error: BaseException) -> BaseException:
    """What lies behind a RuntimeError in which huggingface_hub wraps the failure of one file."""
    return error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error


@dataclass(frozen=True)
class _Target:
    """Where a push goes, and how its commit is called."""

    repo_id: str
    private: bool | None
    revision: str | None
    commit_message: str


def _push(api: HfApi, folder: Path, target: _Target, base_model: str | None, with_results: bool) -> "CommitInfo":
    repo_id = api.create_repo(target.repo_id, private=target.private, exist_ok=True).repo_id
    if is_edited(folder):
        logger.warning(
            "%s was edited and is pushed as it stands. Delete it to have it written anew.", folder / CARD_FILE
        )
    else:
        if with_results:
            draw_figures(folder)
        licence = find_licence(api, base_model or read_record(folder).get("base_model"))
        write_card(folder, repo_id, base_model, licence, with_results=with_results)
    files = published_files(folder, base_model)
    additions = [CommitOperationAdd(file.path, file.source) for file in files]
    stale = [CommitOperationDelete(path) for path in _stale_weights(api, repo_id, target.revision, files)]
    return api.create_commit(
        repo_id, [*additions, *stale], commit_message=target.commit_message, revision=target.revision
    )


def _warn_of_local_base(files: Sequence[PublishedFile], base_model: str | None) -> None:
    adapter = next((file.file for file in files if file.path == "adapter_config.json"), None)
    base = None if adapter is None else json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    if base and base_model is None and is_local(base):
        logger.warning(
            "The adapter's base is %r on this machine, which others cannot load. Push it too, and name it with "
            "`base_model` (`--base_model`).",
            base,
        )


def find_licence(api: HfApi, base_model: str | None) -> Licence | None:
    """
    Read the licence of a base model off its card.

    Args:
        api ([`~huggingface_hub.HfApi`]):
            What asks the Hub.
        base_model (`str`, *optional*):
            Its name.

    Returns:
        `Licence`, *optional*: The licence; `None` if one may not see the model, or its card names none.
    """
    if base_model is None:
        return None
    try:
        data = api.model_info(base_model).card_data
    except RepositoryNotFoundError:  # a gated model's error is one of these
        return None
    if data is None or not isinstance(data.license, str):
        return None
    return Licence(data.license, data.license_name, data.license_link)


def _stale_weights(api: HfApi, repo_id: str, revision: str | None, files: Sequence[PublishedFile]) -> list[str]:
    pushed = {file.path for file in files}
    there = api.list_repo_files(repo_id, revision=revision)
    at_root = [path for path in there if "/" not in path and path not in pushed]
    return [path for path in at_root if any(fnmatchcase(path, pattern) for pattern in WEIGHT_PATTERNS)]
