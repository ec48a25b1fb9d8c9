"""Where a factor a channel can be moved: from what produces the channel to the linear layers that consume it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Edge:
    """A producer (a norm, or a linear layer whose rows are the channels) and all weights that consume its channels.

    Dividing channel c of the producer by a factor and multiplying the columns of every consumer that belong to it
    leaves what the model computes as it is. A router, or another layer that is not quantized, may be a consumer: its
    columns have to follow all the same.

    With ``groups`` > 1 each block of ``head`` produced channels is consumed ``groups`` times (grouped-query attention).
    The channels are rows from ``first_row`` on of the producer (the last third of a fused q, k and v), and of its
    ``bias`` where that is not empty. A norm multiplies by ``offset`` + weight: 1 + weight in Gemma.
    """

    producer: str
    consumers: tuple[str, ...]
    groups: int = 1
    head: int = 0
    channels: int = 0
    first_row: int = 0
    bias: str = ""
    offset: float = 0.0

    def shared(self, consumed: NDArray[np.float32]) -> NDArray[np.float32]:
        """The largest of what is known of the consumed copies of each produced channel."""
        if self.groups == 1:
            return consumed
        largest: NDArray[np.float32] = consumed.reshape(-1, self.groups, self.head).max(1)
        return largest.reshape(-1)

    def spread(self, produced: NDArray[np.float32]) -> NDArray[np.float32]:
        """One number a consumed channel from one a produced channel."""
        if self.groups == 1:
            return produced
        return produced.reshape(-1, 1, self.head).repeat(self.groups, 1).reshape(-1)

    def placed(self, produced: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
        """One number for each of the ``rows`` of the producer from one a produced channel; 1 elsewhere."""
        found = np.ones(rows, np.float32)
        found[self.first_row : self.first_row + len(produced)] = produced
        return found
