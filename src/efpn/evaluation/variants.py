"""The models of Table III that share one set of weights: what they need, and how they predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from efpn.errors import UserError
from efpn.models import EFPNDetector, Oracle

Found = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Variant:
    """A way to detect with a trained detector.

    Attributes:
        pairs: whether it sees the 2x pictures.
        oracle: whether small RoIs are pooled from ``p2x`` without an extension that makes it.
        predict: ``(detector, batch) -> detections`` in 1x pixels.
    """

    pairs: bool
    oracle: bool
    predict: Callable[[EFPNDetector, Any], Found]

    def fits(self, model: Mapping[str, Any]) -> bool:
        """Whether a phase's ``model`` node can be run so: what replaces the extension needs a model without one."""
        return not self.pairs or model["extension"] is None


def _own(detector: EFPNDetector, batch: Any) -> Found:
    return detector(batch[0])


def _oracle(detector: EFPNDetector, batch: Any) -> Found:
    return Oracle(detector)(batch[1])


def _fpn_2x(detector: EFPNDetector, batch: Any) -> Found:
    return [{**found, "boxes": found["boxes"] / 2} for found in detector(batch[1])]


VARIANTS = {
    "own": Variant(pairs=False, oracle=False, predict=_own),
    "oracle": Variant(pairs=True, oracle=True, predict=_oracle),
    "fpn_2x": Variant(pairs=True, oracle=False, predict=_fpn_2x),
}


def find_variant(name: str) -> Variant:
    """Look a variant up.

    Raises:
        UserError: unknown name.
    """
    if name not in VARIANTS:
        raise UserError(f"variant={name}: unknown; use one of {', '.join(VARIANTS)}")
    return VARIANTS[name]
