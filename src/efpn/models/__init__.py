"""Pure torch models: backbone -> FPN -> extension (upsampler, and detail from C2') -> detector."""

from efpn.models.backbones import Backbone, ResNet
from efpn.models.dense import FCOS, FCOSSettings, RetinaNet, RetinaNetSettings, build_fcos, build_retinanet
from efpn.models.detail import Detail, Doubled, Image2x, Stem
from efpn.models.detector import EFPNDetector, Resize
from efpn.models.extension import Extension, WholePass, make_extension
from efpn.models.faster_rcnn import FasterRCNN, build_faster_rcnn, fasterrcnn_resnet50_efpn
from efpn.models.fpn import FPN, Pyramid
from efpn.models.neck import EFPNBackbone
from efpn.models.probes import HalfOracle, MultiScale, OnP3Ext, Oracle
from efpn.models.roi_heads import OHEM, PyramidRoIHeads, RoISettings, SmallRoIs
from efpn.models.rpn import PyramidRPN, RPNSettings
from efpn.models.tiles import Tiles
from efpn.models.timm_backbone import Timm
from efpn.models.upsamplers import ESPCN, FTT, Nearest, TwoStage, Upsampler

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
    "HalfOracle",
    "Image2x",
    "MultiScale",
    "Nearest",
    "OnP3Ext",
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
    "make_extension",
]
