"""Results by fifths of the test pairs, from those that a chosen row ranks worst to those that it ranks best.

Labels are noisy: a method that is shown the product itself ranks a fifth of the real pairs below chance. Progress on pairs
whose label can be understood is drowned by the others; by fifths it shows. The choice is a model's, not people's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.metrics.intervals import Interval
from ctl_lightning.reports.paper_rows import MethodRow

FIFTHS = 5


@dataclass(frozen=True)
class Fifths:
    """Fifths of the pairs of a table.

    Attributes:
        by: row whose AUC of each pair, mean over its seeds, orders the pairs.
        of_pair: number of each pair's fifth, (N,), 0 for the worst ranked; -1: `by` has no AUC of the pair.
    """

    by: MethodRow
    of_pair: Integers

    def heads(self) -> list[str]:
        """What each fifth holds: the range of AUC in it, and the number of its pairs."""
        auc = self.by.values["auc"]
        found = [auc[self.of_pair == number] for number in range(FIFTHS)]
        return [
            f"{number}: {own.min():.2f} to {own.max():.2f}, {len(own):,} pairs" if len(own) else f"{number}: no pairs"
            for number, own in enumerate(found, start=1)
        ]

    def intervals(self, row: MethodRow, metric: str) -> list[Interval] | None:
        """A metric of a row in each fifth, with its interval over scenes; None: the row has other pairs, or not the metric."""
        if row.keys != self.by.keys or metric not in row.values:
            return None
        return [row.interval_of(self.of_pair == number, metric) for number in range(FIFTHS)]


def fifths_by(rows: Sequence[MethodRow], name: str | None) -> Fifths | None:
    """Fifths of the pairs by the row of that name; None if no name is given, or the row has no results."""
    row = next((row for row in rows if row.method == name and row.results), None)
    if row is None:
        return None
    auc = row.values["auc"]
    known = np.flatnonzero(~np.isnan(auc))
    order = known[np.argsort(auc[known], kind="stable")]
    of_pair = np.full(len(auc), -1)
    of_pair[order] = FIFTHS * np.arange(len(order)) // max(1, len(order))
    return Fifths(row, of_pair)
