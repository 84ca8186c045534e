"""The keys of a config, and which values each may have: checked before torch is imported or data read. No torch.

One table for each command line. A key of ``data`` or ``model`` stands for the same key inside a phase, too. What a
value of one option says about another (a batch and a pyramid, a list and the levels) is the business of what takes it.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, TypeGuard

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from efpn.errors import UserError, raise_listed


def walk(node: Mapping[Any, Any] | DictConfig, own: bool = False, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of a config, dotted, behind ``prefix``, with their values; a group stands before what is in it.

    ``own`` leaves out what is read from another key and what is still to be given; otherwise these come as None.
    """
    for key in map(str, node):
        absent = OmegaConf.is_config(node) and (
            OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key)
        )
        if absent and own:
            continue
        value = None if absent else node[key]
        yield f"{prefix}{key}", value
        if is_group(value):
            yield from walk(value, own, f"{prefix}{key}.")


def leaves(node: Mapping[Any, Any] | DictConfig, own: bool = False) -> Iterator[tuple[str, Any]]:
    """Those of `walk` that are no groups; an empty group is none either."""
    return ((key, value) for key, value in walk(node, own) if not is_group(value))


def is_group(value: Any) -> TypeGuard[Mapping[Any, Any] | DictConfig]:
    """Whether there are keys below a value."""
    return isinstance(value, Mapping | DictConfig)


def one_device(cfg: DictConfig) -> bool:
    """Whether ``cfg.trainer`` names a single device, by count or in a list."""
    devices = cfg.trainer.get("devices", 1)
    return devices == 1 or (isinstance(devices, ListConfig) and len(devices) == 1)


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
    """One of a few words, in lower case (or what YAML makes of them: true, or a number)."""
    return Rule(f"one of {', '.join(values)}", lambda v: (str(v).lower() if isinstance(v, int) else v) in values)


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
KERNEL: Final = Rule("1 or 3, the kernel of a convolution", lambda v: type(v) is int and v in (1, 3))
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
PRECISION: Final = choice("auto", "32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")  # boxes are float32
SIZE: Final = Rule(
    "pixels, at least 32, or HEIGHTxWIDTH such as 700x1000",
    lambda v: re.fullmatch(r"\d+(x\d+)?", str(v)) is not None and min(map(int, str(v).split("x"))) >= 32,
)


def keys(rules: Mapping[Rule, str]) -> dict[str, Rule]:
    """What a key, which may be a pattern, has to be, of the keys for which each rule holds."""
    return {key: rule for rule, names in rules.items() for key in names.split()}


RATIO: Final = Rule(
    "{name, of, to: text, what: time or memory, target: a number or null}",
    lambda v: (
        is_group(v)
        and {*v} == {"name", "of", "to", "what", "target"}
        and v["what"] in ("time", "memory")
        and maybe(POSITIVE).allows(v["target"])
    ),
)
TRANSFORM: Final = keys({
    COUNT: "short_side max_size",
    maybe(COUNT): "crop repeat_crop",
    FLAG: "direct",
    maybe(JITTER): "scale_jitter",
    SHARE: "object_crop_prob min_visibility augment.*.p",
    NOT_NEGATIVE: "augment.color.brightness augment.color.contrast augment.color.saturation",
    number(" from 0 to 0.5", lambda v: 0 <= v <= 0.5): "augment.color.hue",
})  # fmt: skip
SHAPE: Final = {f"data.*_transform.{key}": rule for key, rule in TRANSFORM.items()}
DATA: Final = SHAPE | keys({
    PATH: "data.root",
    COUNT: "data.batch_size data.eval_batch_size data.source.counts.*",
    maybe(COUNT): "data.balance data.limit_val",
    whole(0): "data.num_workers data.seed data.source.seed data.source.options.distractors",
    whole(16): "data.source.options.side",
    several(whole(0), 2): "data.source.options.signs",
    several(POSITIVE, 2): "data.source.options.sign_size",
    POSITIVE: "data.source.options.median_size",
    SHARE: "data.source.options.empty",
    FLAG: "data.keep_empty",
    choice("all", "header", "none"): "data.check_images",
    choice("error", "skip"): "data.on_unreadable",
})  # fmt: skip
MODEL: Final = keys({
    COUNT: "model.channels model.rpn.batch_size model.roi.batch_size model.roi.head_width model.roi.canonical_size "
    "model.*.detections_per_image model.dense.candidates model.tiles.grid *extension.upsampler.width "
    "*extension.upsampler.groups",
    whole(0): "*extension.upsampler.blocks",
    whole(2, 5): "*extension.last_stage",
    whole(0, 5): "*backbone.trainable_stages",
    several(COUNT): "model.*.anchor_sizes",
    several(COUNT, 2): "model.rpn.p*_nms_top_n",
    maybe(COUNT): "*mining.per_image",
    maybe(whole(0)): "extension.margin *model.extension.margin",
    POSITIVE: "model.dense.center_radius model.tiles.dense_from *small.below",
    several(POSITIVE): "model.*.aspect_ratios",
    SHARE: "model.*_iou model.*.score_thresh model.*.nms_thresh model.r*.positive_fraction",
    maybe(SHARE): "*mining.nms",
    maybe(number(" greater than 0, up to 1", lambda v: 0 < v <= 1)): "*mining.keep",
    FLAG: "model.small.own_head *extension.post_conv *extension.upsampler.outer_skip "
    "*extension.upsampler.tail",
    choice("inner", "output"): "*extension.source",
    KERNEL: "*extension.upsampler.reduction",
    choice("frozen", "batch"): "*backbone.norm",
    choice("p2", "p3", "p2_ext", "p3_ext"): "model.small.level",
})  # fmt: skip
TRAINER: Final = keys({
    COUNT: "trainer.accumulate_grad_batches trainer.num_nodes trainer.log_every_n_steps",
    maybe(POSITIVE): "trainer.gradient_clip_val",
    PRECISION: "trainer.precision",
})  # fmt: skip
TRAIN: Final = DATA | MODEL | TRAINER | keys({
    FOLDER_NAME: "name",
    PATH: "paths.*",
    maybe(PATH): "ckpt_path init_ckpt backbone.weights",
    WORDS: "sequence phases.*.trainable",
    choice("auto", "true", "false"): "resume",
    FLAG: "overwrite score_after loss.on_p3_ext phases.*.loss.on_p3_ext phases.*.pairs",
    whole(0, 2**32 - 1): "seed",
    whole(0): "phases.*.schedule.warmup_steps",
    COUNT: "ftt_width phases.*.max_steps phases.*.checkpoint_every phases.*.val_every callbacks.progress.every",
    maybe(COUNT): "phases.*.reference_batch",
    POSITIVE: "small_roi_below phases.*.optimizer.lr",
    NOT_NEGATIVE: "loss.lambda_pos phases.*.loss.lambda_pos phases.*.optimizer.weight_decay",
    BELOW_ONE: "phases.*.optimizer.momentum",
    SHARE: "score_threshold phases.*.schedule.gamma phases.*.schedule.final",
    several(SHARE): "phases.*.schedule.milestones",
})  # fmt: skip
EVALUATE: Final = DATA | MODEL | TRAINER | keys({
    PATHS: "run",
    PATH: "paths.*",
    maybe(PATH): "detections* cost_of out data_root",
    maybe(FOLDER_NAME): "name called",
    WORDS: "columns",
    choice("val", "test"): "split",
    choice("error", "empty"): "missing",
    FLAG: "choose_threshold timed figures",
    whole(0): "images features",
    maybe(COUNT): "short_side batch_size limit",
    maybe(POSITIVE): "small_roi_below",
    several(SCALE): "scales scale",
    SHARE: "score_threshold",
    maybe(PRECISION): "trainer.precision",
})  # fmt: skip
PREDICT: Final = MODEL | TRAINER | keys({
    PATH: "run",
    PATHS: "images",
    maybe(PATH): "out",
    COUNT: "batch_size",
    maybe(COUNT): "short_side slices.size",
    SHARE: "score_threshold",
    maybe(SHARE): "min_score",
    BELOW_ONE: "slices.overlap",
    FLAG: "draw slices.whole",
    maybe(PRECISION): "trainer.precision",
})  # fmt: skip
SUMMARISE: Final = keys({
    PATH: "sweep",
    maybe(FOLDER_NAME): "called",
    choice("val", "test"): "split",
    WORDS: "columns",
    COUNT: "resamples",
    whole(0): "seed",
    several(SCALE): "scales scale",
})  # fmt: skip
EXPORT: Final = keys({
    PATH: "run",
    maybe(PATH): "out",
    maybe(PATHS): "images",
    COUNT: "check.images",
    POSITIVE: "check.boxes check.scores",
})  # fmt: skip
BENCHMARK: Final = MODEL | SHAPE | keys({
    PATH: "out",
    maybe(PATH): "run images",
    maybe(FOLDER_NAME): "name",
    maybe(WORDS): "models steps",
    maybe(SIZE): "size",
    whole(2): "classes",
    whole(0): "proposals.small warmup seed",
    several(whole(0)): "workers counts",
    several(RATIO): "ratios",
    COUNT: "batch ftt_width proposals.total proposals.objects repeats files file_size load per_object",
    maybe(COUNT): "threads",
    POSITIVE: "small_roi_below",
    FLAG: "channels_last compile memory",
    choice("32", "bf16", "fp16"): "precision",
    Rule("text, such as cpu or cuda:1", lambda v: isinstance(v, str)): "device",
})  # fmt: skip


def check_values(cfg: DictConfig, rules: Mapping[str, Rule]) -> None:
    """Find all values that no run can have (raises `UserError`: with key, value and what is allowed, one line each)."""
    faults = []
    for key, value in leaves(cfg, own=True):
        short = re.sub(r"^(phases|rows)\.[^.]+\.(?=(data|model)\.)", "", key)
        maker = str(OmegaConf.select(cfg, f"{key.rpartition('.')[0]}._target_", default="efpn."))
        if re.search(r"\b(backbone|extension)\.", short) and not maker.startswith("efpn."):
            continue  # of a class of the user's own, which knows its options itself
        rule = next((rule for pattern, rule in rules.items() if fnmatchcase(short, pattern)), None)
        if rule and not rule.allows(value):
            faults.append(f"{key}={value}: must be {rule.words}")
    if len(faults) == 1:
        raise UserError(faults[0])
    raise_listed("config", faults)


CALLED_LATER = ("extension", "upsampler", "optimizer", "schedule")  # nodes that take what the config cannot know


def check_targets(cfg: DictConfig, place: str = "") -> None:
    """Find a ``_target_`` that is not there, or an option that the one there does not take; imports them all.

    The config may be the node of one at ``place``, a dotted key.
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
    if place.rpartition(".")[2] in CALLED_LATER and not node.get("_partial_"):
        raise UserError(f"{place}: called once the model is there; its config needs _partial_: true beside _target_")
    passed_over = ("leaves_out", *(node.get("leaves_out") or ()))  # what the chosen detector does not read
    given = [str(key) for key in node if not str(key).startswith("_") and key not in passed_over]
    strange = [key for key in given if key not in known]
    if strange and not any(one.kind is one.VAR_KEYWORD for one in known.values()):
        raise UserError(f"{place}.{strange[0]}: {node._target_} takes no such option; it takes {', '.join(known)}")
