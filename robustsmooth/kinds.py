"""The kinds of logs: what evaluations write, and what a report reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LogKind:
    """A table with one row per image, or several.

    Attributes:
        name: The name of its file, without ``.tsv``.
        columns: The columns; our logs have one more at the end, ``image``.
        marks: Columns by which a log of this kind is recognised, also one from other software.
        key: The columns that identify a row; the first is ``idx``.
    """

    name: str
    columns: tuple[str, ...]
    marks: tuple[str, ...]
    key: tuple[str, ...] = ("idx",)


def _kind(name: str, columns: str, marks: str, key: str = "idx") -> LogKind:
    return LogKind(name, *(tuple(words.split()) for words in (columns, marks, key)))


FIELD_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
"""The columns of Cohen et al.'s certification log; ours starts with them."""

CERTIFY = _kind(
    "certify",
    f"{' '.join(FIELD_COLUMNS)} outcome candidate p_a_lower p_b_upper votes counts uniform guarantee",
    "predict radius correct",
)
ATTACK = _kind(
    "attack",
    "idx label epsilon num_noise clean clean_correct adversarial success abstain l2 linf votes time",
    "adversarial l2",
    "idx epsilon num_noise",
)
AGREEMENT = _kind("agreement", "idx label sigma single vote top_votes n", "single vote", "idx sigma")
SMOOTHED_INFERENCE = _kind(
    "smoothed_inference",
    "idx label sigma voting samples predict correct",
    "voting samples",
    "idx sigma voting samples",
)
TIMING = _kind("timing", "idx label single_seconds vote_seconds n device", "single_seconds vote_seconds")
PREDICT = _kind("predict", "idx label predict correct time p_value votes counts", "predict correct")

KINDS = {kind.name: kind for kind in (CERTIFY, ATTACK, AGREEMENT, SMOOTHED_INFERENCE, TIMING, PREDICT)}
"""All kinds by name; a log is of the first kind whose marks it has."""
