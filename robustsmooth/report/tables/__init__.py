"""The tables of a report. A column holds numbers with one kind of guarantee, never a mixture."""

from robustsmooth.report.tables.attacked import (
    attack_rows,
    attack_seed_table,
    attack_table,
    contradiction_table,
    distance_table,
)
from robustsmooth.report.tables.beside import of_data, published_table
from robustsmooth.report.tables.certified import (
    best_table,
    certified_accuracy_table,
    envelope_table,
    linf_table,
    radius_table,
    without_bounds,
)
from robustsmooth.report.tables.common import default_radii, few
from robustsmooth.report.tables.compared import (
    comparison_table,
    seed_comparison_table,
    seed_table,
    unknown_methods,
    unknown_radii,
    unknown_votes,
    unpaired,
    without_baseline,
)
from robustsmooth.report.tables.measured import (
    agreement_rows,
    agreement_table,
    inference_table,
    prediction_table,
    timing_table,
)
from robustsmooth.report.tables.overview import overview_table, training_table
from robustsmooth.report.tables.restated import restated_tables, too_few_votes

__all__ = [
    "overview_table", "certified_accuracy_table", "envelope_table", "radius_table", "linf_table",
    "comparison_table", "seed_table", "attack_table", "attack_rows", "contradiction_table", "training_table",
    "agreement_table", "agreement_rows", "timing_table", "inference_table",
    "prediction_table", "attack_seed_table", "distance_table", "default_radii", "few",
    "too_few_votes", "unpaired", "unknown_methods", "unknown_radii", "unknown_votes",
    "without_baseline", "without_bounds",
    "best_table", "seed_comparison_table", "restated_tables", "published_table", "of_data",
]  # fmt: skip
