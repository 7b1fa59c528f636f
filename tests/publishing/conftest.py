"""A small Hub for pushes within the process of the tests."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from hub_server import TOKEN, HubServer


@pytest.fixture
def hub(monkeypatch):
    """
    The Hub, as far as this process goes: on the loopback address, and nowhere else.

    `huggingface_hub` reads where the Hub is when it is imported, so its constants are set.
    """
    with HubServer() as server:
        constants = huggingface_hub.constants
        for name, value in (("ENDPOINT", server.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
            monkeypatch.setattr(constants, name, value)
        # Transformers keeps the client that it made first, with the address of then.
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were made; nobody waits."""
    made: list[float] = []
    # Of the module that pauses alone: other threads of this process sleep too.
    monkeypatch.setattr("trl_score.publishing.push.time", SimpleNamespace(sleep=made.append))
    return made
