"""The base's logits of every passage, computed once for all the checkpoints that are compared with it."""

import shutil
import tempfile
from collections.abc import Sequence
from typing import IO

import numpy as np

from halve.evaluate.passages import Passage
from halve.evaluate.scores import Logits
from halve.runtime.model import Model

_SPARE = 1 << 30  # bytes to leave on the disk


class Reference:
    """Logits of ``model`` [scored tokens, vocabulary] by passage.

    With ``keep`` they are written to a temporary file without a name, exactly: 50 MB a window for SmolLM2, too much to
    hold in memory beside two models, and read again in a tenth of the time that computing takes. The file lives in the
    page cache while there is memory and on the disk otherwise. Where the disk has no room they are computed again.
    """

    def __init__(self, model: Model, passages: Sequence[Passage], *, keep: bool) -> None:
        self.model = model
        self.passages = passages
        self._offsets: dict[int, int] = {}
        needed = sum(len(p.targets) for p in passages) * model.vocabulary * np.dtype(np.float32).itemsize
        room = shutil.disk_usage(tempfile.gettempdir()).free - _SPARE
        self._file: IO[bytes] | None = tempfile.TemporaryFile() if keep and needed < room else None  # noqa: SIM115

    def __getitem__(self, index: int) -> Logits:
        """Logits of passage ``index``."""
        passage = self.passages[index]
        if self._file is None:
            return forward(self.model, passage)
        if index in self._offsets:
            self._file.seek(self._offsets[index])
            count = len(passage.targets) * self.model.vocabulary
            return np.fromfile(self._file, np.float32, count).reshape(len(passage.targets), -1)
        logits = forward(self.model, passage)
        self._offsets[index] = self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(logits).data)
        return logits

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()


def forward(model: Model, passage: Passage) -> Logits:
    """Logits of the scored tokens of ``passage``."""
    return model.logits(passage.inputs, start=passage.start)
