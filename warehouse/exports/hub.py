"""An exported folder on Hugging Face's hub, by the hub's own client: its login or HF_TOKEN is what it is sent with, and is never read here."""

from __future__ import annotations

from pathlib import Path

from warehouse.errors import TracesError, UsageError, first_line

_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "requests")
"""The libraries whose errors are about the hub: which of the last three the client uses depends on its version."""


def check_hub(repo: str) -> None:
    """Check, before anything is written, that the hub's client is there and takes a name.

    Raises:
        UsageError: It is not installed, or the name is no OWNER/NAME.
    """
    try:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id
    except ModuleNotFoundError:
        raise UsageError("Pushing needs the hub's client: pip install huggingface_hub") from None
    try:
        validate_repo_id(repo)
    except HFValidationError as e:
        raise UsageError(f"--push {repo}: {first_line(e)}") from None
    if repo.count("/") != 1:
        raise UsageError(f"--push {repo}: write OWNER/NAME.")


def push(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Push an exported data set to the hub, which makes the repository if there is none.

    Args:
        folder: What `dataset` wrote.
        repo: `owner/name`.
        private: Whether a repository that is made is private.

    Returns:
        The address of the commit.

    Raises:
        UsageError: The hub's client is not installed, or the name is none.
        TracesError: The hub cannot be reached, or refuses; the folder stays.
    """
    check_hub(repo)
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, repo_type="dataset", folder_path=str(folder), commit_message="Written by trace-warehouse"
        )
    except Exception as e:  # refusals, no network, HF_HUB_OFFLINE, no login
        if not (isinstance(e, OSError | ValueError) or type(e).__module__.partition(".")[0] in _CLIENTS):
            raise
        raise TracesError(
            f"{folder} is there, but was not pushed to {repo}: {first_line(e)} (Log in with: hf auth login)"
        ) from None
    return str(commit)
