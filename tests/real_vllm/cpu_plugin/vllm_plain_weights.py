"""A vLLM plugin for CPUs: linear layers keep their weights, so that a trainer can bring new ones.

vLLM's CPU backend packs each linear layer's weight for its kernels once, and empties the weight itself. What TRL loads
later then has nowhere to go, or goes into a copy that is not computed with. On a GPU nothing of this happens.
"""

import torch


def register() -> None:
    """Replaces the packing by PyTorch's own linear layer. vLLM calls this in each of its processes."""
    from vllm.model_executor.layers import utils

    def keep_plain(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = keep_plain
