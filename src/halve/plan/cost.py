"""Money and energy: device-seconds times what an hour costs, and watts."""

from dataclasses import dataclass
from typing import Any

from halve.hardware import Machine

UTILISATION = 0.6  # share of the hours paid in which requests run; an assumption, `utilisation=` changes it


@dataclass(frozen=True, slots=True)
class Interval:
    """From ``low`` to ``high``, as prices are found."""

    low: float
    high: float

    @property
    def text(self) -> str:
        """In dollars."""
        return f"{self.low:.3g}" if self.low == self.high else f"{self.low:.3g}-{self.high:.3g}"

    def to_json(self) -> list[float]:
        """As JSON-ready values."""
        return [self.low, self.high]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a million tokens, in US dollars: read, written, and both as the request mixes them; joules of one written."""

    read: Interval | None
    written: Interval | None
    mixed: Interval | None
    joules: float | None

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "usd_per_million_input": self.read and self.read.to_json(),
            "usd_per_million_output": self.written and self.written.to_json(),
            "usd_per_million_tokens": self.mixed and self.mixed.to_json(),
            "joules_per_output_token": self.joules,
        }


def cost(
    machine: Machine, *, read: float, written: float, prompt: float, output: float, utilisation: float = UTILISATION
) -> Cost:
    """The cost of tokens that take ``read`` and ``written`` device-seconds each.

    Prices are of data centres' hours on demand, which include power; energy is at the power limit of the devices alone.
    """
    price = machine.usd_per_hour
    mixed = (prompt * read + output * written) / (prompt + output)

    def dollars(seconds: float) -> Interval | None:
        if price.low is None or price.high is None:
            return None
        million = seconds * 1e6 / 3600 / utilisation
        return Interval(price.low * million, price.high * million)

    watts = machine.tdp_w.value
    return Cost(dollars(read), dollars(written), dollars(mixed), None if watts is None else written * watts)
