"""PREDICT inside ``trainer.test``."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rich.console import RenderableType
from rich.table import Table

from robustsmooth.evaluation.voting import VotingCallback, counts_as_text
from robustsmooth.kinds import PREDICT, LogKind
from robustsmooth.smoothing import ABSTAIN, Finished, Predict, Predicted, unanimous
from robustsmooth.statistics import abstention_rate, interval


class Prediction(VotingCallback):
    """Predicts every test image with the smoothed classifier; writes ``predict.tsv`` and ``summary.json``.

    Logged: ``test/smoothed_top1`` (abstentions count as wrong) and ``test/abstention``.

    Args:
        procedure: The number of votes and alpha.
        smoothing: The noise.
        folder: Where the rows and the summary are written.
        numerics: Precision, memory format, compilation.
        seed: Addresses all noise.
        settings: What else the rows depend on, as plain values, such as the data set.
        progress: Show what to expect, a progress bar, and a table at the end.
    """

    kind: ClassVar[LogKind] = PREDICT
    verb: ClassVar[str] = "predicting"
    procedure: Predict

    def row(self, finished: Finished) -> dict[str, Any]:
        """See `VotingCallback.row`."""
        record: Predicted = finished.record
        return {
            "idx": finished.index,
            "label": finished.label,
            "predict": record.prediction,
            "correct": int(record.prediction == finished.label),
            "time": round(finished.seconds, 6),
            "p_value": record.p_value,
            "votes": record.votes,
            "counts": counts_as_text(record.counts),
        }

    def weakness(self) -> str | None:
        """See `VotingCallback.weakness`."""
        if unanimous(self.procedure, self.noise, self.num_classes).prediction != ABSTAIN:
            return None
        return (
            f"with n={self.procedure.n} votes and alpha={self.procedure.alpha} not even unanimous votes "
            "decide, so every image will abstain; raise prediction.n or prediction.alpha"
        )

    def outcome(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """See `VotingCallback.outcome`."""
        hits = sum(int(row["correct"]) for row in rows)
        correct, (low, high) = hits / len(rows), interval(hits, len(rows))
        abstained = abstention_rate([int(row["predict"]) for row in rows])
        facts = {
            "accuracy": {"accuracy": correct, "low": float(low), "high": float(high)},
            "n": self.procedure.n,
            "alpha": self.procedure.alpha,
            "sigma": self.noise.sigma,
        }
        return {"test/smoothed_top1": correct, "test/abstention": abstained}, facts

    def report(self, summary: Mapping[str, Any]) -> list[RenderableType]:
        """See `Evaluation.report`."""
        table = Table(title=f"{summary['images']} images predicted", title_justify="left")
        for column in ("smoothed accuracy", "95 % confidence interval", "abstention"):
            table.add_column(column)
        point = summary["accuracy"]
        table.add_row(
            f"{point['accuracy']:.1%}",
            f"{point['low']:.1%} to {point['high']:.1%}",
            f"{summary['metrics']['test/abstention']:.1%}",
        )
        alpha = "plurality vote" if summary["alpha"] is None else f"alpha {summary['alpha']:g}"
        return [table, f"sigma {summary['sigma']:g}, n {summary['n']:,}, {alpha}"]
