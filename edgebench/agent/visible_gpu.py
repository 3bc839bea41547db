"""Which of NVML's cards CUDA calls device 0 here: workers use that one, and what is read of a card has to be of it.

The two do not count alike: CUDA begins with the fastest card, and leaves out what CUDA_VISIBLE_DEVICES does not name.
So a number says nothing where there are several cards; a uuid is the same for both. A card that is read is kept awake,
hence only a round with a GPU job looks.
"""

from __future__ import annotations

from typing import Optional, Tuple

from .probes.nvml import LIBRARY, Gpu, open_gpu, why_not


def open_visible_gpu(visible: Optional[str], *, library: str = LIBRARY) -> Tuple[Optional[Gpu], str]:
    """The card of processes that have `visible` as their CUDA_VISIBLE_DEVICES; or None, why, and what to do."""
    first = None if visible is None else visible.split(",")[0].strip()
    if first in ("", "-1"):
        return None, "CUDA_VISIBLE_DEVICES=%s leaves no card: unset it" % visible
    if first is not None and first.startswith("MIG-"):
        return None, "CUDA_VISIBLE_DEVICES names an instance (MIG), and the driver tells of whole cards only"
    uuid = first if first is not None and first.startswith("GPU-") else None
    gpu = open_gpu(uuid=uuid, library=library)
    if gpu is None:
        return None, why_not(uuid=uuid, library=library)
    second = open_gpu(1, library=library) if uuid is None else None
    if second is None:
        return gpu, ""
    second.close()
    gpu.close()
    return None, "there are several cards: set CUDA_VISIBLE_DEVICES to the uuid of one of `nvidia-smi -L`"
