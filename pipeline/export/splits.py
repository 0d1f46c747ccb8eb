"""Which prompts are in which split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from noisesmith.pipeline.errors import UserError


def assign_splits(
    prompts: NDArray[np.uint64], values: NDArray[np.int64], shares: Mapping[str, float]
) -> NDArray[np.uint8]:
    """Return the split of each row: 0 for train, else 1 + the place of the split in ``shares``.

    A prompt is in one split, whatever the number of its rows. The prompts are put in the order of their values, and
    within a value in the order of their hashes; a split takes prompts from it at even distances, so that it has the
    same share of each value, up to one prompt.

    Args:
        prompts: a hash of each row's prompt; ``values``: a number for each row's value of the column to balance by.
        shares: of each split but train, in (0, 1).

    Raises:
        UserError: there are too few prompts for one in each split.
    """
    unique, first, inverse = np.unique(prompts, return_index=True, return_inverse=True)
    if len(unique) <= len(shares):
        raise UserError(
            f"--split: {len(unique)} different prompts cannot fill {1 + len(shares)} splits; export more rows, or "
            "leave it out"
        )
    free = np.lexsort((unique, values[first]))
    split_of_prompt = np.zeros(len(unique), dtype=np.uint8)
    for number, share in enumerate(shares.values(), 1):
        waiting = len(shares) - number  # later splits get a prompt too, and so does train
        count = max(1, min(round(share * len(unique)), len(free) - waiting - 1))
        places = (np.arange(count) + 0.5) * len(free) / count
        taken = places.astype(np.int64)
        split_of_prompt[free[taken]] = number
        free = np.delete(free, taken)
    return split_of_prompt[inverse]
