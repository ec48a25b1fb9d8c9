"""What a machine runs of the schemes that a job names."""

import logging
from collections.abc import Sequence

from halve import hardware, schemes
from halve.errors import UnsupportedError
from halve.hardware.this_machine import this_machine
from halve.plan.precision import support

logger = logging.getLogger("halve")


def runnable(machine: str | None, wanted: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Those of the schemes ``allowed`` that ``machine`` (None: any) has the formats of, natively or by expanding them.

    Raises UnsupportedError where it lacks those of a scheme that is ``wanted``, UnknownNameError for unknown names.
    """
    if machine is None:
        return tuple(allowed)
    row = this_machine() if machine == "this" else hardware.find(machine)
    lacking = {}
    for name in (*wanted, *allowed):
        found = support(row, schemes.get(name))
        if found.level == "absent":
            lacking[name] = found.why or "absent"
    for name in wanted:
        if name in lacking:
            able = [one for one in schemes.SCHEMES if support(row, schemes.get(one)).level == "native"]
            raise UnsupportedError(
                f"{row.name} does not run {name}: {lacking[name]}", hint=f"it runs {', '.join(able) or 'none of them'}"
            )
    for name, why in lacking.items():
        logger.warning("%s is left out: %s does not run it (%s)", name, row.name, why)
    return tuple(name for name in allowed if name not in lacking)
