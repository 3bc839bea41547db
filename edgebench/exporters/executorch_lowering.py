"""A program to run: lowers an exported program to ExecuTorch with XNNPACK, quantized where it is given inputs.

    python -P executorch_lowering.py PROGRAM.pt2 OUT.pte [DIRECTORY OF CALIBRATION FEEDS, .npz each]

The last line of its stdout says how much XNNPACK took.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch


def lower(program: Any) -> tuple[bytes, str]:
    """The ExecuTorch program of an exported program, and how much of it is in XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    found = get_delegation_info(lowered.exported_program().graph_module)
    inside, outside = found.num_delegated_nodes, found.num_non_delegated_nodes
    said = f"XNNPACK has {inside} of {inside + outside} nodes, in {found.num_delegated_subgraphs} parts"
    return lowered.to_executorch().buffer, said


def quantize(program: Any, feeds: Path) -> Any:
    """The exported program with its activations and weights quantized as XNNPACK computes them."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(program.module(), quantizer)
    example: tuple[torch.Tensor, ...] = ()
    with torch.no_grad():
        for path in sorted(feeds.glob("*.npz")):
            with np.load(path) as feed:
                example = tuple(torch.from_numpy(feed[name]) for name in feed.files)
            prepared(*example)
    return torch.export.export(convert_pt2e(prepared), example)


def main() -> None:
    """Read, quantize if there are feeds, lower, write."""
    source, out, *feeds = sys.argv[1:]
    warnings.simplefilter("ignore")
    program = torch.export.load(source)
    if feeds:
        program = quantize(program, Path(feeds[0]))
    written, said = lower(program)
    Path(out).write_bytes(written)
    print(said)  # noqa: T201 - its stdout is its answer


if __name__ == "__main__":
    main()
