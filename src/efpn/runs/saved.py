"""Finding the finished phases of a run on disk; no torch."""

from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from efpn.errors import UserError, nearest
from efpn.runs.files import CHECKPOINT_FILE, CONFIG_FILE, ROW_FILE, checkpoint_in, finished_in, read_config, read_record
from efpn.runs.sweeps import number_of, read_row, rows_of

log = logging.getLogger(__name__)
QUICK = "quick"  # the folder in the outputs in which conf/quick lets its runs lie


@dataclass(frozen=True)
class SavedRun:
    """A finished phase."""

    folder: Path  # of the phase
    checkpoint: Path  # its weights
    config: DictConfig  # that it was trained with, resolved

    @property
    def phase(self) -> str:
        """Name of the phase, by its folder."""
        return self.folder.name

    @property
    def place(self) -> Path:
        """``mosaic_efpn[/loss.lambda_pos-0.5]/seed0/finetune``: its folder inside the outputs."""
        swept = self.folder.parent.parent
        own = str(self.config.name)  # YAML makes a number of name=7
        names = [own] if swept.name == own else [own, swept.name]
        return Path(*names, self.folder.parent.name, self.phase)

    @property
    def name(self) -> str:
        """``mosaic_efpn[/loss.lambda_pos-0.5]/finetune``: the place without the seed."""
        return Path(*self.place.parts[:-2], self.phase).as_posix()

    @property
    def quick(self) -> bool:
        """Whether ``+quick=yes`` trained it: that all works is all that it shows."""
        paths, own = self.config.get("paths") or {}, (str(self.config.name), f"seed{self.config.seed}")
        return Path(str(paths.get("unswept"))) == Path(str(paths.get("outputs")), QUICK, *own)

    def out_folder(self, out: str | None, default: str) -> Path:
        """Where what is made of it goes: ``out`` if that is given, else a folder of this name in the phase's own."""
        return Path(out).expanduser() if out else self.folder / default


def saved_runs(paths: str | Sequence[str], option: str = "run") -> list[SavedRun]:
    """The finished phases under one path or several, given by ``option``.

    A path is a run's folder, one phase's folder, a checkpoint, the ``row.json`` of a sweep's job (the phase that it
    names, wherever that lies), or a pattern of these. One that leads to none is a `UserError`.
    """
    found = [run for path in ([paths] if isinstance(paths, str) else paths) for run in _runs_at(path, option)]
    return list({run.checkpoint: run for run in found}.values())  # a run that is named twice is one run


@dataclass(frozen=True)
class SweptRow:
    """A row of a sweep: one setting under several seeds."""

    name: str  # of its folder, ``espcn``
    title: str  # for tables
    runs: dict[int, SavedRun]  # the last phase of each seed that is trained to its end
    unfinished: tuple[str, ...] = ()  # seeds that are not yet, ``seed0``


def swept_rows(sweep: str, rows: str | Sequence[str] | None = None) -> list[SweptRow]:
    """The rows below a run's folder ``outputs/NAME``, also those of which no seed is trained to its end, or begun.

    ``rows`` is a sweep's name, for its rows in its order, trained by it or by another that has them too; or names in
    order; None for the rows of every sweep or, where there was none, each finished phase. None at all, or not these, is
    a `UserError`.
    """
    if not (place := Path(sweep)).is_dir():
        beside = [str(one) for one in place.parent.iterdir() if one.is_dir()] if place.parent.is_dir() else []
        near = nearest(place, beside)
        raise UserError(f"sweep={sweep}: no such folder{near}; give the folder outputs/NAME of a trained run")
    found = {path: read_row(path) for path in place.glob(f"*/seed*/{ROW_FILE}")}
    by_number = sorted(found, key=lambda path: (number_of(found[path]), path))
    named = rows_of(rows) if isinstance(rows, str) else []
    if isinstance(rows, str):
        order = {name: number for number, name in enumerate(named)}
        by_number = [path for path in by_number if rows in found[path]["sweeps"] or path.parent.parent.name in order]
        by_number.sort(
            key=lambda path: (order.get(path.parent.parent.name, len(order)), found[path]["sweeps"].get(rows, 0))
        )
    places: dict[str, dict[str, list[Path]]] = {}
    for path in by_number:
        title = found[path]["title"]
        places.setdefault(path.parent.parent.name, {}).setdefault(title, []).append(found[path]["phase"])
    if not found and not isinstance(rows, str):
        for path in finished_in(place, "**/seed*/*"):
            parts = path.parent.relative_to(sweep).parts
            name = "/".join([*parts[:-2], parts[-1]])
            places.setdefault(name, {}).setdefault(name, []).append(path.parent)
    wanted = list(places) if rows is None or isinstance(rows, str) else list(rows)
    lacking = [str(name) for name in wanted if name not in places] if wanted else [str(rows)]
    if lacking:
        of_rows = {name for path in found for name in (path.parent.parent.name, *found[path]["sweeps"])}
        known = sorted(of_rows | places.keys())
        asked = "no finished phase" if rows is None else f"no rows {', '.join(lacking)}"
        nested = [path.parents[2] for way in ("*/*", "*/*/*") for path in place.glob(f"{way}/seed*/{ROW_FILE}")]
        below = sorted(set(map(str, nested)))
        have = f"it has {', '.join(known)}" if known else "give the folder outputs/NAME of a trained run"
        have += f", such as {', '.join(below)}" if below and not known else ""
        raise UserError(f"sweep={sweep}: {asked} there; {have}")
    missing: list[str] = []
    if set(places) < set(named):  # else a row goes over values too, and its folder has another name
        missing = [name for name in named if name not in places]
        log.info("sweep %s also has rows that are not trained here: %s", rows, ", ".join(missing))
    ready = [SweptRow(name, name, {}) for name in missing]
    for name in wanted:
        phases = [phase for ones in places[name].values() for phase in ones]
        finished = [phase for phase in phases if checkpoint_in(phase).is_file()]
        for phase in set(phases) - set(finished):
            log.warning("%s: %s is not finished; the sweep's own command goes on with it", name, phase)
        runs = [_saved(checkpoint_in(phase)) for phase in finished]
        unfinished = sorted({phase.parent.name for phase in set(phases) - set(finished)})
        by_seed = {int(run.config.seed): run for run in runs}
        ready.append(SweptRow(name, list(places[name])[-1], by_seed, tuple(unfinished)))
    return ready


def row_names(runs: Sequence[SavedRun]) -> list[str]:
    """A name for each run, no two alike: without the seed where that is enough, else its place, else its folder."""
    for names in ([run.name for run in runs], [run.place.as_posix() for run in runs]):
        if len(set(names)) == len(names):
            return names
    return [str(run.folder) for run in runs]


def broken_lineage(runs: Sequence[SavedRun]) -> list[str]:
    """What to say of runs whose starting weights have been trained anew since: the rows do not belong together."""
    found = {run.folder: run for run in runs}
    told = []
    for run in runs:
        first, own = str(run.config.phases[run.phase].init_from), run.folder.parent
        shared = own.parent.parent / own.name  # what the jobs of a sweep share
        before = found.get(own / first) or found.get(shared / first)
        records = [read_record(one.folder) for one in (run, before) if one]
        if before and records[0].get("started_from") not in (None, records[1].get("config_hash")):
            told.append(f"{run.name} started from another {before.phase} than the one that stands here")
    return told


def _runs_at(path: str, option: str) -> list[SavedRun]:
    if not Path(path).exists() and glob.has_magic(path):
        places = sorted(glob.glob(path))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        rows = {place: read_row(Path(place)) for place in places if Path(place).name == ROW_FILE}
        phases = [rows[one]["phase"] if one in rows else Path(one) for one in places]
        matching = [
            one for one, phase in zip(places, phases, strict=True) if checkpoint_in(phase).is_file() or _phases(one)
        ]
        for row in rows.values():
            if not checkpoint_in(row["phase"]).is_file():
                told = "%s is not trained to its end, and left out; the sweep's own command goes on with it"
                log.warning(told, row["phase"])
        matching.sort(key=lambda one: number_of(rows[one]) if one in rows else 0)
        if not matching:
            raise UserError(f"{option}={path}: matches no finished run, phase or row.json")
        return [run for one in matching for run in _runs_at(one, option)]
    place = Path(path).resolve()
    if place.name == ROW_FILE:
        place = read_row(place)["phase"]
    own = place if place.is_file() else checkpoint_in(place)
    if found := [own] if own.is_file() else _phases(place):
        return [_saved(one) for one in found]
    if not place.exists():
        raise UserError(f"{option}={path}: no such file or folder; give a run's folder, such as outputs/demo/seed0")
    raise UserError(
        f"{option}={path}: no finished phase in it (no {CHECKPOINT_FILE}); finish one with `python train.py ... "
        "resume=true`, or give the folder outputs/<name>/seed<seed>"
    )


def _phases(path: str | Path) -> list[Path]:
    """Checkpoints of the finished phases, in the order of the run's config: the most advanced one last."""
    found = {file.parent.name: file for file in finished_in(Path(path))}
    configs = [read_config(file) for one in found.values() if (file := one.with_name(CONFIG_FILE)).is_file()]
    order = [str(phase) for config in configs for phase in config.phases]
    return [found[phase] for phase in dict.fromkeys([*order, *found]) if phase in found]


def latest_run(path: str, option: str = "run") -> SavedRun:
    """The most advanced finished phase of `saved_runs`; says which where there are several."""
    runs = saved_runs(path, option)
    if len(runs) > 1:
        log.info("%s holds %s; taking %s", path, ", ".join(run.phase for run in runs), runs[-1].phase)
    return runs[-1]


def _saved(checkpoint: Path) -> SavedRun:
    loaded = read_config(checkpoint.parent / CONFIG_FILE)
    phase = checkpoint.parent.name
    if phase not in loaded.get("phases", {}):
        raise UserError(
            f"{checkpoint.parent}: the folder's name says which phase of {loaded.name} it is, and {phase!r} is none; "
            f"name it {', '.join(loaded.get('phases', {})) or 'as train.py did'}"
        )
    return SavedRun(checkpoint.parent, checkpoint, loaded)
