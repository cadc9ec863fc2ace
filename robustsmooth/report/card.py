"""A model card: what a trained network is, its certifications, and how to load it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustsmooth.report import tables
from robustsmooth.report.comparable import by_guarantee
from robustsmooth.report.evaluations import Certification, read_evaluations
from robustsmooth.report.labels import label_runs
from robustsmooth.report.markup import as_markdown
from robustsmooth.report.networks import Network, network_of
from robustsmooth.report.runs import find_runs, of_another_state
from robustsmooth.trust import TRUSTED, targets

_LOADING = """\
```python
import robustsmooth
from robustsmooth.smoothing import Cohen, {imported}

trained = robustsmooth.load("{name}"{in_python})  # this folder
classifier = SmoothedClassifier(trained.network, {noise})
classifier.certify(images, Cohen(n=100_000))  # images (B, {channels}, H, W) in [0, 1]
```

{remark}or `robustsmooth certify checkpoint={name}{on_command_line}` on the command line.
`model.safetensors` holds the weights, the normalisation and the config; `config.json` is the config alone,
for human readers.
"""

_NO_CERTIFICATIONS = """\
None was found beside the checkpoint. Nothing is known of the robustness of this network.
"""


def model_card(
    config: Mapping[str, Any], name: str, licence: str | None, checkpoint: Path | None, folder: Path
) -> str:
    """The card in Markdown, with the header for a model hub.

    Args:
        config: The resolved config of the training, or at least ``model`` and ``data``.
        name: Name of the folder or the repository.
        licence: Such as ``mit``; None leaves the field open.
        checkpoint: The exported checkpoint, beside which certifications are looked for; None for none.
        folder: The run folder of the export, whose model may be another one than the trained network.
    """
    method, data, model = (dict(config.get(part) or {}) for part in ("method", "data", "model"))
    sigma = method.get("sigma")
    facts = {
        "method": _class(method, "Module"),
        "data": _class(data, "DataModule"),
        "network": _network(model),
        "classes": data.get("num_classes"),
        "sigma (std of the noise in training, pixel units)": sigma,
        "epochs": dict(config.get("trainer") or {}).get("max_epochs"),
        "seed": config.get("seed"),
        "normalisation": "inside the network: it takes images in [0, 1]",
    }
    tags = ["randomized-smoothing", "certified-robustness", "adversarial-robustness"]
    header = [
        "---",
        f"license: {licence or 'unknown'}",
        "library_name: robustsmooth",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]
    return "\n".join(
        [
            *header,
            "",
            f"# {name}",
            "",
            "A base classifier for randomized smoothing: the robust classifier is its vote under noise.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in facts.items() if value is not None),
            "",
            "## Certified accuracy",
            "",
            _certified(checkpoint, folder) or _NO_CERTIFICATIONS,
            "## How to load it",
            "",
            _loading(config, name),
            "## Licence",
            "",
            licence
            or "Not stated yet: to be filled in here and in the header before the model is published.",
            "",
        ]
    )


def _loading(config: Mapping[str, Any], name: str) -> str:
    """How to load it: with the noise of its training, if it is known, and trust in its own classes."""
    has_noise = bool(dict(config.get("method") or {}).get("sigma"))
    own = sorted({*targets([config.get(part) for part in ("data", "model", "smoothing")])} - TRUSTED)
    sigma = "" if has_noise else " smoothing.sigma=<sigma>"
    return _LOADING.format(
        name=name,
        channels=dict(config.get("data") or {}).get("channels", "C"),
        imported="SmoothedClassifier" if has_noise else "GaussianNoise, SmoothedClassifier",
        noise="trained.noise" if has_noise else "GaussianNoise(sigma)",
        remark="" if has_noise else "(choose sigma: the training had no noise, or it is not known)\n",
        in_python=f", trust={json.dumps(own)}" if own else "",
        on_command_line=f"{sigma} 'trust=[{','.join(own)}]'" if own else sigma,
    )


def _certified(checkpoint: Path | None, folder: Path) -> str:
    """The certifications of the exported model in its run folder, as tables with intervals."""
    if checkpoint is None or checkpoint.parent.name != "checkpoints":
        return ""
    found = read_evaluations(label_runs(find_runs(str(checkpoint.parent.parent)))).certifications
    exported = network_of(folder)
    mine = [item for item in found if exported and _is_of(item, exported)]
    parts = [
        as_markdown(tables.certified_accuracy_table(members, tables.default_radii(members)))
        for members in by_guarantee(mine).values()
    ]
    settings = sorted({_settings(certification) for certification in mine})
    return "\n".join([*parts, *settings, ""]) if parts else ""


def _is_of(certification: Certification, exported: Network) -> bool:
    """Whether a certification is complete, and of the network that is exported, as it is now."""
    run = certification.run
    same = run.network is not None and run.network.identity == exported.identity
    return same and certification.finished and not of_another_state(run.path, "certify")


def _settings(certification: Certification) -> str:
    facts = {key: certification.run.facts.get(key) for key in ("sigma", "n0", "n", "alpha")}
    known = ", ".join(f"{key} = {value:g}" for key, value in facts.items() if value is not None)
    split = dict(dict(certification.run.config.get("data") or {}).get("subset") or {}).get("split", "test")
    return f"- {certification.run.label}: {known}; {certification.images} images of the {split} split."


def _class(node: Mapping[str, Any], suffix: str) -> str | None:
    """The name of a config's class, without the common ending."""
    return str(node["_target_"]).rpartition(".")[2].removesuffix(suffix) if "_target_" in node else None


def _network(model: Mapping[str, Any]) -> str | None:
    network = dict(model.get("network") or {})
    name = _class(network, "")
    plain = {
        key: value
        for key, value in network.items()
        if key in ("name", "depth", "width", "widen_factor", "shortcut") and value is not None
    }
    return name and f"{name}({', '.join(f'{key}={value}' for key, value in plain.items())})"
