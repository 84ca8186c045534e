"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import torch

from efpn.benchmark import inference, loader, small_proposals, training
from efpn.benchmark.memory import MISTAKE, peak_bytes
from efpn.benchmark.options import Options
from efpn.benchmark.timing import Workload
from efpn.errors import UserError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are `UserError`, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong."""
        raise UserError(f"{message.removeprefix('argument ')}; {self.prog} --help lists the options")


@dataclass(frozen=True)
class Command:
    """One measurement.

    Attributes:
        help: one line.
        add_parser: declares its options.
        run: measures, and returns a report.
        peak_work: builds what a child process measures the memory of.
    """

    help: str
    add_parser: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Sequence[str]], str]
    peak_work: Callable[[argparse.Namespace], tuple[Workload, Options]] | None = None


COMMANDS: Final = {
    "inference": Command(
        "time, stages, memory and multiply-adds of each model of Table III (default)",
        inference.add_parser,
        inference.run,
        inference.peak_work,
    ),
    "training": Command(
        "the same for training steps, ours beside torchvision's and beside their bare passes",
        training.add_parser,
        training.run,
        training.peak_work,
    ),
    "loader": Command(
        "pictures a second of the training loader, of decoding and of a step", loader.add_parser, loader.run
    ),
    "small-proposals": Command(
        "time against the number of small objects", small_proposals.add_parser, small_proposals.run
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Run one of `COMMANDS`; a mistake in the options is one line on stderr and status 2.

    Args:
        arguments: the words after ``python -m efpn.benchmark``; without a command the first one is meant.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    words = list(arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, next(iter(COMMANDS)))
    try:
        print(_answer(words))
    except UserError as error:
        print(f"{MISTAKE}{error}", file=sys.stderr)
        return 2
    return 0


def _answer(words: Sequence[str]) -> str:
    given = build_parser().parse_args(words)
    command = COMMANDS[given.what]
    if getattr(given, "threads", 0) > 0:
        torch.set_num_threads(given.threads)
    if command.peak_work and given.peak_of:
        work, options = command.peak_work(given)
        return json.dumps({"peak_bytes": peak_bytes(work, options.device)})
    return command.run(given, words)


def build_parser() -> Parser:
    """All commands and their options."""
    about = sys.modules["efpn.benchmark"].__doc__
    style: Any = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m efpn.benchmark", description=about, formatter_class=style, allow_abbrev=False)
    commands = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, command in COMMANDS.items():
        command.add_parser(commands.add_parser(name, help=command.help, allow_abbrev=False))
    return parser
