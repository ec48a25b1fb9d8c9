"""Layer tables of the models in published tables of NPU speeds, from architectures that packages define.

    python benchmarks/edge_layers.py src/halve/edge/data/models.json [NAME ...]

No weights are needed: modules are built with random ones, exported to ONNX and read as `halve edge check` reads a
model. Detectors are cut where the vendor's exports end: the convolutions of the heads, without decoding of boxes
(https://github.com/airockchip/rknn_model_zoo). Needs torch, timm, transformers, ultralytics, and the sources of yolox,
yolov6detect, super-gradients and retinaface-pytorch on PYTHONPATH. NAMEs that the file holds are replaced in it.
"""

import argparse
import importlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from torch import nn

from halve.edge import layers
from halve.edge.models import dump, load

OPSET = 17  # the first with LayerNormalization


@dataclass(frozen=True)
class Source:
    """A module, what it is fed, and where its architecture is published."""

    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    text: str


def heads(*convolutions: str) -> Callable[[nn.Module, list[torch.Tensor]], list[torch.Tensor]]:
    """A forward of ultralytics' heads that ends with their convolutions; scores (the second) behind a sigmoid."""

    def forward(self: nn.Module, x: list[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for level, features in enumerate(x):
            for index, name in enumerate(convolutions):
                y = getattr(self, name)[level](features)
                found.append(y.sigmoid() if index == 1 else y)
        return [*found, self.proto(x[0])] if hasattr(self, "proto") else found

    return forward


class Anchored(nn.Module):
    """YOLOv5's own head, one convolution a level.

    https://github.com/ultralytics/yolov5/blob/v7.0/models/yolo.py
    """

    def __init__(self, channels: list[int], outputs: int, prototypes: int) -> None:
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(c, 3 * outputs, 1) for c in channels)
        self.proto = self._proto(channels[0], prototypes) if prototypes else None

    @staticmethod
    def _proto(channels: int, width: int) -> nn.Module:
        from ultralytics.nn.modules import Conv

        return nn.Sequential(
            Conv(channels, width, 3), nn.Upsample(scale_factor=2), Conv(width, width, 3), Conv(width, 32, 1)
        )

    def forward(self, x: list[torch.Tensor]) -> list[torch.Tensor]:
        """Sigmoids of the convolutions."""
        found = [one(y).sigmoid() for one, y in zip(self.m, x, strict=True)]
        return [*found, self.proto(x[0])] if self.proto is not None else found


def yolov5(scale: str, *, masks: bool = False, relu: bool = False) -> nn.Module:
    """The v6.0 backbone and neck of ultralytics' yaml, with the head of YOLOv5 v7.0."""
    model = yolo(f"yolov5{scale}.yaml")
    old = model.model[-1]
    width = {"n": 64, "s": 128, "m": 192}[scale]
    channels = [one[0].conv.in_channels for one in old.cv2]
    head = Anchored(channels, 117 if masks else 85, width if masks else 0)
    head.i, head.f = old.i, old.f
    model.model[-1] = head
    if relu:
        for module in model.modules():
            if isinstance(getattr(module, "act", None), nn.SiLU):
                module.act = nn.ReLU()
    return model


def yolo(config: str, *convolutions: str, task: str = "DetectionModel") -> nn.Module:
    """A model of ultralytics, cut behind ``convolutions`` of its head."""
    from ultralytics.nn import tasks

    model = getattr(tasks, task)(config, verbose=False).eval()
    if convolutions:
        head = model.model[-1]
        head.forward = heads(*convolutions).__get__(head)
    return model


class World(nn.Module):
    """YOLO-World with its texts, 80 embeddings of 512, as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.model = yolo("yolov8s-worldv2.yaml", task="WorldModel")
        head = self.model.model[-1]

        def forward(x: list[torch.Tensor], text: torch.Tensor) -> list[torch.Tensor]:
            return [y for i, z in enumerate(x) for y in (head.cv2[i](z), head.cv4[i](head.cv3[i](z), text).sigmoid())]

        head.forward = forward

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the heads."""
        return self.model.predict(image, txt_feats=text)


def yolov6(scale: str) -> nn.Module:
    """YOLOv6 3.0 as it is deployed: branches of RepVGG blocks merged."""
    from yolov6.layers.common import RepVGGBlock
    from yolov6.models.yolo import Model
    from yolov6.utils.config import Config

    folder = Path(importlib.import_module("yolov6").__file__ or "").parent / "configs"
    config = Config.fromfile(str(folder / f"yolov6{scale}.py"))
    config.training_mode = config.get("training_mode", "repvgg")  # what its train.py sets where there is none
    model = Model(config, num_classes=80, fuse_ab=False, distill_ns=scale in "ns").eval()
    for module in model.modules():
        if isinstance(module, RepVGGBlock):
            module.switch_to_deploy()
    head = model.detect

    def forward(x: list[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        regress = head.reg_preds_dist if hasattr(head, "reg_preds_dist") and scale not in "ns" else head.reg_preds
        for i in range(head.nl):
            y = head.stems[i](x[i])
            found += [regress[i](head.reg_convs[i](y)), head.cls_preds[i](head.cls_convs[i](y)).sigmoid()]
        return found

    head.forward = forward
    return nn.Sequential(model.backbone, model.neck, head)


def yolox(depth: float, width: float) -> nn.Module:
    """YOLOX of Megvii's package, heads without decoding."""
    from yolox.models import YOLOPAFPN, YOLOXHead

    head = YOLOXHead(80, width)

    def forward(x: list[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for i, features in enumerate(x):
            y = head.stems[i](features)
            regress = head.reg_convs[i](y)
            parts = [head.reg_preds[i](regress), head.obj_preds[i](regress).sigmoid()]
            found.append(torch.cat([*parts, head.cls_preds[i](head.cls_convs[i](y)).sigmoid()], 1))
        return found

    head.forward = forward
    return nn.Sequential(YOLOPAFPN(depth, width), head)


def ppyoloe(scale: str) -> nn.Module:
    """PP-YOLOE+ of super-gradients, RepVGG branches merged, heads without decoding."""
    import yaml
    from super_gradients.training.models.detection_models.csp_resnet import CSPResNetBackbone
    from super_gradients.training.models.detection_models.pp_yolo_e.pan import PPYoloECSPPAN
    from super_gradients.training.models.detection_models.pp_yolo_e.pp_yolo_head import PPYOLOEHead

    folder = Path(importlib.import_module("super_gradients").__file__ or "").parent / "recipes/arch_params"
    text = yaml.safe_load((folder / "ppyoloe_arch_params.yaml").read_text())
    own = yaml.safe_load((folder / f"ppyoloe_{scale}_arch_params.yaml").read_text())
    multipliers = {key: own[key] for key in ("depth_mult", "width_mult")}
    backbone = CSPResNetBackbone(**text["backbone"] | multipliers | {"pretrained_weights": None})
    neck = PPYoloECSPPAN(**text["neck"] | multipliers)
    head = PPYOLOEHead(**text["head"] | {"width_mult": multipliers["width_mult"], "num_classes": 80})
    for module in (*backbone.modules(), *neck.modules()):
        if hasattr(module, "fuse_block_residual_branches"):
            module.fuse_block_residual_branches()

    def forward(x: list[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for i, features in enumerate(x):
            pooled = nn.functional.adaptive_avg_pool2d(features, (1, 1))
            found.append(head.pred_cls[i](head.stem_cls[i](features, pooled) + features).sigmoid())
            found.append(head.pred_reg[i](head.stem_reg[i](features, pooled)))
        return found

    head.forward = forward
    return nn.Sequential(backbone, neck, head)


def yolo_nas() -> nn.Module:
    """YOLO-NAS-M of super-gradients, branches merged, heads without decoding."""
    from super_gradients.training import models

    model = models.get("yolo_nas_m", num_classes=80)
    model.eval()
    model.prep_model_for_conversion(input_size=(1, 3, 640, 640))

    def forward(x: list[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for i, features in enumerate(x):
            head = getattr(model.heads, f"head{i + 1}")
            stem = head.stem(features)
            found += [head.cls_pred(head.cls_convs(stem)).sigmoid(), head.reg_pred(head.reg_convs(stem))]
        return found

    model.heads.forward = forward
    return nn.Sequential(model.backbone, model.neck, model.heads)


class SamDecoder(nn.Module):
    """The mask decoder of MobileSAM on 28 x 28 features with a point or a box, as its encoder for 448 x 448 gives."""

    def __init__(self) -> None:
        super().__init__()
        from ultralytics.models.sam.modules.decoders import MaskDecoder
        from ultralytics.models.sam.modules.transformer import TwoWayTransformer

        transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
        self.decoder = MaskDecoder(transformer_dim=256, transformer=transformer)

    def forward(
        self, image: torch.Tensor, position: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks and their quality."""
        return self.decoder.predict_masks(image, position, sparse, dense)


class LPRNet(nn.Module):
    """Zherzdev and Gruzdev, arXiv 1806.10447, as https://github.com/sirius-ai/LPRNet_Pytorch sets it up, 68 classes.

    Its poolings over channels are slices and maxima.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU())
        self.second = nn.Sequential(self._block(64, 128), nn.ReLU())
        self.third = nn.Sequential(self._block(64, 256), nn.ReLU(), self._block(256, 256), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(64, 256, (1, 4)), nn.ReLU(), nn.Conv2d(256, 68, (13, 1)), nn.ReLU())
        self.container = nn.Conv2d(64 + 128 + 256 + 68, 68, 1)

    @staticmethod
    def _block(old: int, new: int) -> nn.Module:
        part = new // 4
        return nn.Sequential(
            nn.Conv2d(old, part, 1), nn.ReLU(), nn.Conv2d(part, part, (3, 1), padding=(1, 0)), nn.ReLU(),
            nn.Conv2d(part, part, (1, 3), padding=(0, 1)), nn.ReLU(), nn.Conv2d(part, new, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of each position."""
        pool = nn.functional.max_pool2d
        first = self.first(x)
        second = self.second(pool(first, 3, 1))
        third = self.third(pool(second, 3, (1, 2))[:, ::2])
        last = self.last(pool(third, 3, (1, 2))[:, ::4])
        size = last.shape[2:]
        parts = [nn.functional.avg_pool2d(first, 5, 5), nn.functional.avg_pool2d(second, 5, 5)]
        parts += [nn.functional.avg_pool2d(third, (4, 10), (4, 2)), last]
        scaled = [one / one.pow(2).mean() for one in parts]
        fitted = [nn.functional.interpolate(one, size=size) if one.shape[2:] != size else one for one in scaled]
        return self.container(torch.cat(fitted, 1)).mean(2)


def retinaface() -> nn.Module:
    """RetinaFace on ResNet-50 of the package retinaface-pytorch."""
    from retinaface.network import RetinaFace

    layers_ = {"layer2": 1, "layer3": 2, "layer4": 3}
    return RetinaFace("Resnet50", pretrained=False, in_channels=256, return_layers=layers_, out_channels=256)


class Mobile(nn.Module):
    """RetinaFace on a quarter of MobileNetV1, with the package's own FPN and SSH.

    Backbone: https://github.com/biubug6/Pytorch_Retinaface, models/net.py.
    """

    WIDTHS = ((8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)), (
        (64, 128, 2), (128, 128, 1), (128, 128, 1), (128, 128, 1), (128, 128, 1), (128, 128, 1),
    ), ((128, 256, 2), (256, 256, 1))  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        from retinaface.net import FPN, SSH

        stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.1))
        stages = [nn.Sequential(*(self._block(*one) for one in stage)) for stage in self.WIDTHS]
        self.stages = nn.ModuleList([nn.Sequential(stem, stages[0]), *stages[1:]])
        self.fpn = FPN([64, 128, 256], 64)
        self.ssh = nn.ModuleList(SSH(64, 64) for _ in range(3))
        self.heads = nn.ModuleList(nn.ModuleList(nn.Conv2d(64, 2 * n, 1) for n in (4, 2, 10)) for _ in range(3))

    @staticmethod
    def _block(old: int, new: int, stride: int) -> nn.Module:
        depthwise = nn.Conv2d(old, old, 3, stride, 1, groups=old)
        return nn.Sequential(depthwise, nn.LeakyReLU(0.1), nn.Conv2d(old, new, 1), nn.LeakyReLU(0.1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Boxes, scores, landmarks."""
        features = {}
        for index, stage in enumerate(self.stages):
            features[index] = x = stage(x)
        levels = [ssh(y) for ssh, y in zip(self.ssh, self.fpn(features), strict=True)]
        parts = []
        for kind, width in enumerate((4, 2, 10)):
            flat = [
                head[kind](y).permute(0, 2, 3, 1).reshape(1, -1, width)
                for head, y in zip(self.heads, levels, strict=True)
            ]
            parts.append(torch.cat(flat, 1))
        return parts[0], parts[1].softmax(-1), parts[2]


def mobile_sam() -> nn.Module:
    """The image encoder of MobileSAM for 448 x 448, as build_mobile_sam sets it up."""
    from ultralytics.models.sam.modules.tiny_encoder import TinyViT

    return TinyViT(
        img_size=448, in_chans=3, num_classes=1000, embed_dims=[64, 128, 160, 320], depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10], window_sizes=[7, 7, 14, 7], mlp_ratio=4.0, drop_rate=0.0, drop_path_rate=0.0,
        use_checkpoint=False, mbconv_expand_ratio=4.0, local_conv_size=3, layer_lr_decay=0.8,
    )  # fmt: skip


def clip() -> nn.Module:
    """The image side of CLIP ViT-B/32."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, patch_size=32)
    config._attn_implementation = "eager"  # noqa: SLF001 - plain products, which ONNX has
    return First(CLIPVisionModelWithProjection(config), "image_embeds")


def wav2vec2() -> nn.Module:
    """Wav2Vec2 base with its CTC head."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config()
    config._attn_implementation = "eager"  # noqa: SLF001 - plain products, which ONNX has
    return First(Wav2Vec2ForCTC(config), "logits")


class First(nn.Module):
    """One output of a model of transformers."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """That output."""
        return getattr(self.model(x), self.output)


def timm_model(name: str) -> nn.Module:
    """A model of timm."""
    import timm

    return timm.create_model(name, pretrained=False)


def text_of(package: str, what: str) -> str:
    """The source of an architecture, as the table names it."""
    return f"{package} {version(package)}: {what}"


def sources() -> dict[str, Source]:
    """Names as in published tables -> how to build them."""
    image, large = ((1, 3, 224, 224),), ((1, 3, 640, 640),)
    found = {
        "mobilenetv2-12": Source(lambda: timm_model("mobilenetv2_100"), image, text_of("timm", "mobilenetv2_100")),
        "resnet50-v2-7": Source(lambda: timm_model("resnetv2_50"), image, text_of("timm", "resnetv2_50")),
        "resnet50-v1": Source(lambda: timm_model("resnet50"), image, text_of("timm", "resnet50")),
        "yolov5s_relu": Source(
            lambda: yolov5("s", relu=True), large, text_of("ultralytics", "yolov5.yaml, head of YOLOv5 v7.0, ReLU")
        ),
        "yolo_world_v2s": Source(World, (*large, (1, 80, 512)), text_of("ultralytics", "yolov8-worldv2.yaml")),
        "RetinaFace_mobile320": Source(
            Mobile, ((1, 3, 320, 320),), "biubug6/Pytorch_Retinaface; retinaface-pytorch 0.0.8"
        ),
        "RetinaFace_resnet50_320": Source(retinaface, ((1, 3, 320, 320),), "retinaface-pytorch 0.0.8"),
        "mobilesam_encoder_tiny": Source(
            mobile_sam, ((1, 3, 448, 448),), text_of("ultralytics", "sam/build.py, mobile_sam")
        ),
        "mobilesam_decoder": Source(
            SamDecoder,
            ((1, 256, 28, 28), (1, 256, 28, 28), (1, 2, 256), (1, 256, 28, 28)),
            text_of("ultralytics", "sam/modules/decoders.py"),
        ),
        "lprnet": Source(LPRNet, ((1, 3, 24, 94),), "arXiv 1806.10447, sirius-ai/LPRNet_Pytorch"),
        "yolo-nas-m": Source(yolo_nas, large, "super-gradients 3.7.1: yolo_nas_m"),
        "clip_images": Source(clip, image, text_of("transformers", "CLIPVisionModelWithProjection, ViT-B/32")),
        "wav2vec2_base_960h_20s": Source(wav2vec2, ((1, 320000),), text_of("transformers", "Wav2Vec2ForCTC, base")),
    }
    for scale in "nsm":
        cut = "yolov5.yaml, head of YOLOv5 v7.0"
        found[f"yolov5{scale}"] = Source(lambda s=scale: yolov5(s), large, text_of("ultralytics", cut))
        found[f"yolov5{scale}-seg"] = Source(lambda s=scale: yolov5(s, masks=True), large, text_of("ultralytics", cut))
        found[f"yolov6{scale}"] = Source(lambda s=scale: yolov6(s), large, "yolov6detect 0.4.1: YOLOv6 3.0")
        found[f"yolov8{scale}"] = _ultralytics(f"yolov8{scale}", "cv2", "cv3")
        found[f"yolov8{scale}-seg"] = _ultralytics(f"yolov8{scale}-seg", "cv2", "cv3", "cv4", task="SegmentationModel")
        found[f"yolov10{scale}"] = _ultralytics(f"yolov10{scale}", "one2one_cv2", "one2one_cv3")
        found[f"yolo11{scale}"] = _ultralytics(f"yolo11{scale}", "cv2", "cv3")
    found["yolo26s"] = _ultralytics("yolo26s", "one2one_cv2", "one2one_cv3")
    found["yolov8n-pose"] = _ultralytics("yolov8n-pose", "cv2", "cv3", "cv4", task="PoseModel")
    found["yolov8n-obb"] = _ultralytics("yolov8n-obb", "cv2", "cv3", "cv4", task="OBBModel")
    for scale, sizes in {"s": (0.33, 0.5), "m": (0.67, 0.75)}.items():
        found[f"yolox_{scale}"] = Source(lambda m=sizes: yolox(*m), large, "yolox 0.2.0")
        found[f"ppyoloe_{scale}"] = Source(lambda s=scale: ppyoloe(s), large, "super-gradients 3.7.1: PP-YOLOE")
    return found


def _ultralytics(name: str, *convolutions: str, task: str = "DetectionModel") -> Source:
    def build() -> nn.Module:
        return yolo(f"{name}.yaml", *convolutions, task=task)

    return Source(build, ((1, 3, 640, 640),), text_of("ultralytics", f"{name}.yaml, heads without decoding"))


def table(source: Source) -> layers.Table:
    """Its layers."""
    module = source.build().eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    inputs = tuple(torch.zeros(shape) for shape in source.inputs)
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        torch.onnx.export(module, inputs, file.name, dynamo=False, opset_version=OPSET)
        return layers.table(onnx.load(file.name), file.name, {})


def main() -> None:
    """Build, export, read, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    known = sources()
    found = load(args.out) if args.out.exists() else {}
    for name in args.names or known:
        try:
            found[name] = (known[name].text, layers.merged(table(known[name]).layers))
        except Exception as error:  # noqa: BLE001 - a package that is missing or has changed leaves the others
            print(json.dumps({"model": name, "error": f"{type(error).__name__}: {error}"[:200]}), flush=True)
            continue
        macs = sum(count * layer.macs for count, layer in found[name][1])
        print(json.dumps({"model": name, "layers": len(found[name][1]), "gmacs": round(macs / 1e9, 3)}), flush=True)
        args.out.write_text(dump(found))


if __name__ == "__main__":
    main()
