"""Which images train, validate and test: splits of a source, or a deterministic part of one. No torch.

A role (``train``, ``val``, ``test``) is given as the name of a split of the source, or as a part of one:

- ``{from: train, holdout: 0.1}`` takes a tenth of the images, chosen by a hash of their ids;
- ``{from: train, match: "Town04_*"}`` takes the images whose file name matches (frames of a video stay together).

What is held out of a split is missing from every role that takes that split whole.
"""

from __future__ import annotations

import hashlib
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
    if rules.get(role) is None:
        raise UserError(
            f"data.splits.{role} is not set; name a split of the data set or a part: {{from: train, holdout: 0.1}}"
        )
    rule = rules[role]
    if not isinstance(rule, str):
        whole = source.load(_part(rule, role)["from"])
        chosen, suffix = _chosen(whole, rule, role), f" (its part for {role})"
    else:
        whole = source.load(rule)
        parts = {name: other for name, other in rules.items() if other is not None and not isinstance(other, str)}
        held = [_chosen(whole, part, name) for name, part in parts.items() if _part(part, name)["from"] == rule]
        chosen, suffix = {record.image_id for record in whole.records}.difference(*held), ""
    records = tuple(record for record in whole.records if record.image_id in chosen)
    return replace(whole, name=whole.name + suffix, records=records)


def _part(rule: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    if set(rule) not in ({"from", "holdout"}, {"from", "match"}):
        got = ", ".join(map(str, rule))
        raise UserError(f"data.splits.{role} needs 'from' and one of 'holdout' and 'match'; it has {got}")
    if "holdout" in rule and not (isinstance(rule["holdout"], int | float) and 0 < rule["holdout"] < 1):
        raise UserError(f"data.splits.{role}.holdout is {rule['holdout']!r}; it must be a fraction between 0 and 1")
    return rule


def _chosen(whole: Index, rule: Mapping[str, Any], role: str) -> set[int]:
    if "match" in rule:
        chosen = {record.image_id for record in whole.records if fnmatch(record.path.name, rule["match"])}
        if not chosen:
            raise UserError(f"data.splits.{role}.match={rule['match']!r} matches no file name in {whole.name}")
        return chosen
    count = max(1, round(len(whole) * rule["holdout"]))
    ids = (record.image_id for record in whole.records)
    # ranked by a hash of the id, so that an image added to the data set does not reshuffle the others
    return set(sorted(ids, key=lambda one: hashlib.blake2b(str(one).encode(), digest_size=8).digest())[:count])
