"""Let vLLM's config parser and model classes take checkpoints for which it has no CPU kernel; runs in the peer `vllm`.

    vllm_load.py OUT.json PATH...

For each PATH the model is built as for serving, with vLLM's emulation standing where it would choose a GPU kernel, and
all tensors are loaded; nothing is computed. OUT gets, for each PATH: the format that the config names, the scheme
class that vLLM chose for the linear layers, and how many parameters came from the file. A name, shape or dtype that
vLLM does not expect, and a parameter that no tensor fills, end this with vLLM's own error.
"""

import argparse
import json
import os
from functools import partial
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_CPU_KVCACHE_SPACE="1",  # GB
    VLLM_CPU_OMP_THREADS_BIND="nobind",
)

from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.kernels.linear.mxfp4 import base as mxfp4_base
from vllm.model_executor.kernels.linear.mxfp4 import emulation as mxfp4_emulation
from vllm.model_executor.kernels.linear.nvfp4 import base as nvfp4_base
from vllm.model_executor.kernels.linear.nvfp4 import emulation as nvfp4_emulation
from vllm.model_executor.layers.quantization.compressed_tensors.schemes import (
    compressed_tensors_w4a4_mxfp4,
    compressed_tensors_w4a4_nvfp4,
)
from vllm.model_executor.model_loader import get_model_loader
from vllm.utils.network_utils import get_open_port
from vllm.utils.torch_utils import set_default_torch_dtype


def _nvfp4_kernel(*, use_a16: bool) -> object:
    del use_a16
    return nvfp4_emulation.EmulationNvFp4LinearKernel(nvfp4_base.NvFp4LinearLayerConfig())


def _mxfp4_kernel(**config: object) -> object:
    return mxfp4_emulation.EmulationMxfp4LinearKernel(mxfp4_base.MxFp4LinearLayerConfig(**config))


compressed_tensors_w4a4_nvfp4.init_nvfp4_linear_kernel = _nvfp4_kernel
compressed_tensors_w4a4_mxfp4.init_mxfp4_linear_kernel = _mxfp4_kernel
mxfp4_emulation.has_quark = partial(bool, True)  # it is amd-quark that would compute


def loaded(config: VllmConfig) -> dict[str, object]:
    """Build the model of a config and load its tensors."""
    loader = get_model_loader(config.load_config)
    with set_default_torch_dtype(config.model_config.dtype):
        model = loader.create_model(config, config.model_config)
    filled = model.load_weights(loader.get_all_weights(config.model_config, model))
    count = len(filled)
    loader.track_weights_loading(model, filled, quantized=True)  # raises where a parameter was left out
    schemes = {type(module.scheme).__name__ for module in model.modules() if hasattr(module, "scheme")}
    return {"format": config.quant_config.quant_format, "schemes": sorted(schemes), "parameters": count}


def main() -> None:
    """Load all, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="JSON file to write")
    parser.add_argument("paths", type=Path, metavar="PATH", nargs="+", help="folders of checkpoints")
    args = parser.parse_args()
    found = []
    for i, path in enumerate(args.paths):
        config = EngineArgs(model=str(path), enforce_eager=True, max_model_len=512).create_engine_config()
        with set_current_vllm_config(config):
            if i == 0:
                address = f"tcp://127.0.0.1:{get_open_port()}"
                init_distributed_environment(1, 0, address, 0, "gloo")
                initialize_model_parallel(1)
            found.append(loaded(config))
    args.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
