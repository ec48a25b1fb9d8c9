"""How each program that loads checkpoints is told to run one. ``OUT`` stands for the checkpoint's folder."""

from collections.abc import Sequence
from dataclasses import dataclass

_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("OUT")
model = AutoModelForCausalLM.from_pretrained("OUT", dtype="auto")"""
_TORCH = """\
import torch

tensors = torch.load("OUT/{file}", weights_only=True)"""
_ONNXRUNTIME = """\
import onnxruntime

session = onnxruntime.InferenceSession("OUT/{file}")"""


@dataclass(frozen=True, slots=True)
class Serving:
    """A program, and what starts it."""

    engine: str  # with its version, as the layout names it
    language: str  # of the lines; empty where halve knows none
    lines: str
    library: str  # what the Hugging Face hub calls it; empty where it has no such library


# Name of a program as layouts begin with it -> language, lines, and the suffixes of the file that it is given.
_PROGRAMS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "vllm": ("sh", "vllm serve OUT", (), "vllm"),
    "sglang": ("sh", "python -m sglang.launch_server --model-path OUT", (), ""),
    "tensorrt-llm": ("sh", "trtllm-serve OUT", (), ""),
    "llama.cpp": ("sh", "llama-server -m OUT/{file}", (".gguf",), "gguf"),
    "transformers": ("python", _TRANSFORMERS, (), "transformers"),
    "onnxruntime": ("python", _ONNXRUNTIME, (".onnx",), "onnx"),
    "torch": ("python", _TORCH, (".pt", ".bin"), ""),
}
_EVERY = "every engine"
_COMMON = ("vLLM", "transformers")  # to name for what every engine loads


def servings(engines: Sequence[str], weight_files: Sequence[str]) -> list[Serving]:
    """What starts each of ``engines`` (``vLLM 0.32``, ``transformers 5.17 + amd-quark 0.13``) on ``weight_files``."""
    named = [name for engine in engines for name in (_COMMON if engine == _EVERY else (engine,))]
    return [_serving(engine, weight_files) for engine in named]


def _serving(engine: str, weight_files: Sequence[str]) -> Serving:
    program = engine.split(maxsplit=1)[0].lower()
    if program not in _PROGRAMS:
        return Serving(engine, "", "", "")
    language, lines, suffixes, library = _PROGRAMS[program]
    file = next((name for name in weight_files if name.endswith(suffixes)), None) if suffixes else ""
    if file is None:  # it opens files of another kind than these
        return Serving(engine, "", "", library)
    return Serving(engine, language, lines.replace("{file}", file), library)
