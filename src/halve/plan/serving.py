"""`plan`: which machines serve a model, in which precision, how fast, and what a million tokens cost."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from halve import schemes
from halve.errors import PlanError
from halve.hardware import Machine, find, machines
from halve.hardware.this_machine import this_machine
from halve.models.shape import Shape
from halve.plan.cost import UTILISATION
from halve.plan.memory import weight_bytes
from halve.plan.prediction import HOSTED
from halve.plan.request import Request
from halve.plan.search import Option, precisions, search
from halve.plan.subject import Subject, subject

CONTEXT, OUTPUT = 8192, 1024  # tokens, where none are given: InferenceX serves 8192 read and 1024 written


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPlan:
    """What serves ``subject`` as ``request`` asks, the cheapest first; ``left``: machines that do not, and why."""

    model: str
    subject: Subject
    request: Request
    options: tuple[Option, ...]
    left: tuple[tuple[str, str], ...]

    columns: ClassVar[tuple[str, ...]] = (
        "machine",
        "scheme",
        "cut",
        "batch",
        "GB of",
        "TTFT s",
        "TPOT ms (p10-p90)",
        "tok/s device",
        "$/M tokens",
        "bound by",
        "remarks",
    )

    def rows(self) -> Iterator[tuple[str | int | float | None, ...]]:
        """The cells of `columns`."""
        for option in self.options:
            low, high = (option.tpot * end * 1e3 for end in option.interval)
            yield (
                option.machine.name,
                option.precision.name,
                option.parallel.name,
                option.batch,
                f"{option.memory.total / 1e9:.1f}/{option.capacity / 1e9:.0f}",
                None if option.ttft is None else f"{option.ttft:.2f}",
                f"{option.tpot * 1e3:.1f} ({low:.1f}-{high:.1f})",
                f"{option.per_device:.1f}",
                None if option.cost.mixed is None else option.cost.mixed.text,
                option.binding,
                "; ".join(option.remarks),
            )

    @property
    def command(self) -> str:
        """The `halve quantize` command for the first option; empty where its weights stay in 16 bits."""
        best = self.options[0]
        scheme = best.precision.scheme
        if scheme.dense:
            return ""
        layout = " --layout gguf" if best.machine.kind in ("cpu", "apple") else ""
        calibrate = " --calibrate builtin" if scheme.needs_calibration else ""
        published = re.match(r"config\.json of (\S+?),? ", self.subject.shape.source)
        source = published[1] if published else self.model
        out = f"{Path(source).name}-{scheme.name}"
        command = f"halve quantize {shlex.quote(source)} {shlex.quote(out)} --scheme {scheme.name}{layout}{calibrate}"
        if best.machine.kind == "npu":  # RKLLM rounds 16-bit folders itself: on the grid that they are on already
            command += f" && halve convert {shlex.quote(out)} {shlex.quote(out)}-bf16 --layout dense --scheme bf16"
        return command

    @property
    def summary(self) -> str:
        """The model in a line."""
        shape = self.subject.shape
        stored = f"; {self.subject.stored / 1e9:.2f} GB in its files" if self.subject.stored is not None else ""
        return (
            f"{shape.name}: {shape.count / 1e9:.3g} B weights, {shape.active / 1e9:.3g} B a token, "
            f"{shape.cached(1):,.0f} numbers cached a token{stored}"
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        shape = self.subject.shape
        return {
            "model": {
                "name": shape.name,
                "source": shape.source,
                "weights": shape.count,
                "active": shape.active,
                "stored_bytes": self.subject.stored,
            },
            "request": {
                "prompt": self.request.prompt,
                "output": self.request.output,
                "ttft_s": self.request.ttft,
                "tpot_s": self.request.tpot,
                "batch": self.request.batch,
                "utilisation": self.request.utilisation,
            },
            "options": [option.to_json() for option in self.options],
            "left": [{"machine": name, "why": why} for name, why in self.left],
            "command": self.command or None,
        }


def serve(
    model: str | Path,
    *,
    hardware: str | Sequence[str] = "all",
    scheme: Sequence[str] = (),
    ttft: float | None = None,
    tpot: float | None = None,
    context: int = CONTEXT + OUTPUT,
    output: int = OUTPUT,
    batch: int | None = None,
    utilisation: float = UTILISATION,
) -> ServingPlan:
    """Plan how to serve ``model`` (folder, GGUF, config.json, ``org/name`` or a published name).

    ``hardware``: names, ``all``, or ``this`` for the machine that this runs on. ``ttft``, ``tpot``: limits in seconds.
    ``context`` tokens hold the prompt and ``output``; ``batch`` requests run at once, all groups together, by default
    as many as pay. Raises UnknownNameError, and PlanError with what would fit where nothing does.
    """
    for name in scheme:
        schemes.get(name)
    request = Request(
        prompt=context - output, output=output, ttft=ttft, tpot=tpot, batch=batch, utilisation=utilisation
    )
    names = [hardware] if isinstance(hardware, str) else list(hardware)
    chosen: dict[str, Machine] = {}
    for name in names:
        if name == "all":
            chosen |= machines()
        else:
            machine = this_machine() if name == "this" else find(name)
            chosen[machine.name] = machine
    what = subject(model)
    found = search(what.shape, chosen.values(), request, only=scheme)
    meeting = [option for option in found if option.excess <= 1]
    if not meeting:
        raise _refused(what.shape, request, chosen, found, scheme)
    there, able = {o.machine.name for o in meeting}, {o.machine.name for o in found}
    left = [(n, _why(m, request, late=n in able)) for n, m in chosen.items() if n not in there]
    return ServingPlan(model=str(model), subject=what, request=request, options=tuple(meeting), left=tuple(left))


def _why(machine: Machine, request: Request, *, late: bool) -> str:
    if late:
        return "misses the limits"
    if machine.bandwidth_gbs.value is None or machine.memory_gb.value is None:
        return "memory or bandwidth not known"
    if machine.kind in HOSTED and (request.batch or 1) > 1:
        return "planned for one request at a time only"
    return "does not fit, or has none of the schemes"


def _refused(
    shape: Shape,
    request: Request,
    chosen: dict[str, Machine],
    found: Sequence[Option],
    scheme: Sequence[str],
) -> PlanError:
    """What to say where nothing serves: the nearest miss, or what would fit."""
    where = ", ".join(list(chosen)[:3]) + (" ..." if len(chosen) > 3 else "")
    if found:
        best = found[0]
        ttft = "unknown" if best.ttft is None else f"{best.ttft:.3g} s"
        return PlanError(
            f"{shape.name} meets these limits nowhere on {where}",
            hint=f"nearest: {best.machine.name}, {best.precision.scheme.name}, {best.parallel.name}: "
            f"TTFT {ttft}, TPOT {best.tpot * 1e3:.3g} ms; relax the limits, or the context",
        )
    needs = {
        precision.scheme.name: weight_bytes(shape, precision)
        for machine in chosen.values()
        for precision in precisions(machine)
    }
    at_once = f", {request.batch} requests at once," if request.batch else ""
    least = min(needs.items(), key=lambda item: item[1]) if needs else ("none", 0)
    fitting = search(shape, [m for m in machines().values() if m.kind not in HOSTED], request, only=scheme)
    would = sorted(fitting, key=lambda option: option.parallel.devices * option.capacity)[:3]
    hint = "; ".join(f"{o.parallel.devices} x {o.machine.name} in {o.precision.scheme.name}" for o in would)
    return PlanError(
        f"{shape.name} with {request.prompt + request.output} tokens{at_once} fits nowhere on {where}: "
        f"its weights alone take {least[1] / 1e9:.3g} GB in {least[0]}",
        hint=f"would fit: {hint}" if hint else "no machine in the table holds it; shorten the context",
    )
