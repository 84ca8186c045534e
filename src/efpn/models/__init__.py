"""Detectors on the (extended) pyramid, and all that they are built of: pure torch."""

from efpn.models.dense import FCOS, FCOSSettings, RetinaNet, RetinaNetSettings, build_fcos, build_retinanet
from efpn.models.detector import EFPNDetector, Resize
from efpn.models.faster_rcnn import FasterRCNN, build_faster_rcnn, fasterrcnn_resnet50_efpn
from efpn.models.probes import Oracle, half_oracle, multi_scale, on_p3_ext
from efpn.models.roi_heads import OHEM, PyramidRoIHeads, RoISettings, SmallRoIs
from efpn.models.rpn import PyramidRPN, RPNSettings
from efpn.pyramid.backbones import Backbone, ResNet
from efpn.pyramid.detail import Detail, Doubled, Image2x, Stem
from efpn.pyramid.extension import Extension, WholePass, make_extension
from efpn.pyramid.fpn import FPN, Pyramid
from efpn.pyramid.neck import EFPNBackbone
from efpn.pyramid.tiles import Tiles
from efpn.pyramid.timm_backbone import Timm
from efpn.pyramid.upsamplers import ESPCN, FTT, Nearest, TwoStage, Upsampler

__all__ = [
    "ESPCN",
    "FCOS",
    "FPN",
    "FTT",
    "OHEM",
    "Backbone",
    "Detail",
    "Doubled",
    "EFPNBackbone",
    "EFPNDetector",
    "Extension",
    "FCOSSettings",
    "FasterRCNN",
    "Image2x",
    "Nearest",
    "Oracle",
    "Pyramid",
    "PyramidRPN",
    "PyramidRoIHeads",
    "RPNSettings",
    "ResNet",
    "Resize",
    "RetinaNet",
    "RetinaNetSettings",
    "RoISettings",
    "SmallRoIs",
    "Stem",
    "Tiles",
    "Timm",
    "TwoStage",
    "Upsampler",
    "WholePass",
    "build_faster_rcnn",
    "build_fcos",
    "build_retinanet",
    "fasterrcnn_resnet50_efpn",
    "half_oracle",
    "make_extension",
    "multi_scale",
    "on_p3_ext",
]
