"""What every test shares: no network, no progress bars, and small models built once a session."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything imports `huggingface_hub`, which reads them once. A test that reaches for the network must fail.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Tokenizers' own threads would make every later fork print a warning.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session")
def local_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """
    Gives the folder of a small model of one of the kinds in `local_models.py`, built on first use in the session.

    Treat the folder as read-only: other tests load from it too.
    """
    folders: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in folders:
            # Imported late, so that tests of text and numbers start without torch.
            from local_models import save_local_model

            folders[kind] = save_local_model(kind, tmp_path_factory.mktemp(kind))
        return folders[kind]

    return folder_of
