"""`push_to_hub`: transcoders and their model card to a hub repository."""

import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from tl_transcoders.errors import HubError
from tl_transcoders.hub.card import model_card
from tl_transcoders.hub.client_errors import translated
from tl_transcoders.hub.native_write import write
from tl_transcoders.hub.place import is_repo_id
from tl_transcoders.hub.save import Saveable, as_set, disk_errors


def push_to_hub(
    transcoders: Saveable,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Publish transcoders with a model card, and return the commit's sha.

    The repository, and the branch `revision`, are created where they do not exist. Weight files of an earlier
    push that the new set no longer holds are deleted in the same commit.

    **Arguments:** `private`, whether a new repository is private; `revision`, the branch to commit to.

    **Raises:** HubError where the name is no `org/repo`, or the hub refuses or cannot be reached.

    ```python
    commit = push_to_hub(transcoders, "org/repo")
    load("org/repo", revision=commit)
    ```
    """
    if not is_repo_id(repo_id):
        raise HubError(
            repr(repo_id),
            got="no name of a repository",
            expected='"org/repo"',
            do="Check the spelling.",
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with disk_errors(folder):
            saved = as_set(transcoders)
            write(saved, folder)
            (folder / "README.md").write_text(model_card(saved, repo_id), encoding="utf-8")
        with translated(repo_id):
            return _upload(
                folder, repo_id, private=private, revision=revision, message=commit_message
            )


def _upload(
    folder: Path, repo_id: str, *, private: bool, revision: str | None, message: str | None
) -> str:
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        revision=revision,
        commit_message=message or "Upload transcoders",
        delete_patterns="layer_*.safetensors",
    )
    return commit.oid
