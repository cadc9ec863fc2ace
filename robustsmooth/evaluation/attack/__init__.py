"""Attacks inside ``trainer.test``: the evaluation, its plan, its target, and the summary of its rows."""
