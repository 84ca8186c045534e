"""Pure torch: backbone -> FPN -> extension (upsampler, and detail from C2'), whole or on tiles."""

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
    "FPN",
    "FTT",
    "Backbone",
    "Detail",
    "Doubled",
    "EFPNBackbone",
    "Extension",
    "Image2x",
    "Nearest",
    "Pyramid",
    "ResNet",
    "Stem",
    "Tiles",
    "Timm",
    "TwoStage",
    "Upsampler",
    "WholePass",
    "make_extension",
]
