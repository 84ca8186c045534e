"""The files of a measurement: JSON, and Markdown with the ratios first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efpn.benchmark.stages import REST, STAGES
from efpn.evaluation.table import escaped, fact_list, markdown_table, number
from efpn.runs.files import write_json, write_text

MEGA, GIGA = 1e6, 1e9


def write_report(folder: Path, name: str, record: Mapping[str, Any], text: str) -> list[Path]:
    """Write ``name.json`` and ``name.md`` and return where they are."""
    return [
        write_json(folder / f"{name}.json", record, indent=2),
        write_text(folder / f"{name}.md", text),
    ]


def comparison_text(title: str, record: Mapping[str, Any], notes: Sequence[str], stages: Sequence[str] = STAGES) -> str:
    """Ratios, then all models, then where their time goes, then the setting and the machine.

    Args:
        title: heading.
        record: ``ratios``, ``models``, ``setting`` and ``machine``.
        notes: what a reader must know of how it was measured.
        stages: columns, in order; those that no model has are left out.
    """
    models = record["models"]
    shown = [stage for stage in (*stages, REST) if any(stage in model["stages"] for model in models.values())]
    parts = [
        f"# {escaped(title)}",
        ratio_table(record["ratios"]) if record["ratios"] else "No ratio: its two sides were not both measured.",
        "## Each of them",
        model_table(models),
        "## Time by stage, ms",
        _stage_table(models, shown),
        "## Multiply-adds by stage, G",
        _operation_table(models, shown),
        "## How it was measured",
        "\n".join(f"- {note}" for note in notes),
        "## Setting and machine",
        fact_list({**record["setting"], **record["machine"]}),
    ]
    return "\n\n".join(parts) + "\n"


def ratio_table(ratios: Sequence[Mapping[str, Any]]) -> str:
    """Each ratio with its target and whether it is met."""
    verdicts = {True: "yes", False: "no", None: ""}
    rows = [
        [r["name"], number(r["value"]), "" if r["target"] is None else f"<= {r['target']:.2f}", verdicts[r["met"]]]
        for r in ratios
    ]
    return markdown_table(["ratio", "measured", "target", "met"], rows)


def model_table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Time with its spread, peak memory, multiply-adds and parameters of each."""
    head = ["", "median ms", "min", "quartiles", "peak MB", "weights MB", "multiply-adds G", "parameters M"]
    rows = []
    for model in models.values():
        time, peak = model["seconds"], model["peak_bytes"]
        rows.append(
            [
                model["title"],
                _ms(time["median"]),
                _ms(time["least"]),
                f"{_ms(time['lower_quartile'])} to {_ms(time['upper_quartile'])}",
                number(None if peak is None else peak / MEGA, 0),
                number(model["weight_bytes"] / MEGA, 0),
                number(sum(model["multiply_adds"].values()) / GIGA, 1),
                number(model["parameters"] / MEGA, 1),
            ]
        )
    return markdown_table(head, rows)


def _stage_table(models: Mapping[str, Mapping[str, Any]], shown: Sequence[str]) -> str:
    rows = [
        [
            model["title"],
            *(_ms(model["stages"][stage]) if stage in model["stages"] else "" for stage in shown),
            f"{100 * model['stage_share']:.1f} %",
        ]
        for model in models.values()
    ]
    return markdown_table(["", *shown, "sum / wall clock, worst run"], rows)


def _operation_table(models: Mapping[str, Mapping[str, Any]], shown: Sequence[str]) -> str:
    counted = [stage for stage in shown if any(model["multiply_adds"].get(stage) for model in models.values())]
    rows = [
        [model["title"], *(number(model["multiply_adds"].get(stage, 0) / GIGA, 1) for stage in counted)]
        for model in models.values()
    ]
    return markdown_table(["", *counted], rows)


def _ms(value: float) -> str:
    return number(1000 * value, 1)
