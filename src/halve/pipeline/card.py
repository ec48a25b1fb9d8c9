"""The model card: what a checkpoint is, how it was made, what that cost and what runs it. Hugging Face's README.md.

The same job gives the same bytes: no date, no machine and no path of the user's is in it. Metadata keys are those of
https://huggingface.co/docs/hub/model-cards; ``base_model`` is given for sources from the hub only, which refuses cards
whose base is a path.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite
from pathlib import Path
from statistics import fmean

import jinja2
import yaml

import halve
from halve import document, schemes
from halve.checkpoint.place import Place
from halve.errors import CheckpointError, OutputError
from halve.evaluate.depth import kind
from halve.evaluate.evaluation import Evaluation
from halve.pipeline.loss import TensorLoss
from halve.pipeline.plan import Plan
from halve.pipeline.serving import Serving, servings
from halve.schemes import Scheme
from halve.schemes.recipe import Recipe

BEGIN, END = "<!-- halve eval: begin -->", "<!-- halve eval: end -->"
WORST = 10  # tensors to name
_EXCEPTIONS = 8  # that a command may spell out; of more, halve.json is the shorter way
_CACHED = re.compile(r"models--(.+?)--(.+)")  # a repository in the cache of huggingface_hub


@dataclass(frozen=True, slots=True)
class Origin:
    """What a checkpoint was made from."""

    name: str  # of its folder or file; org/name on the hub
    sha256: str  # of its weights
    repository: str = ""  # org/name, where it comes from the hub
    revision: str = ""
    path: str = ""  # where it lies; never told

    @property
    def spec(self) -> str:
        """What `halve quantize` calls it."""
        return f"{self.repository}@{self.revision}" if self.repository and self.revision else self.name


def origin(path: Place, sha256: str) -> Origin:
    """The origin at ``path``, a checkpoint's folder or file; snapshots in the hub's cache are called by their names."""
    real = path.resolve()
    cached = _CACHED.fullmatch(real.parent.parent.name) if real.parent.name == "snapshots" else None
    if cached is None:
        return Origin(real.name, sha256, path=str(path))
    repository = f"{cached[1]}/{cached[2]}"
    return Origin(repository, sha256, repository, real.name, str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """All that a card says."""

    origin: Origin
    command: str
    architecture: str
    schemes: Mapping[Scheme, int]  # scheme, as bound -> tensors in it, the most frequent first
    recipe: Recipe
    layout: str
    lossy: str  # what the layout stores with less precision than the scheme has
    engines: tuple[str, ...]
    weight_files: tuple[str, ...]
    bytes: int  # of the weight files
    source_bytes: int  # of the tensors that they were made from
    bpw: float  # bits per quantized weight, scales included
    losses: tuple[TensorLoss, ...]
    kept: tuple[tuple[str, str], ...]  # tensor, why it is not quantized
    warnings: tuple[str, ...] = ()
    converted: str = ""  # the layout of a source that was quantized already, and kept its codes

    @property
    def label(self) -> str:
        """The schemes, in short."""
        return " + ".join(scheme.name or scheme.weight.element for scheme in self.schemes)

    @property
    def dense(self) -> bool:
        """Whether nothing is quantized, but cast."""
        return all(scheme.dense for scheme in self.schemes)

    @property
    def servings(self) -> list[Serving]:
        """What runs it."""
        return servings(self.engines, self.weight_files)


def facts_of(
    job: Plan,
    origin: Origin,
    *,
    weight_files: Sequence[str],
    nbytes: int,
    losses: Sequence[TensorLoss],
    warnings: Sequence[str] = (),
    converted: str = "",
) -> CardFacts:
    """The facts of ``job``, which wrote ``nbytes`` into ``weight_files``; ``converted`` is the source's layout."""
    used = Counter(tensor.scheme for tensor in job.quantized if tensor.scheme) or Counter({job.scheme: 0})
    said = [job.layout.supports(scheme) for scheme in used]
    architectures = job.config.get("architectures")
    return CardFacts(
        origin=origin,
        command=_convert(job.layout.name, origin) if converted else _quantize(job.recipe, origin),
        converted=converted,
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        schemes=dict(used.most_common()),
        recipe=job.recipe,
        layout=job.layout.name,
        lossy="; ".join(dict.fromkeys(support.lossy for support in said if support.lossy)),
        engines=tuple(e for e in said[0].engines if all(e in support.engines for support in said)),
        weight_files=tuple(weight_files),
        bytes=nbytes,
        source_bytes=sum(tensor.source.nbytes for tensor in job.tensors),
        bpw=job.bpw,
        losses=tuple(losses),
        kept=tuple((tensor.source.name, tensor.why) for tensor in job.tensors if tensor.scheme is None),
        warnings=tuple(text.replace(origin.path, origin.name) if origin.path else text for text in warnings),
    )


def _quantize(recipe: Recipe, origin: Origin) -> str:
    """The command that makes the same bytes from ``origin``."""
    words = ["halve", "quantize", origin.spec, "OUT"]
    exceptions = len(recipe.ignore) + len(recipe.include) + len(recipe.overrides)
    if exceptions > _EXCEPTIONS:
        words += ["--recipe", "halve.json"]
    else:
        words += ["--scheme", recipe.scheme, "--layout", recipe.layout]
        if not schemes.get(recipe.scheme).dense:
            words += ["--rule", recipe.rule] if recipe.rule else []
            words += ["--algorithm", recipe.algorithm]
        words += [word for name in recipe.transforms for word in ("--transform", name)]
        words += [word for name in recipe.ignore for word in ("--ignore", name)]
        words += [word for name in recipe.include for word in ("--include", name)]
        words += [word for name, scheme in recipe.overrides for word in ("--override", f"{name}={scheme}")]
        words += ["--on-nonfinite", recipe.on_nonfinite] * (recipe.on_nonfinite != "error")
    words += ["--stats", "STATS"] * bool(recipe.statistics)
    return shlex.join(words)


def _convert(layout: str, origin: Origin) -> str:
    return shlex.join(["halve", "convert", origin.spec, "OUT", "--layout", layout])


def render(facts: CardFacts) -> str:
    """The card."""
    lost = sorted((loss for loss in facts.losses if isfinite(loss.sqnr_db)), key=lambda loss: loss.sqnr_db)
    return (
        _environment()
        .get_template("card.md.jinja")
        .render(
            facts=facts,
            metadata=yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True, width=2**31),
            version=halve.__version__,
            kinds=list(_kinds(lost)),
            worst=lost[:WORST],
            lossless=len(facts.losses) - len(lost),
            kept=_kept(facts.kept),
            evaluation=_section(""),
        )
    )


def with_evaluation(readme: str, evaluation: Evaluation) -> str:
    """``readme`` with its section on evaluation added or replaced; whatever else was written there stays."""
    text = _environment().get_template("card_evaluation.md.jinja").render(evaluation=evaluation)
    section = _section(text.strip())
    begin = readme.find(BEGIN)
    end = readme.find(END, begin) if begin >= 0 else -1
    if end < 0:
        return (
            f"{readme.rstrip()}\n\n## Evaluation\n\n{section}\n" if readme.strip() else f"## Evaluation\n\n{section}\n"
        )
    return readme[:begin] + section + readme[end + len(END) :]


def add_evaluation(folder: Path, evaluation: Evaluation) -> Path | None:
    """Put ``evaluation`` into the card of the checkpoint ``folder``; None where it has no card of halve's.

    Raises OutputError where the card cannot be written.
    """
    file = folder / "README.md"
    try:
        readme = document.text(file, document.CONFIG_LIMIT)
        if BEGIN not in readme:
            return None
        file.write_text(with_evaluation(readme, evaluation), encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, CheckpointError) as error:
        raise OutputError(
            f"{file}: the evaluation cannot be added: {error}", hint="mend the file or remove it"
        ) from None
    return file


def _section(text: str) -> str:
    return f"{BEGIN}\n{text or 'Not measured yet; `halve eval OUT --against SRC` measures it.'}\n{END}"


def _metadata(facts: CardFacts) -> dict[str, object]:
    """What the hub reads. Keys without a value are left out: it refuses some that are empty."""
    libraries = [serving.library for serving in facts.servings if serving.library]
    metadata: dict[str, object] = {}
    if facts.origin.repository:
        metadata["base_model"] = facts.origin.repository
        if not facts.dense:
            metadata["base_model_relation"] = "quantized"
    if libraries:
        metadata["library_name"] = "transformers" if "transformers" in libraries else libraries[0]
    if facts.architecture.endswith("ForCausalLM"):
        metadata["pipeline_tag"] = "text-generation"
    names = [scheme.name or scheme.weight.element for scheme in facts.schemes]
    metadata["tags"] = list(dict.fromkeys(["halve", *names, facts.layout, *libraries]))
    return metadata


def _kinds(losses: Sequence[TensorLoss]) -> Iterator[tuple[str, list[float]]]:
    """SQNR in dB by kind of layer, in the order of their names."""
    found: dict[str, list[float]] = {}
    for loss in losses:
        found.setdefault(kind(loss.name), []).append(loss.sqnr_db)
    yield from sorted(found.items())


def _kept(kept: Sequence[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Why, tensors (numbers of layers and experts as ``*``), how many: as in the checkpoint."""
    counts = Counter((why, re.sub(r"(?<=\.)\d+(?=\.)", "*", name)) for name, why in kept)
    return [(why, name, count) for (why, name), count in counts.items()]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(  # noqa: S701 - Markdown, escaped by the filters below
        loader=jinja2.FunctionLoader(lambda name: files("halve.pipeline").joinpath(name).read_text("utf-8")),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"code": _code, "prose": _prose, "fenced": _fenced, "mean": fmean, "size": _size}
    return environment


def _code(text: object) -> str:
    """``text`` as a code span, fit for a cell of a table."""
    line = " ".join(str(text).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}" if line else ""


def _prose(text: object) -> str:
    """``text`` as words in which nothing is markup but code between backticks, fit for a cell of a table."""
    line = " ".join(str(text).split())
    # An underscore within a word is no markup; everywhere else CommonMark lets a backslash stand before it.
    return re.sub(
        r"`([^`]+)`|[`<>\[\]|\\*]|(?<!\w)_|_(?!\w)",
        lambda found: _code(found[1]) if found[1] else f"\\{found[0]}",
        line,
    )


def _fenced(text: str, language: str) -> str:
    """``text`` as a block of code."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.1f} MB"
