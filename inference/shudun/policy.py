"""From probabilities to a suggestion: pass, review or block.

A policy is a dated, versioned mapping from tiers to actions, apart from taxonomy and weights. It knows one
item at a time; account history and contextual signals are decided outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from shudun.calibration import OperatingPoint
from shudun.errors import TaxonomyError
from shudun.taxonomy import Taxonomy

Action: TypeAlias = Literal["pass", "review", "block"]
ACTIONS: tuple[Action, ...] = ("pass", "review", "block")


@dataclass(frozen=True, slots=True)
class TierRule:
    """What a label of a tier suggests above its threshold, and above its automatic threshold."""

    above_threshold: Action
    above_automatic: Action


@dataclass(frozen=True, slots=True)
class Policy:
    """A versioned mapping tier → `TierRule`."""

    id: str
    version: str
    tiers: Mapping[str, TierRule]

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Policy:
        """Build a policy from parsed YAML or JSON.

        Raises:
            TaxonomyError: on unknown or missing keys and on actions other than pass, review and block.
        """
        if set(data) != {"id", "version", "tiers"} or not isinstance(data["tiers"], Mapping):
            raise TaxonomyError(f"policy: expected keys id, version and tiers (a mapping), got {sorted(data)}")
        return cls(
            id=str(data["id"]),
            version=str(data["version"]),
            tiers={str(tier): _tier_rule(tier, rule) for tier, rule in data["tiers"].items()},
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one item: `labels` by falling severity, `primary_label` the first of them or `None`."""

    action: Action
    primary_label: str | None
    labels: tuple[str, ...]


PASS = Decision(action="pass", primary_label=None, labels=())
"""The outcome for an item without a label."""


class Decider:
    """A policy bound to a taxonomy and to the operating points of one graph."""

    def __init__(self, policy: Policy, taxonomy: Taxonomy, points: Sequence[OperatingPoint]) -> None:
        missing = sorted({label.tier for label in taxonomy.labels} - set(policy.tiers))
        if missing:
            raise TaxonomyError(f"policy {policy.id}: no rule for tiers {missing} of taxonomy {taxonomy.id}")
        self._taxonomy = taxonomy
        self._rules = [policy.tiers[label.tier] for label in taxonomy.labels]
        self._thresholds = np.array([point.threshold for point in points], dtype=np.float32)
        automatic = [np.inf if point.automatic is None else point.automatic for point in points]
        self._automatic = np.array(automatic, dtype=np.float32)
        self._exclusive = [(taxonomy.index[a], taxonomy.index[b]) for a, b in taxonomy.exclusive]

    def select(self, probabilities: NDArray[np.float32], applicable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which labels hold, shape `(n, num_labels)`.

        A label holds at or above its threshold where it is applicable; of two exclusive labels only the
        likelier one does.
        """
        return select_labels(probabilities, applicable, self._thresholds, self._exclusive)

    def decide(self, probabilities: NDArray[np.float32], selected: NDArray[np.bool_]) -> Decision:
        """Decide one item from its probabilities and selected labels, both of shape `(num_labels,)`."""
        if not selected.any():
            return PASS
        columns = np.flatnonzero(selected)
        severity = self._taxonomy.tier_rank[columns]
        ranked = [int(columns[i]) for i in np.lexsort((-probabilities[columns], -severity))]
        labels = tuple(self._taxonomy.label_ids[i] for i in ranked)
        actions = [self._action(i, float(probabilities[i])) for i in ranked]
        action: Action = max(actions, key=ACTIONS.index)
        return Decision(action=action, primary_label=labels[0], labels=labels)

    def _action(self, column: int, probability: float) -> Action:
        rule = self._rules[column]
        return rule.above_automatic if probability >= self._automatic[column] else rule.above_threshold


def select_labels(
    probabilities: NDArray[np.float32],
    applicable: NDArray[np.bool_],
    thresholds: NDArray[np.float32],
    exclusive: Sequence[tuple[int, int]],
) -> NDArray[np.bool_]:
    """Which labels hold, shape `(n, num_labels)`; `exclusive` holds pairs of columns. See `Decider.select`."""
    selected = applicable & (probabilities >= thresholds)
    for a, b in exclusive:
        both = selected[:, a] & selected[:, b]
        a_wins = probabilities[:, a] >= probabilities[:, b]
        selected[both & a_wins, b] = False
        selected[both & ~a_wins, a] = False
    return selected


def _tier_rule(tier: Any, rule: Any) -> TierRule:
    keys = {"above_threshold", "above_automatic"}
    if not isinstance(rule, Mapping) or set(rule) != keys or not all(action in ACTIONS for action in rule.values()):
        raise TaxonomyError(
            f"policy: tier {tier}: expected {sorted(keys)}, each one of {', '.join(ACTIONS)}; got {rule!r}"
        )
    return TierRule(
        above_threshold=cast("Action", rule["above_threshold"]),
        above_automatic=cast("Action", rule["above_automatic"]),
    )
