"""The files of a measurement: JSON, and Markdown with the ratios first."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torchvision

from efpn.benchmark.setting import Setting
from efpn.benchmark.timing import REST, STAGES
from efpn.markdown import escaped, fact_list, markdown_table, number
from efpn.provenance import hardware, own_commit
from efpn.runs.files import write_json, write_text

CPU_FACTS: Final = Path("/proc/cpuinfo")
MEGA, GIGA = 1e6, 1e9
SPREAD: Final = ("median", "least", "lower_quartile", "upper_quartile")


def write_report(
    setting: Setting,  # names the files; it and the machine are told too
    title: str,  # heading of the page
    record: Mapping[str, Any],  # what was measured
    parts: Sequence[str],  # of the page: tables and headings, ratios first
    notes: Sequence[str],  # what a reader must know of how it was measured
    facts: Mapping[str, Any] | None = None,  # of the setting, if others than its own record
) -> str:
    """Write what was measured as JSON and a page of it as Markdown, and return the page."""
    setting_record = setting.as_record() if facts is None else facts
    machine = machine_facts(setting)
    listed = "\n".join(f"- {note}" for note in notes)
    ends = ["## How it was measured", listed, "## Setting and machine", fact_list({**setting_record, **machine})]
    text = "\n\n".join([f"# {escaped(title)}", *parts, *ends]) + "\n"
    out = Path(setting.cfg.out)
    write_json(out / f"{setting.file_name}.json", {**record, "setting": setting_record, "machine": machine}, indent=2)
    write_text(out / f"{setting.file_name}.md", text)
    return text


def machine_facts(setting: Setting) -> dict[str, Any]:
    """What a reader must know of machine and call: hardware, versions, command, commit; no name and path of its own."""
    device = setting.device
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    lines = CPU_FACTS.read_text(encoding="utf-8").splitlines() if CPU_FACTS.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": hardware(),
        **gpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "command": command(setting.cfg.words),
        "commit": own_commit(),
    }


def command(words: Sequence[str]) -> str:
    """The call, to be pasted into a shell; an absolute path is shortened to its last part."""
    pairs = [word.partition("=") for word in words]
    shown = [f"{key}{eq}{Path(value).name if Path(value).is_absolute() else value}" for key, eq, value in pairs]
    return shlex.join(["python", "benchmark.py", *shown])


def comparison(record: Mapping[str, Any], stages: Sequence[str] = STAGES) -> list[str]:
    """Ratios, then all models, then where their time goes, by ``stages`` in order; what no model has is left out."""
    models = record["models"].values()
    shown = [stage for stage in (*stages, REST) if any(stage in model["stages"] for model in models)]
    counted = [stage for stage in shown if any(model["multiply_adds"].get(stage) for model in models)]
    each, spent, operations = [], [], []
    for model in models:
        title, times, seconds, peak = (model[key] for key in ("title", "stages", "seconds", "peak_bytes"))
        median, least, *quartiles = (milliseconds(seconds[key]) for key in SPREAD)
        sizes = [number(None if peak is None else peak / MEGA, 0), number(model["weight_bytes"] / MEGA, 0)]
        counts = [number(sum(model["multiply_adds"].values()) / GIGA, 1), number(model["parameters"] / MEGA, 1)]
        each.append([title, median, least, " to ".join(quartiles), *sizes, *counts])
        by_stage = [milliseconds(times[stage]) if stage in times else "" for stage in shown]
        spent.append([title, *by_stage, f"{100 * model['stage_share']:.1f} %"])
        operations.append([title, *(number(model["multiply_adds"].get(stage, 0) / GIGA, 1) for stage in counted)])
    head = ["", "median ms", "min", "quartiles", "peak MB", "weights MB", "multiply-adds G", "parameters M"]
    return [
        ratio_table(record["ratios"]) if record["ratios"] else "No ratio: its two sides were not both measured.",
        "## Each of them",
        markdown_table(head, each),
        "## Time by stage, ms",
        markdown_table(["", *shown, "sum / wall clock, median"], spent),
        "## Multiply-adds by stage, G",
        markdown_table(["", *counted], operations),
    ]


def ratio_table(ratios: Sequence[Mapping[str, Any]]) -> str:
    """Each ratio with its target and whether it is met."""
    verdicts = {True: "yes", False: "no", None: ""}
    rows = [
        [r["name"], number(r["value"]), "" if r["target"] is None else f"<= {r['target']:.2f}", verdicts[r["met"]]]
        for r in ratios
    ]
    return markdown_table(["ratio", "measured", "target", "met"], rows)


def milliseconds(value: float) -> str:
    """Seconds, in ms."""
    return number(1000 * value, 1)
