"""Which values each option may have, checked right after a config is composed, before torch is imported or data read.

One table for each command line. A key of ``data`` or ``model`` stands for the same key inside a phase, too. What a
value of one option says about another (a batch and a pyramid, a list and the levels) is the business of what takes it.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig

from efpn.configs import leaves, walk
from efpn.errors import UserError, raise_listed


@dataclass(frozen=True)
class Rule:
    """What an option may be."""

    words: str  # that end the sentence "must be ..."
    allows: Callable[[Any], bool]  # whether a value is that


def whole(least: int, most: int | None = None) -> Rule:
    """A whole number within bounds."""
    words = f"a whole number, at least {least}" if most is None else f"a whole number from {least} to {most}"
    return Rule(words, lambda v: type(v) is int and least <= v and (most is None or v <= most))


def number(words: str, within: Callable[[float], bool]) -> Rule:
    """A finite number that ``within`` accepts."""
    accepts = lambda v: type(v) in (int, float) and math.isfinite(v) and within(v)  # noqa: E731
    return Rule(f"a number{words}", accepts)


def choice(*values: str) -> Rule:
    """One of a few words (or what YAML makes of them)."""
    return Rule(f"one of {', '.join(values)}", lambda v: str(v).lower() in values)


def maybe(rule: Rule) -> Rule:
    """The same, or null."""
    return Rule(f"{rule.words}, or null", lambda v: v is None or rule.allows(v))


def several(rule: Rule, count: int | None = None) -> Rule:
    """A list of values, ``count`` of them."""
    words = f"a list of {count or 'one or more'}, each {rule.words}"
    fits = lambda v: len(v) == count if count else len(v) > 0  # noqa: E731
    return Rule(words, lambda v: isinstance(v, list | tuple | ListConfig) and fits(v) and all(map(rule.allows, v)))


SHARE: Final = number(" from 0 to 1", lambda v: 0 <= v <= 1)
BELOW_ONE: Final = number(" from 0 on and less than 1", lambda v: 0 <= v < 1)
POSITIVE: Final = number(" greater than 0", lambda v: v > 0)
NOT_NEGATIVE: Final = number(", 0 or greater", lambda v: v >= 0)
SCALE: Final = number(" greater than 0, up to 2", lambda v: 0 < v <= 2)
JITTER: Final = Rule(  # beyond, an image without a crop fills the memory
    "[low, high] with 0.05 <= low <= high <= 4",
    lambda v: several(POSITIVE, 2).allows(v) and 0.05 <= v[0] <= v[1] <= 4,
)
COUNT: Final = whole(1)
FLAG: Final = Rule("true or false", lambda v: isinstance(v, bool))
FOLDER_NAME: Final = Rule(
    "the name of one folder: no / or \\, no control characters, not . or .., at most 200 bytes",
    lambda v: type(v) in (str, int) and re.fullmatch(r"[^/\\\x00-\x1f\x7f]+", str(v)) is not None
    and str(v) not in (".", "..") and len(str(v).encode("utf-8", "surrogateescape")) <= 200,
)  # fmt: skip
PATH: Final = Rule(
    "a path as text (of a folder called 7: ./7)", lambda v: isinstance(v, str) and v != "" and "\0" not in v
)
PATHS: Final = Rule(f"{PATH.words}, or a list of those", lambda v: PATH.allows(v) or several(PATH).allows(v))
WORDS: Final = several(Rule("text", lambda v: isinstance(v, str)))
PRECISION: Final = choice(
    "auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "32", "bf16", "16", "64"
)
ROWS: Final = several(COUNT, 2)
SIZE: Final = Rule(
    "pixels, at least 32, or HEIGHTxWIDTH such as 700x1000",
    lambda v: re.fullmatch(r"\d+(x\d+)?", str(v)) is not None and min(map(int, str(v).split("x"))) >= 32,
)

TRANSFORM: Final = {
    "short_side": COUNT,
    "max_size": COUNT,
    "direct": FLAG,
    "scale_jitter": maybe(JITTER),
    "crop": maybe(COUNT),
    "repeat_crop": maybe(COUNT),
    "object_crop_prob": SHARE,
    "min_visibility": SHARE,
    "augment.*.p": SHARE,
    "augment.color.brightness": NOT_NEGATIVE,
    "augment.color.contrast": NOT_NEGATIVE,
    "augment.color.saturation": NOT_NEGATIVE,
    "augment.color.hue": number(" from 0 to 0.5", lambda v: 0 <= v <= 0.5),
}
DATA: Final = {
    "data.batch_size": COUNT,
    "data.eval_batch_size": COUNT,
    "data.num_workers": whole(0),
    "data.seed": whole(0),
    "data.balance": maybe(COUNT),
    "data.keep_empty": FLAG,
    "data.limit_val": maybe(COUNT),
    "data.check_images": choice("all", "header", "none"),
    "data.on_unreadable": choice("error", "skip"),
    "data.source.counts.*": COUNT,
    "data.root": PATH,
    "data.source.seed": whole(0),
    "data.source.options.side": whole(16),
    "data.source.options.signs": several(whole(0), 2),
    "data.source.options.sign_size": several(POSITIVE, 2),
    "data.source.options.median_size": POSITIVE,
    "data.source.options.distractors": whole(0),
    "data.source.options.empty": SHARE,
    **{f"data.*_transform.{key}": rule for key, rule in TRANSFORM.items()},
}
MODEL: Final = {
    "model.channels": COUNT,
    "model.rpn.anchor_sizes": several(COUNT),
    "model.rpn.aspect_ratios": several(POSITIVE),
    "model.rpn.p*_nms_top_n": ROWS,
    "model.rpn.batch_size": COUNT,
    "model.rpn.*_iou": SHARE,
    "model.roi.batch_size": COUNT,
    "model.roi.head_width": COUNT,
    "model.roi.detections_per_image": COUNT,
    "model.roi.canonical_size": COUNT,
    "model.roi.*_iou": SHARE,
    "model.dense.anchor_sizes": several(COUNT),
    "model.dense.aspect_ratios": several(POSITIVE),
    "model.dense.*_iou": SHARE,
    "model.dense.center_radius": POSITIVE,
    "model.dense.score_thresh": SHARE,
    "model.dense.nms_thresh": SHARE,
    "model.dense.detections_per_image": COUNT,
    "model.dense.candidates": COUNT,
    "model.r*.positive_fraction": SHARE,
    "model.r*.nms_thresh": SHARE,
    "model.r*.score_thresh": SHARE,
    "model.small.level": choice("p2", "p3", "p2_ext", "p3_ext"),
    "model.small.own_head": FLAG,
    "*extension.c3": FLAG,
    "*extension.post_conv": FLAG,
    "*extension.upsampler.outer_skip": FLAG,
    "*extension.upsampler.tail": FLAG,
    "model.tiles.grid": COUNT,
    "model.tiles.margin": maybe(whole(0)),
    "model.tiles.dense_from": POSITIVE,
    "*mining.per_image": maybe(COUNT),
    "*mining.keep": maybe(number(" greater than 0, up to 1", lambda v: 0 < v <= 1)),
    "*mining.nms": maybe(SHARE),
}
TRAINER: Final = {
    "trainer.precision": PRECISION,
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.gradient_clip_val": maybe(POSITIVE),
    "trainer.num_nodes": COUNT,
    "trainer.log_every_n_steps": COUNT,
}
TRAIN: Final = DATA | MODEL | TRAINER | {
    "name": FOLDER_NAME,
    "seed": whole(0, 2**32 - 1),
    "ftt_width": COUNT,
    "small_roi_below": POSITIVE,
    "score_threshold": SHARE,
    "resume": choice("auto", "true", "false"),
    "overwrite": FLAG,
    "sequence": WORDS,
    "ckpt_path": maybe(PATH),
    "init_ckpt": maybe(PATH),
    "paths.*": PATH,
    "backbone.weights": maybe(PATH),
    "backbone.trainable_stages": whole(0, 5),
    "loss.lambda_pos": NOT_NEGATIVE,
    "loss.on_p3_ext": FLAG,
    "phases.*.max_steps": COUNT,
    "phases.*.checkpoint_every": COUNT,
    "phases.*.val_every": COUNT,
    "phases.*.reference_batch": maybe(COUNT),
    "phases.*.pairs": FLAG,
    "phases.*.trainable": WORDS,
    "phases.*.optimizer.lr": POSITIVE,
    "phases.*.optimizer.momentum": BELOW_ONE,
    "phases.*.optimizer.weight_decay": NOT_NEGATIVE,
    "phases.*.schedule.warmup_steps": whole(0),
    "phases.*.schedule.gamma": SHARE,
    "phases.*.schedule.final": SHARE,
    "phases.*.schedule.milestones": several(SHARE),
    "callbacks.progress.every": COUNT,
}  # fmt: skip
EVALUATE: Final = DATA | MODEL | TRAINER | {
    "trainer.precision": maybe(PRECISION),
    "run": PATHS,
    "detections*": maybe(PATH),
    "cost_of": maybe(PATH),
    "out": maybe(PATH),
    "data_root": maybe(PATH),
    "paths.*": PATH,
    "columns": WORDS,
    "split": choice("val", "test"),
    "name": maybe(FOLDER_NAME),
    "called": maybe(FOLDER_NAME),
    "missing": choice("error", "empty"),
    "short_side": maybe(COUNT),
    "scales": several(SCALE),
    "scale": several(SCALE),
    "small_roi_below": maybe(POSITIVE),
    "batch_size": maybe(COUNT),
    "limit": maybe(COUNT),
    "score_threshold": SHARE,
    "choose_threshold": FLAG,
    "images": whole(0),
    "features": whole(0),
    "timed": FLAG,
    "figures": FLAG,
}  # fmt: skip
PREDICT: Final = MODEL | TRAINER | {
    "trainer.precision": maybe(PRECISION),
    "run": PATH,
    "images": PATHS,
    "out": maybe(PATH),
    "score_threshold": SHARE,
    "min_score": maybe(SHARE),
    "draw": FLAG,
    "short_side": maybe(COUNT),
    "batch_size": COUNT,
    "slices.size": maybe(COUNT),
    "slices.overlap": BELOW_ONE,
    "slices.whole": FLAG,
}  # fmt: skip
SUMMARISE: Final = {
    "sweep": PATH,
    "split": choice("val", "test"),
    "columns": WORDS,
    "resamples": COUNT,
    "seed": whole(0),
    "scales": several(SCALE),
    "scale": several(SCALE),
}
EXPORT: Final = {
    "run": PATH,
    "out": maybe(PATH),
    "images": maybe(PATHS),
    "check.images": COUNT,
    "check.boxes": POSITIVE,
    "check.scores": POSITIVE,
}
BENCHMARK: Final = {**MODEL, **{key: rule for key, rule in DATA.items() if "_transform." in key}} | {
    "size": maybe(SIZE),
    "batch": COUNT,
    "classes": whole(2),
    "ftt_width": COUNT,
    "small_roi_below": POSITIVE,
    "proposals.total": COUNT,
    "proposals.small": whole(0),
    "proposals.objects": COUNT,
    "device": Rule("text, such as cpu or cuda:1", lambda v: isinstance(v, str)),
    "precision": choice("32", "bf16", "fp16"),
    "threads": maybe(COUNT),
    "channels_last": FLAG,
    "compile": FLAG,
    "repeats": COUNT,
    "warmup": whole(0),
    "memory": FLAG,
    "seed": whole(0),
    "out": PATH,
    "name": maybe(FOLDER_NAME),
    "models": maybe(WORDS),
    "steps": maybe(WORDS),
    "run": maybe(PATH),
    "images": maybe(PATH),
    "workers": several(whole(0)),
    "files": COUNT,
    "file_size": COUNT,
    "load": COUNT,
    "counts": several(whole(0)),
    "per_object": COUNT,
}  # fmt: skip


def check_values(cfg: DictConfig, rules: Mapping[str, Rule]) -> None:
    """Find all values that no run can have (raises `UserError`: with key, value and what is allowed, one line each)."""
    faults = []
    for key, value in leaves(cfg, own=True):
        short = re.sub(r"^phases\.[^.]+\.(?=(data|model)\.)", "", key)
        rule = next((rule for pattern, rule in rules.items() if fnmatchcase(short, pattern)), None)
        if rule and not rule.allows(value):
            faults.append(f"{key}={value}: must be {rule.words}")
    if len(faults) == 1:
        raise UserError(faults[0])
    raise_listed("config", faults)


def check_targets(cfg: DictConfig, place: str = "") -> None:
    """Find every ``_target_`` that is not there, and every option that the one there does not take; imports them all.

    The config may be the node of one at ``place``, a dotted key.

    Raises:
        UserError: with the key.
    """
    for key, value in [(place, cfg), *walk(cfg, own=True, prefix=f"{place}." if place else "")]:
        nodes = {key: value}
        if isinstance(value, ListConfig):
            nodes = {f"{key}.{number}": one for number, one in enumerate(value)}
        for name, node in nodes.items():
            if isinstance(node, DictConfig) and "_target_" in node:
                check_target(node, name)


def check_target(node: DictConfig, place: str) -> None:
    """As `check_targets`, of the node at ``place``, a dotted key."""
    try:
        known = inspect.signature(get_object(node._target_)).parameters
    except Exception as error:  # importing a module may raise anything
        module, _, name = str(node._target_).rpartition(".")
        reason = str(error.__cause__ or error).splitlines()[0]
        if module in sys.modules and not hasattr(sys.modules[module], name):
            near = difflib.get_close_matches(name, dir(sys.modules[module]), 1)
            reason = f"{module} has no {name}" + (f"; did you mean {near[0]}?" if near else "")
        raise UserError(f"{place}._target_={node._target_}: no class or function to be had ({reason})") from None
    passed_over = ("leaves_out", *(node.get("leaves_out") or ()))  # what the chosen detector does not read
    given = [str(key) for key in node if not str(key).startswith("_") and key not in passed_over]
    strange = [key for key in given if key not in known]
    if strange and not any(one.kind is one.VAR_KEYWORD for one in known.values()):
        raise UserError(f"{place}.{strange[0]}: {node._target_} takes no such option; it takes {', '.join(known)}")
