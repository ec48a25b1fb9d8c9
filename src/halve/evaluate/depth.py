"""Where in a model a layer is: what kind it is of, and how deep."""

import re
from collections.abc import Iterable

_LAYER = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)\.(.+)")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def place(name: str) -> tuple[str, int] | None:
    """Kind and number of the layer of a module or tensor; None for what no decoder layer has.

    >>> place("model.layers.7.mlp.experts.12.up_proj.weight")
    ('mlp.experts.*.up_proj', 7)
    """
    found = _LAYER.fullmatch(name.removesuffix(".weight"))
    return (_NUMBER.sub("*", found[2]), int(found[1])) if found else None


def kind(name: str) -> str:
    """The kind of layer of a module or tensor; its own name for what no decoder layer has."""
    found = place(name)
    return found[0] if found else name.removesuffix(".weight")


def short(kinds: Iterable[str]) -> dict[str, str]:
    """For each of ``kinds`` the fewest last words of it that no other ends with.

    >>> short(["mlp.up_proj", "mlp.experts.*.up_proj", "self_attn.q_proj"])
    {'mlp.up_proj': 'mlp.up_proj', 'mlp.experts.*.up_proj': '*.up_proj', 'self_attn.q_proj': 'q_proj'}
    """
    words = {kind: kind.split(".") for kind in dict.fromkeys(kinds)}
    shortened = {}
    for one, parts in words.items():
        others = [other for kind, other in words.items() if kind != one]
        count = next((n for n in range(1, len(parts)) if all(other[-n:] != parts[-n:] for other in others)), len(parts))
        shortened[one] = ".".join(parts[-count:])
    return shortened
