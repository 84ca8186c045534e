"""The rows of a sweep over their seeds: mean and spread, and differences to a reference row with intervals."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.evaluation.bootstrap import LEVELS, Bootstrap, Scores, remembered
from efpn.evaluation.compare import BOUNDS, FLOOR
from efpn.evaluation.report import DETECTIONS, TRUTH
from efpn.evaluation.rows import METRICS, Row, comparable, load_row
from efpn.evaluation.summary_files import write_summary
from efpn.evaluation.tracking import start_tracking, track_summary
from efpn.evaluation.variants import OWN, Variant, find_variants
from efpn.metrics.resample import Resampled
from efpn.runs.files import read_json, read_record
from efpn.runs.saved import SavedRun, SweptRow

log = logging.getLogger(__name__)
REFERENCES: Final = ("control", "baseline")  # phases of the default reference row, in this order


@dataclass(frozen=True, eq=False)
class Entry:
    """A row of the table: a row of the sweep, seen in one way."""

    row: SweptRow
    variant: Variant

    @property
    def name(self) -> str:
        """``fpn``, or ``fpn oracle`` of another way than a run's own."""
        return self.row.name if self.variant.name == OWN else f"{self.row.name} {self.variant.name}"

    @property
    def title(self) -> str:
        """For readers."""
        return self.row.title if self.variant.name == OWN else f"{self.row.title}, {self.variant.name}"

    @property
    def run(self) -> SavedRun:
        """One of its trainings."""
        return next(iter(self.row.runs.values()))

    @property
    def phase(self) -> str:
        """Of its trainings, seen in their own way; else none."""
        return self.run.phase if self.variant.name == OWN else ""

    def evaluated(self, split: str) -> dict[int, Row]:
        """By seed, what ``evaluate.py`` has left of the phase as it stands now."""
        label = split if self.variant.name == OWN else f"{split}-{self.variant.name}"
        rows = {}
        for seed, run in sorted(self.row.runs.items()):
            folder = run.folder / "eval" / label
            if all((folder / name).is_file() for name in (METRICS, DETECTIONS, TRUTH)):
                one, trained = load_row(folder), read_record(run.folder).get("config_hash")
                if trained is None or str(one.identity.get("trained with")).endswith(f"config {trained}"):
                    rows[seed] = one
        return rows


def summarise(cfg: DictConfig, rows: Sequence[SweptRow]) -> Path:
    """Work out means, spread and differences of ``rows``, and write them in every form; returns the folder.

    Raises:
        UserError: nothing is evaluated, evaluations do not belong together, or a reference does not exist.
    """
    variants = find_variants(cfg.variant, cfg.scales, cfg.scale)
    left_out = [f"{row.title}, {seed} (not trained to its end)" for row in rows for seed in row.unfinished]
    left_out += [f"{row.title} (not trained)" for row in rows if not row.runs and not row.unfinished]
    if not any(row.runs for row in rows):
        raise UserError(f"sweep={cfg.sweep}: no row is trained to its end; the sweep's own command goes on with it")
    entries = [
        Entry(row, way)
        for row in rows
        for way in variants
        if row.runs and all(way.needs.met_by(run) for run in row.runs.values())
    ]
    if not entries:
        needs = "; ".join(dict.fromkeys(f"{way.name} needs {way.needs.kind}" for way in variants))
        raise UserError(f"sweep={cfg.sweep}: no row fits variant={cfg.variant}: {needs}")
    evaluated = {entry: entry.evaluated(cfg.split) for entry in entries}
    lacking = not_evaluated(evaluated)
    command = what_evaluates(cfg, lacking, cfg.split)
    if lacking:
        log.warning("not yet evaluated, and left out; `%s` does it", command)
    found = {entry: by_seed for entry, by_seed in evaluated.items() if by_seed}
    if not found:
        which = f"split={cfg.split}{other_evaluations(entries, cfg.split)}"
        raise UserError(f"sweep={cfg.sweep}: nothing in it is evaluated on {which}; `{command}` does it")
    x_values = against_values(cfg, list(found))
    evaluations = [one for by_seed in found.values() for one in by_seed.values()]
    comparable(evaluations)
    reference = choose_reference(cfg, list(found))
    left_out += [f"{entry.title}, seed{seed} (not evaluated)" for entry, seed in lacking]
    chosen = choose_entry(cfg, list(found), complete=not left_out) if cfg.choose else None
    group = str(next(iter(found)).run.config.name)
    with start_tracking(cfg, " ".join(filter(None, [group, cfg.called])), "summarise", group) as tracked:
        lines = zip(statistics(cfg, found, reference), found, strict=True)
        table = [{**line, "chosen": entry is chosen} for line, entry in lines]
        folder = write_summary(cfg, table, reference.title, evaluations, left_out)
        if tracked is not None:
            track_summary(tracked, table, Path(cfg.sweep), group, folder, *curve(cfg, table, x_values))
    return folder


def against_values(cfg: DictConfig, entries: Sequence[Entry]) -> list[Any]:
    """What each entry's run has of the option ``against`` (raises `UserError`: none has it, or it is a group)."""
    if cfg.against is None:
        return []
    options = [OmegaConf.select(one.run.config, cfg.against) for one in entries]
    if all(option is None for option in options):
        raise UserError(f"against={cfg.against}: no row's run has such an option")
    if any(OmegaConf.is_config(option) for option in options):
        raise UserError(f"against={cfg.against}: is a group of options; give one value's key, such as loss.lambda_pos")
    return options


def curve(cfg: DictConfig, table: Sequence[Mapping[str, Any]], x_values: list[Any]) -> tuple[list[str], list[Any]]:
    """The axes of the curve that ``against`` asks for, and its points by x: means of what is chosen by."""
    if not x_values:
        return [], []
    shown = cfg.choose if cfg.choose in cfg.columns else cfg.columns[0]
    points = [(x, line["columns"][shown]["mean"]) for x, line in zip(x_values, table, strict=True)]
    return [cfg.against, f"{cfg.split}/{shown}"], sorted(point for point in points if point[0] is not None)


def not_evaluated(evaluated: Mapping[Entry, Mapping[int, Row]]) -> list[tuple[Entry, int]]:
    """Of which entries which seeds are not evaluated yet."""
    return [(entry, seed) for entry, have in evaluated.items() for seed in sorted(entry.row.runs.keys() - have)]


def what_evaluates(cfg: DictConfig, lacking: Sequence[tuple[Entry, int]], split: str) -> str:
    """The command line that evaluates these."""
    folders = ",".join(dict.fromkeys(str(entry.row.runs[seed].folder) for entry, seed in lacking))
    words = ["python", "evaluate.py", f"run=[{folders}]", f"split={split}"]
    ways = list(dict.fromkeys(entry.variant.key for entry, _ in lacking))
    if ways != [OWN]:
        sizes = [f"{key}=[{','.join(f'{one:g}' for one in cfg[key])}]" for key in ("scales", "scale")]
        words += [f"variant=[{','.join(ways)}]", *sizes]
    return shlex.join(words)


def other_evaluations(entries: Sequence[Entry], split: str) -> str:
    """What else there is on that split, in words: of few images, with something changed, or of weights of before."""
    places = [place for entry in entries for run in entry.row.runs.values() for place in run.folder.glob("eval/*")]
    names = [place.name for place in places if f"{place.name}-".startswith(f"{split}-")]
    return (
        f" as asked, whole and of the weights that are there now (but {', '.join(dict.fromkeys(names))})"
        if names
        else ""
    )


def choose_reference(cfg: DictConfig, entries: Sequence[Entry]) -> Entry:
    """The entry that ``reference=`` names, else the control, else the baseline, else the first."""
    if cfg.reference is not None:
        if named := [entry for entry in entries if entry.name == cfg.reference]:
            return named[0]
        raise UserError(f"reference={cfg.reference}: no such row; choose from {', '.join(e.name for e in entries)}")
    return next((entry for phase in REFERENCES for entry in entries if entry.phase == phase), entries[0])


def choose_entry(cfg: DictConfig, entries: Sequence[Entry], complete: bool) -> Entry | None:
    """The entry whose mean of ``cfg.choose`` is best on validation; None where that is not known of all rows.

    Nor is it where the rows are not ``complete``. Logs the command where validation alone is lacking.

    Raises:
        UserError: no row has such a number there.
    """
    on_val = {entry: entry.evaluated("val") for entry in entries}
    if lacking := not_evaluated(on_val):
        command = what_evaluates(cfg, lacking, "val")
        log.warning("choose=%s: not all is evaluated on split=val yet; `%s` does it", cfg.choose, command)
    if lacking or not complete:
        return None
    values = [[row.value(cfg.choose) for row in by_seed.values()] for by_seed in on_val.values()]
    means = [np.mean(np.array(one, float)) for one in values]
    if np.isnan(means).all():
        raise UserError(f"choose={cfg.choose}: no row has it on the validation split")
    return entries[int(np.nanargmax(means))]


Table = dict[Entry, dict[int, Scores]]


def statistics(cfg: DictConfig, found: Mapping[Entry, dict[int, Row]], reference: Entry) -> list[dict[str, Any]]:
    """Of each entry, by column: mean, spread and interval over its seeds, and the difference to the reference."""
    table, resampling = scored(cfg, found)
    lines = []
    for entry, own in table.items():
        both = {s: one - table[reference][s] for s, one in own.items() if s in table[reference]}
        paired = [] if entry is reference else list(both)
        mean, limits = resampling.interval(own)
        values = np.stack([one.values for one in own.values()])
        spread = values.std(axis=0, ddof=1) if len(own) > 1 else np.full_like(mean, np.nan)
        columns: dict[str, dict[str, Any]] = {
            name: {"mean": mean[place], "std": spread[place], "interval": np.clip(limits[:, place], 0, 1)}
            for place, name in enumerate(cfg.columns)
        }
        if paired:
            gain, limits = resampling.interval(both)
            for cell, one, (low, high) in zip(columns.values(), gain, limits.T, strict=True):
                noise = None if np.isnan(one) else bool(low <= 0 <= high)
                cell |= {"difference": one, "difference_interval": [low, high], "inside_noise": noise}
        line = {"name": entry.name, "title": entry.title, "seeds": list(own), "paired": paired, "columns": columns}
        lines.append({**line, "shares": mean_shares(cfg, entry, table, resampling)})
    return lines


def mean_shares(cfg: DictConfig, entry: Entry, table: Table, resampling: Bootstrap) -> dict[str, dict[str, Any]]:
    """What an entry takes of the gain of each bound among the rows, by the bound's title and column.

    As `efpn.evaluation.compare.gain_shares` takes it of single rows, here of means over the seeds that all three have,
    with its 95 % interval; only where the bound's own gain is clear of 0. A phase that two rows have is none here, too.
    """
    phases = [one.phase for one in table]
    trained = {one.phase: one for one in table if phases.count(one.phase) == 1}
    found: dict[str, dict[str, Any]] = {}
    if (floor := trained.get(FLOOR)) is None or entry is floor:
        return found
    for bound in (trained[phase] for phase in BOUNDS if phase in trained):
        seeds = sorted(table[entry].keys() & table[floor].keys() & table[bound].keys())
        if bound is entry or not seeds:
            continue
        own, whole = (
            resampling.means({seed: table[one][seed] - table[floor][seed] for seed in seeds}) for one in (entry, bound)
        )
        shares = {}
        for place, column in enumerate(cfg.columns):
            if np.isnan(whole[:, place]).all() or np.isnan(own[:, place]).all():
                continue
            if np.nanpercentile(whole[1:, place], LEVELS[0]) > 0:
                share = own[:, place] / whole[:, place]
                shares[column] = {"share": share[0], "interval": np.nanpercentile(share[1:], LEVELS)}
        if shares:
            found[bound.title] = shares
    return found


def scored(cfg: DictConfig, found: Mapping[Entry, dict[int, Row]]) -> tuple[Table, Bootstrap]:
    """The numbers of all rows and seeds, and how they are resampled: all are scored on the same images."""
    table: Table = {entry: {} for entry in found}
    images: list[int] = []
    for entry, rows in found.items():
        for seed, row in rows.items():
            one = resampled(row, cfg.columns)
            images = images or one.images
            if one.images != images:
                raise UserError(f"{row.source}: scored on other images than the rows before it; evaluate all alike")
            table[entry][seed] = Scores(np.array([row.value(column) for column in cfg.columns], float), remembered(one))
        log.info("%s: seeds %s", entry.title, ", ".join(map(str, rows)))
    if len(images) < 2:
        raise UserError(f"sweep={cfg.sweep}: evaluated on one image, which cannot be resampled; evaluate on more")
    return table, Bootstrap(cfg.resamples, len(images), cfg.seed)


def resampled(row: Row, columns: Sequence[str]) -> Resampled:
    """An evaluation, ready to be resampled (raises `UserError`: its files do not belong together)."""
    folder, fix = row.source.parent, "evaluate again"
    truth, found = (read_json(folder / name, fix) for name in (TRUTH, DETECTIONS))
    thresholds = row.record["thresholds"]
    one = Resampled(truth, found, truth["evaluated"], columns, (thresholds["fixed"], thresholds["best_f1"]))
    whole = one(np.ones((1, len(one.images)), int))[0]
    said = np.array([row.value(column) for column in columns], float)
    if not np.allclose(whole, said, rtol=0, atol=1e-9, equal_nan=True):
        raise UserError(f"{folder}: {METRICS} does not follow from {DETECTIONS} and {TRUTH}; {fix}")
    return one
