"""All there is to know about some pieces of work: time by stage, multiply-adds, parameters, peak memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from efpn.benchmark.memory import peak_bytes, peak_of_a_fresh_process
from efpn.benchmark.operations import multiply_adds, parameters
from efpn.benchmark.options import Options
from efpn.benchmark.stages import STAGES
from efpn.benchmark.timing import Spread, Workload, interleave, stage_medians, stage_share, stop_watched

log = logging.getLogger(__name__)
Record = dict[str, Any]
GAP: Final = 0.05  # of the time of a run


def measure(
    titles: Mapping[str, str],
    build: Callable[[str], Workload],
    options: Options,
    arguments: Sequence[str],
    stages: Sequence[str] = STAGES,
) -> dict[str, Record]:
    """Measure everything, interleaved.

    Args:
        titles: what each piece of work is called, by its name.
        build: makes it, by name.
        options: the setting.
        arguments: of this command, for the child processes that measure memory on a CPU.
        stages: in the order in which they are to be listed.

    Returns:
        By name: ``title``, ``seconds`` (a `Spread`), ``stages`` (median seconds), ``stage_share``,
        ``multiply_adds`` (by stage), ``parameters``, ``weight_bytes`` and ``peak_bytes`` (None if not asked for).
    """
    peaks = {name: _peak(name, build, options, arguments) for name in titles}
    works = {name: build(name) for name in titles}
    counted = {name: multiply_adds(work) for name, work in works.items()}
    watched = {name: stop_watched(work, options.device) for name, work in works.items()}
    readings = interleave(watched, options.repeats, options.warmup)
    shares = {name: stage_share(readings[name]) for name in titles}
    warn_of_gaps(shares)
    return {
        name: {
            "title": title,
            "seconds": Spread.of([reading.seconds for reading in readings[name]]).as_record(),
            "stages": stage_medians(readings[name], stages),
            "stage_share": shares[name],
            "multiply_adds": counted[name],
            "parameters": parameters(works[name].model),
            "weight_bytes": sum(tensor.nbytes for tensor in works[name].model.state_dict().values()),
            "peak_bytes": peaks[name],
        }
        for name, title in titles.items()
    }


def warn_of_gaps(shares: Mapping[str, float]) -> None:
    """Say where the stages together are not the wall-clock time: what they say is then not to be trusted."""
    for name, share in shares.items():
        if abs(share - 1) > GAP:
            log.warning("%s: its stages add up to %.0f %% of the wall-clock time of a run", name, 100 * share)


def _peak(name: str, build: Callable[[str], Workload], options: Options, arguments: Sequence[str]) -> int | None:
    if not options.memory:
        return None
    log.info("peak memory of %s", name)
    if options.device.type == "cpu":
        return peak_of_a_fresh_process(arguments, name)
    return peak_bytes(build(name), options.device)
