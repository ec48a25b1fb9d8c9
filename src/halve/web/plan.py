"""Data of the page Plan: what `halve plan` answers, and the command that answers it."""

import shlex
from functools import cache
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from halve import schemes
from halve.errors import UnsupportedError
from halve.hardware import FORMATS, machines
from halve.models import catalog
from halve.plan.frontier import frontiers
from halve.plan.precision import support
from halve.plan.serving import CONTEXT, OUTPUT, ServingPlan, serve

router = APIRouter(prefix="/plan")

_CURVES = 6
_Tokens = Annotated[int, Field(ge=1, le=1 << 30)]
_Seconds = Annotated[float, Field(gt=0, le=1e6)]


class Asked(BaseModel):
    """What the controls say. Names stand between commas; none: all that make sense."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    hardware: Annotated[str, Field(max_length=2048)] = ""
    scheme: Annotated[str, Field(max_length=2048)] = ""
    context: _Tokens = CONTEXT + OUTPUT
    output: _Tokens = OUTPUT
    batch: Annotated[int, Field(ge=1, le=65536)] | None = None
    ttft: _Seconds | None = None
    tpot: _Seconds | None = None

    @property
    def machines(self) -> list[str]:
        """Names of ``hardware``."""
        return list(filter(None, self.hardware.split(",")))

    @property
    def schemes(self) -> list[str]:
        """Names of ``scheme``."""
        return list(filter(None, self.scheme.split(",")))

    def plan(self) -> ServingPlan:
        """The answer. Raises as `serve` does."""
        return serve(
            self.model,
            hardware=self.machines or "all",
            scheme=self.schemes,
            ttft=self.ttft,
            tpot=self.tpot,
            context=self.context,
            output=self.output,
            batch=self.batch,
        )

    @property
    def command(self) -> str:
        """The command line with the same answer; what is the default is left out."""
        words = ["halve", "plan", self.model]
        words += [word for name in self.machines for word in ("--hardware", name)]
        words += [word for name in self.schemes for word in ("--scheme", name)]
        words += () if self.context == CONTEXT + OUTPUT else ("--context", _tokens(self.context))
        words += () if self.output == OUTPUT else ("--output", _tokens(self.output))
        words += () if self.batch is None else ("--batch", str(self.batch))
        for flag, limit in (("--ttft", self.ttft), ("--tpot", self.tpot)):
            words += () if limit is None else (flag, f"{np.format_float_positional(limit, trim='-')}s")
        return shlex.join(words)


@router.get("/choices")
@cache
def choices() -> dict[str, Any]:
    """Models, machines and schemes to choose from, and which machine multiplies which format and runs which scheme."""
    narrow = [scheme for scheme in schemes.SCHEMES.values() if not scheme.dense or scheme.weight.element == "bf16"]
    return {
        "models": [{"name": name, "weights": catalog.find(name).count} for name in catalog.names()],
        "formats": list(FORMATS),
        "schemes": [{"name": scheme.name, "about": scheme.about, "bpw": scheme.bpw} for scheme in narrow],
        "machines": [
            {
                "name": machine.name,
                "vendor": machine.vendor,
                "kind": machine.kind,
                "preliminary": machine.preliminary,
                "memory_gb": machine.memory_gb.text,
                "bandwidth_gbs": machine.bandwidth_gbs.text,
                "formats": {name: {"level": one.level, "why": one.why} for name, one in machine.formats.items()},
                "schemes": {scheme.name: support(machine, scheme).level for scheme in narrow},
            }
            for machine in machines().values()
        ],
    }


@router.get("")
def plan(request: Request, asked: Annotated[Asked, Query()]) -> dict[str, Any]:
    """``answer`` is what ``command`` prints with ``--json``; ``curves`` are the frontiers of its first machines.

    Paths are opened for this machine's own pages only; others may name published models.
    """
    if "://" in asked.model:
        raise UnsupportedError(
            f"{asked.model} is on another machine, and the pages ask nothing of others",
            hint=f"in a terminal: {asked.command}",
        )
    if not request.app.state.server.local:
        asked = asked.model_copy(update={"model": catalog.find(asked.model).name})
    found = asked.plan()
    return {"command": asked.command, "answer": found.to_json(), "curves": _curves(found)}


def _tokens(count: int) -> str:
    return str(count) if count % 1024 else f"{count // 1024}k"


def _curves(plan: ServingPlan) -> list[dict[str, Any]]:
    """Tokens a second of a device over those that a user sees, of the first machines in their best precision."""
    best = {option.machine.name: (option.machine, option.precision) for option in reversed(plan.options)}
    first = [best[name] for name in list(dict.fromkeys(option.machine.name for option in plan.options))[:_CURVES]]
    return [
        {
            "machine": curve.machine.name,
            "scheme": curve.precision.scheme.name,
            "per_user": curve.per_user.tolist(),
            "per_device": curve.per_device.tolist(),
        }
        for curve in frontiers(plan.subject.shape, first, plan.request)
    ]
