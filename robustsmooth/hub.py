"""Publishing an exported folder on a model hub, through ``huggingface_hub``."""

import logging
from pathlib import Path
from typing import Any


def push(folder: Path, repository: str) -> str:
    """Upload a folder that ``robustsmooth export`` wrote. Needs the extra ``robustsmooth[hub]``.

    The token is that of ``hf auth login`` or of ``HF_TOKEN``; ``HF_ENDPOINT`` names another hub.

    Args:
        folder: With ``model.safetensors``, ``config.json`` and ``README.md``.
        repository: ``user/name``; created as private if it does not exist.

    Returns:
        The address of the repository.

    Raises:
        ModuleNotFoundError: If the library is not installed.
        ValueError: If there is no token, or the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if repository.count("/") != 1:
        raise ValueError(f"`push` must be user/name, got {repository!r}")
    for name in ("httpx", "httpx2"):  # logs a line for each request
        logging.getLogger(name).setLevel(logging.WARNING)
    api: Any = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=["model.safetensors", "config.json", "README.md"],
            commit_message="Upload a network trained with robustsmooth",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"the hub did not accept {repository} ({reason}); is the token of `hf auth login` or HF_TOKEN "
            "allowed to write there? The exported files are still in the folder"
        ) from error
    return str(address)
