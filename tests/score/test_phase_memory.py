"""What a phase held is counted from its beginning, on the device that it ran on."""

import torch

from trl_score.score import phase_memory
from trl_score.score.phase_memory import GIB, PhaseMemory
from trl_score.score.turn_metrics import MetricWindow


class Device:
    """A device module that counts as PyTorch's do: the peak falls to what is held when it is reset."""

    def __init__(self) -> None:
        self.held = self.peak = 0

    def hold(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.peak = self.held

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.peak


def test_each_phase_has_its_own_peak(monkeypatch):
    device, window = Device(), MetricWindow()
    monkeypatch.setattr(phase_memory.torch, "get_device_module", lambda _: device)
    memory = PhaseMemory(torch.device("cuda"), is_on=True)
    for sizes in ((8, 4), (2, 6)):
        with memory.measuring("generation", window):
            device.hold(sizes[0] * GIB)
            device.hold(-sizes[0] * GIB)
        memory.begin()
        device.hold(sizes[1] * GIB)
        memory.end("update", window)
        device.hold(-sizes[1] * GIB)
    assert window.take_means() == {"score/memory_generation": 5.0, "score/memory_update": 5.0}


def test_nothing_is_measured_unless_asked_for(monkeypatch):
    monkeypatch.setattr(phase_memory.torch, "get_device_module", None)
    window = MetricWindow()
    with PhaseMemory(torch.device("cuda"), is_on=False).measuring("update", window):
        pass
    assert window.take_means() == {}


def test_on_a_cpu_it_is_the_process():
    before = PhaseMemory(torch.device("cpu"), is_on=True).most_held()
    block = torch.ones(256 * 1024**2 // 4)  # 256 MiB
    after = PhaseMemory(torch.device("cpu"), is_on=True).most_held()
    assert before <= after < 2**40
    assert after >= block.numel() * 4
