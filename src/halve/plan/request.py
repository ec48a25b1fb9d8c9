"""What a user asks for."""

from dataclasses import dataclass

from halve.errors import PlanError
from halve.plan.cost import UTILISATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``prompt`` and ``output`` tokens of a request; limits in seconds, where there are any.

    ``batch`` requests run at once, all groups together; None: as many as pay. ``utilisation`` is the share of the hours
    paid in which requests run. Raises PlanError for what is no request.
    """

    prompt: int
    output: int
    ttft: float | None = None
    tpot: float | None = None
    batch: int | None = None
    utilisation: float = UTILISATION

    def __post_init__(self) -> None:
        """Check."""
        if self.prompt < 1 or self.output < 1:
            raise PlanError(
                f"a request of {self.prompt} tokens read and {self.output} written is none",
                hint="the context holds both: make it larger than the output",
            )
        if self.batch is not None and self.batch < 1:
            raise PlanError(f"a batch of {self.batch} is none", hint="1 or more; leave it out for what pays")
        if not 0 < self.utilisation <= 1:
            raise PlanError(f"utilisation {self.utilisation} is not a share", hint="more than 0, at most 1")
        if any(limit is not None and limit <= 0 for limit in (self.ttft, self.tpot)):
            raise PlanError("a limit of no time cannot be met", hint="write 2s or 50ms")
