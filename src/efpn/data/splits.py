"""Which images train, validate and test: splits of a source, or a deterministic part of one. No torch.

A role (``train``, ``val``, ``test``) is given as the name of a split of the source, or as a part of one:

- ``{from: train, holdout: 0.1}`` takes a tenth of the images, chosen by a hash of their ids;
- ``{from: train, match: "Town04_*"}`` takes the images whose file name matches (frames of a video stay together).

What is held out of a split is missing from every role that takes that split whole.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any, Protocol

from efpn.data.records import Categories, Index
from efpn.errors import UserError

SplitRule = str | Mapping[str, Any]


class Source(Protocol):
    """What every reader offers."""

    @property
    def categories(self) -> Categories:
        """The classes that all splits share."""

    def load(self, split: str) -> Index:
        """The images of one split."""


def load_role(source: Source, rules: Mapping[str, SplitRule], role: str) -> Index:
    """The index of `role` under `rules`, see the module (raises `UserError`: it has none, or it is malformed)."""
    rule = rules.get(role)
    if rule is None:
        raise UserError(
            f"data.splits.{role} is not set; name a split of the data set or a part: {{from: train, holdout: 0.1}}"
        )
    if isinstance(rule, str):
        whole = _load(source, rule)
        parts = {name: part for name, part in rules.items() if part is not None and not isinstance(part, str)}
        held = [_part(whole, part, name) for name, part in parts.items() if _from(part, name) == rule]
        chosen = {record.image_id for record in whole.records}.difference(*held)
    else:
        whole = _load(source, _from(rule, role))
        chosen = _part(whole, rule, role)
    records = tuple(record for record in whole.records if record.image_id in chosen)
    suffix = "" if isinstance(rule, str) else f" (its part for {role})"
    return replace(whole, name=whole.name + suffix, records=records)


def _load(source: Source, split: str) -> Index:
    """The index of a split, if the reader gives one: it may be a user's own."""
    name = type(source).__name__
    if not isinstance(getattr(source, "categories", None), Categories):
        raise UserError(f"data.source: {name} has no categories, an efpn.data.records.Categories")
    try:
        inspect.signature(source.load).bind(split)
    except TypeError as error:
        raise UserError(f"data.source: {name}.load is called with the name of a split, but {error}") from None
    index = source.load(split)
    if not isinstance(index, Index):
        what = f"{name}.load({split!r}) gives {type(index).__name__}"
        raise UserError(f"data.source: {what}; it has to give an efpn.data.records.Index")
    return index


def _from(rule: Mapping[str, Any], role: str) -> str:
    """The split that a role is a part of."""
    if set(rule) not in ({"from", "holdout"}, {"from", "match"}):
        got = ", ".join(map(str, rule))
        raise UserError(f"data.splits.{role} needs 'from' and one of 'holdout' and 'match'; it has {got}")
    if "holdout" in rule and not (isinstance(rule["holdout"], int | float) and 0 < rule["holdout"] < 1):
        raise UserError(f"data.splits.{role}.holdout is {rule['holdout']!r}; it must be a fraction between 0 and 1")
    return rule["from"]


def _part(whole: Index, rule: Mapping[str, Any], role: str) -> set[int]:
    """The ids of the images of a split that a role takes of it."""
    if "holdout" in rule:  # ranked by a hash of the id, so that an image more does not reshuffle the others
        ids = [record.image_id for record in whole.records]
        ids.sort(key=lambda one: hashlib.blake2b(str(one).encode(), digest_size=8).digest())
        return set(ids[: max(1, round(len(ids) * rule["holdout"]))])
    chosen = {record.image_id for record in whole.records if fnmatch(record.path.name, rule["match"])}
    if not chosen:
        raise UserError(f"data.splits.{role}.match={rule['match']!r} matches no file name in {whole.name}")
    return chosen
