"""What is wrong with the words of a command line, each in one line that names what was meant; no torch."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError, nearest
from efpn.ranges import leaves, walk
from efpn.runs.sweeps import CONF

ADDED = ("quick", "row", "sweep")  # groups of train.py that are there by a plus alone


def check_added(words: Sequence[str]) -> None:
    """Refuse what Hydra would misread or explain at length of ``ADDED`` (raises `UserError`: how it is written).

    Beside a sweep that is one without its plus, which would be crossed with the sweep's own; without ``-m`` several
    rows.
    """
    if not {"-m", "--multirun"} & set(words) and (several := [w for w in words if re.match(r"\+row=.*,", w)]):
        raise UserError(f"{several[0]}: several rows are a sweep: python train.py -m ... {several[0]}")
    for group in ADDED if any(word.startswith("+sweep=") for word in words) else ():
        if any(word.startswith(f"{group}=") for word in words):
            raise UserError(needs_plus(group))


def check_added_keys(cfg: DictConfig) -> None:
    """Refuse what the command line adds with a plus where nothing reads it (raises `UserError`: what is near).

    Below the node of a class nothing is checked, as building it does; a phase may have any key that another phase has,
    ``model`` or ``data``; and what another value is interpolated from is read.
    """
    hydra, parser = HydraConfig.get(), OverridesParser.create()
    given = {word: parser.parse_override(word) for word in hydra.overrides.task}
    added = {
        word: str(one.key_or_group)
        for word, one in given.items()
        if (one.is_add() or one.is_force_add()) and one.key_or_group not in hydra.runtime.choices
    }
    if not added:
        return
    try:
        known = compose(hydra.job.config_name, [word for word in given if word not in added])
    except HydraException:  # other words build on the added ones
        return
    phases = known.get("phases") or {}
    of_phase = ["model", "data", *(key for phase in phases.values() for key in phase)]
    for word, key in added.items():
        first, *rest = key.split(".")
        levels = {first: list(known)}  # what is added, and what there is beside it
        if first == "paths" and rest and "paths" in known:
            levels[f"paths.{rest[0]}"] = list(known.paths)
        if first == "phases" and len(rest) > 1 and rest[0] in phases:
            levels[f"phases.{rest[0]}.{rest[1]}"] = of_phase
        for place, beside in levels.items():
            name = place.rpartition(".")[2]
            used = re.search(rf"\$\{{[^}}]*\b{re.escape(place)}\b", OmegaConf.to_yaml(cfg))
            if name not in beside and not used:
                raise UserError(f"{word}: nothing reads {place}{nearest(name, beside)}; --cfg job prints all keys")


def needs_plus(group: str) -> str:
    """What to say of one of ``ADDED`` that is given without its plus."""
    return f"{group}: a group that is not there by itself; add it with a plus, +{group}=CHOICE"


def unknown_key(key: str, deeper: str, config_name: str, folder: str) -> str:
    """Say that the config has no ``key``, and which one is meant: the only one of that last name, or the nearest.

    Both are looked for in the config without that override.

    ``deeper`` is the full key that Hydra has not found where ``key`` was given as a whole group, else passed over.
    """
    given = [word for word in sys.argv[1:] if "=" in word and not word.startswith(("-", f"{key}="))]
    key = deeper if deeper.startswith(f"{key}.") else key
    with initialize_config_dir(str(Path(sys.argv[0]).resolve().parent / folder), version_base="1.3"):
        try:
            known = [key for key, _ in walk(compose(config_name, given))]
        except HydraException:  # there is more wrong with the other words, or they are a sweep's
            known = [key for key, _ in walk(compose(config_name))]
    if config_name == "train" and key in ADDED:
        return needs_plus(key)
    if key.startswith("model.") and not any(one.startswith("model.") for one in known):
        return f"{key}: the run's model has its own; change it with a plus, +{key}=VALUE"
    group, _, last = key.rpartition(".")
    namesakes = [one for one in known if one.rpartition(".")[2] == last and not one.startswith("phases.")]
    near = namesakes if len(namesakes) == 1 else difflib.get_close_matches(key, known, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    taken = f"{group}._target_" in known and len(namesakes) != 1
    plus = f"; what else {group}'s class takes needs a plus, +{key}=VALUE" if taken else ""
    return f"{key}: the config has no such key{hint}{plus}; --cfg job prints all of them"


def missing_option(error: str, config_name: str) -> str:
    """Hydra's list of a group's options, with the one that is nearest to what is not there.

    For a table that the other command has, it says which command.
    """
    lacking = re.search(r"Could not find '([\w/]+)/([^'/]+)'", error)
    if lacking is None:
        return error
    group, name = lacking.groups()
    places = {
        "evaluate": ("conf/summarise/table", "is made of trainings: train.py -m +sweep=TABLE, then summarise.py"),
        "summarise": ("conf/table", "is made of one run's ways to detect: evaluate.py run=RUN table=TABLE"),
    }
    if group == "table" and config_name in places:
        folder, command = places[config_name]
        if (Path(sys.argv[0]).resolve().parent / folder / f"{name}.yaml").is_file():
            return f"{error}\n{name} {command}"
    options = [line.strip() for line in error.splitlines() if line.startswith("\t")]
    return error.replace(lacking[0], f"{lacking[0]}{nearest(name, options)}", 1)


def check_detector_reads(cfg: DictConfig, words: Sequence[str]) -> None:
    """Refuse what the command line says of the model and the chosen detector does not read.

    A copy of the config has a mark in the place of each value that an override, as it was typed, gives; where the marks
    come out says what reads them. What an experiment says for all detectors stays as it is.
    """
    left_out = tuple(cfg.model.leaves_out)
    if not left_out:
        return
    given = OverridesParser.create().parse_overrides(list(words))
    typed = {one.key_or_group: one.key_or_group for one in given}  # keys, and what to call each
    rows = [one.value() for one in given if one.key_or_group == "row"]
    for row in (name for value in rows for name in (value if isinstance(value, list) else [value])):
        if (file := CONF / "row" / f"{row}.yaml").is_file():
            config = OmegaConf.load(file)
            typed |= {key: f"+row={row} ({key})" for key, _ in leaves(config)}  # type: ignore[arg-type]
    marked, known = cfg.copy(), [key for key, _ in leaves(cfg)]
    for number, word in enumerate(typed):
        for key in known:
            if f"{key}.".startswith(f"{word}."):
                OmegaConf.update(marked, key, f"<{number}>")
    models = [marked.model, *(phase.get("model") for phase in marked.phases.values() if OmegaConf.is_dict(phase))]
    plain = [OmegaConf.to_container(model, resolve=True) for model in models if OmegaConf.is_dict(model)]
    values = [one for model in plain for one in leaves(model)]  # type: ignore[arg-type]
    unread = []
    for number, said in enumerate(typed.values()):
        readers = [f"{key}." for key, value in values if f"<{number}>" in str(value)]
        if readers and all(key.startswith(tuple(f"{node}." for node in left_out)) for key in readers):
            unread.append(said)
    if unread:
        own = [f"model.{key}" for key in cfg.model if key not in (*left_out, "_target_", "leaves_out")]
        raise UserError(
            f"{', '.join(unread)}: read by detector=faster_rcnn, not by the one chosen ({cfg.model._target_}); leave "
            f"that out, or see what this one reads: {', '.join(own)}"
        )
