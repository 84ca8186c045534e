"""Pure torch models: trunk -> FPN -> extension (upsampler, and detail from C2') -> RPN -> RoI heads -> detector."""

from efpn.models.backbone import EFPNBackbone
from efpn.models.detail import Detail, Doubled, Image2x, Stem
from efpn.models.detector import EFPNDetector, Resize, build_detector, fasterrcnn_resnet50_efpn
from efpn.models.extension import Extension, WholePass, make_extension
from efpn.models.fpn import FPN, Pyramid
from efpn.models.probes import HalfOracle, MultiScale, OnP3x, Oracle
from efpn.models.roi_heads import OHEM, PyramidRoIHeads, RoISettings, SmallRoIs
from efpn.models.rpn import PyramidRPN, RPNSettings
from efpn.models.trunk import ResNetTrunk
from efpn.models.upsamplers import ESPCN, FTT, Nearest, TwoStage, Upsampler
from efpn.models.windows import Windows

__all__ = [
    "ESPCN",
    "FPN",
    "FTT",
    "OHEM",
    "Detail",
    "Doubled",
    "EFPNBackbone",
    "EFPNDetector",
    "Extension",
    "HalfOracle",
    "Image2x",
    "MultiScale",
    "Nearest",
    "OnP3x",
    "Oracle",
    "Pyramid",
    "PyramidRPN",
    "PyramidRoIHeads",
    "RPNSettings",
    "ResNetTrunk",
    "Resize",
    "RoISettings",
    "SmallRoIs",
    "Stem",
    "TwoStage",
    "Upsampler",
    "WholePass",
    "Windows",
    "build_detector",
    "fasterrcnn_resnet50_efpn",
    "make_extension",
]
