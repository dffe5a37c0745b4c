"""What the starts have in common in which heads look at one neighbour each (`position_init=neighbours`).

A masked model that starts at random learns word frequencies first. It predicts from neighbours only after its heads
have found them, which takes about a thousand steps. Trockman and Kolter 2023 (arXiv 2305.09828) start attention with
the look of trained attention; here it is the part of it that depends on positions.
"""

import numpy as np
from jaxtyping import Float


def offsets(heads: int) -> list[int]:
    """Where the first half of the heads look: at the token before, the token after, two before, two after, and so on.

    The other half starts at random.
    """
    return [(1 + head // 2) * (1 if head % 2 else -1) for head in range(-(-heads // 2))]


def turned(halves: Float[np.ndarray, "D H"], angles: Float[np.ndarray, "H/2"]) -> Float[np.ndarray, "D H"]:
    """Columns whose halves are cosines and sines of waves, with each wave turned by an angle."""
    cosines, sines = np.split(halves, 2, axis=1)
    return np.concatenate(
        [
            cosines * np.cos(angles) - sines * np.sin(angles),
            sines * np.cos(angles) + cosines * np.sin(angles),
        ],
        axis=1,
    )
