"""Generate greedily with vLLM on the CPU; runs in the peer `vllm`.

    vllm_generate.py PATH PROMPTS.json OUT.json [--tokens N]

PROMPTS is a list of lists of token ids; OUT gets a list of the N ids that follow each.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_CPU_KVCACHE_SPACE="1",  # GB
    VLLM_CPU_OMP_THREADS_BIND="nobind",  # bound threads starve on a busy machine
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
)

from vllm import LLM, SamplingParams


def main() -> None:
    """Load, generate, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of the checkpoint")
    parser.add_argument("prompts", type=Path, metavar="PROMPTS", help="JSON file to read")
    parser.add_argument("out", type=Path, metavar="OUT", help="JSON file to write")
    parser.add_argument("--tokens", type=int, default=8, metavar="N", help="to generate after each prompt")
    args = parser.parse_args()
    model = LLM(str(args.path), enforce_eager=True, max_model_len=512, disable_log_stats=True)
    greedy = SamplingParams(temperature=0, max_tokens=args.tokens, ignore_eos=True)
    prompts = [{"prompt_token_ids": ids} for ids in json.loads(args.prompts.read_text())]
    outputs = model.generate(prompts, greedy, use_tqdm=False)
    args.out.write_text(json.dumps([list(output.outputs[0].token_ids) for output in outputs]) + "\n")


if __name__ == "__main__":
    main()
