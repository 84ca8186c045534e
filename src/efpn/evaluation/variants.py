"""Ways to detect with a trained detector: as it is, as the other models of Table III, and as Tables V and VI do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from omegaconf import ListConfig

from efpn.errors import UserError, nearest
from efpn.models import EFPNDetector, Oracle, half_oracle, multi_scale, on_p3_ext
from efpn.runs.saved import SavedRun
from efpn.types import Detections, split_batch

Found = list[Detections]
OWN: Final = "own"
P3_EXT_FROM_P3: Final = {"p3_ext": "p3"}


class Needs(NamedTuple):
    """The kind of phase that a variant can be run on."""

    kind: str  # in words
    fits: Callable[[Mapping[str, Any]], bool]  # says of a phase's model node whether it is of this kind

    def met_by(self, run: SavedRun) -> bool:
        """Whether this phase is of the kind."""
        return self.fits(run.config.phases[run.phase].model)


ANY: Final = Needs("any phase", lambda model: True)
PLAIN: Final = Needs(
    "a phase without an extension (baseline or control)",
    lambda model: model["extension"] is None and model["small"] is None,
)
EXTENDED: Final = Needs(
    "a phase with an extension that learns (distill or finetune)",
    lambda model: model["extension"] is not None and "upsampler" in model["extension"],
)
CONTINUED: Final = Needs(
    "a phase whose extension reads C3' (extension=second_pass)",
    lambda model: EXTENDED.fits(model) and model["extension"].get("last_stage", 2) > 2,
)
DISTILLED: Final = Needs(
    "a phase with an extension and the old head alone (distill)",
    lambda model: model["extension"] is not None and not model["small"]["own_head"],
)


@dataclass(frozen=True)
class Variant:
    """A way to detect with a trained detector."""

    key: str  # what it is called by
    predict: Callable[[EFPNDetector, Any], Found]  # (detector, batch) -> detections in 1x pixels
    needs: Needs = ANY  # the phases that it can be run on
    pairs: bool = False  # whether it sees the 2x images
    level: str | None = None  # that small RoIs are pooled from by the old head, if otherwise than trained
    every_roi: bool = False  # not the small ones alone, every RoI is
    extension: bool = False  # whether the detector keeps its extension then
    recorded: bool = True  # whether what comes before the detections can be recorded: one pass over an image
    marks: str = ""  # what tells it from others of the same key

    @property
    def name(self) -> str:
        """In folders and rows."""
        return f"{self.key}-{self.marks}" if self.marks else self.key


def find_variants(
    names: str | Sequence[str], scales: Sequence[float], scaled: Sequence[float] = (1.4,)
) -> list[Variant]:
    """Look variants up by one name or several, each once, in the order given (raises `UserError`: unknown, or none).

    Relative to the 1x image, ``scales`` are those of the multi-scale test, ``scaled`` of one ``fpn_scaled`` each.
    """
    every = all_variants(scales, scaled)
    known = list(dict.fromkeys(variant.key for variant in every))
    wanted = list(dict.fromkeys(names if isinstance(names, list | tuple | ListConfig) else [names]))
    for name in wanted:
        if name not in known:
            raise UserError(f"variant={name}: unknown{nearest(name, known)}; use one or a list of {', '.join(known)}")
    if not wanted:
        raise UserError(f"variant=[]: name at least one of {', '.join(known)}")
    return [variant for name in wanted for variant in every if variant.key == name]


def all_variants(scales: Sequence[float], scaled: Sequence[float]) -> list[Variant]:
    """Every variant; ``scales`` are the multi-scale test's, ``scaled`` those of the plain FPN on an enlarged image."""
    halves = {"c2": EXTENDED, "c3": EXTENDED, "p4": CONTINUED}
    of_2x: dict[str, Any] = {"pairs": True, "level": "p3_ext", "every_roi": True}
    enlarged: dict[str, Any] = {"pairs": True, "recorded": False}
    return [
        Variant(OWN, _own),
        Variant("oracle", lambda d, batch: Oracle(d)(batch[1]), PLAIN, pairs=True, level="p2_ext"),
        Variant("fpn_2x", _fpn_2x, PLAIN, pairs=True),
        *(Variant("fpn_scaled", partial(_scaled, [one]), PLAIN, marks=f"{one:g}x", **enlarged) for one in scaled),
        *(Variant(f"true_{part}", partial(_half_oracle, part), of, pairs=True) for part, of in halves.items()),
        Variant("on_p3", lambda d, batch: d(batch[0]), PLAIN, level="p3", every_roi=True),
        Variant("on_p3_2x", lambda d, batch: Oracle(d, P3_EXT_FROM_P3)(batch[1]), PLAIN, **of_2x),
        Variant("on_p3_ext", lambda d, batch: on_p3_ext(d, *batch[:2]), DISTILLED, extension=True, **of_2x),
        Variant("multi_scale", partial(_scaled, scales), marks="-".join(f"{s:g}" for s in scales), **enlarged),
    ]


def _own(detector: EFPNDetector, batch: Any) -> Found:
    images, images_2x, _ = split_batch(batch)
    return detector(images, images_2x=images_2x)


def _half_oracle(part: str, detector: EFPNDetector, batch: Any) -> Found:
    return half_oracle(detector, part, *batch[:2])


def _scaled(scales: Sequence[float], detector: EFPNDetector, batch: Any) -> Found:
    return multi_scale(detector, scales, batch[1])


def _fpn_2x(detector: EFPNDetector, batch: Any) -> Found:
    found: Found = detector(batch[1])
    for one in found:
        one["boxes"] = one["boxes"] / 2
    return found
