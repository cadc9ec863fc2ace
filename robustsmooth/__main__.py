"""All commands behind one: ``robustsmooth train ...`` is ``python -m robustsmooth.train ...``."""

import difflib
import importlib
import os
import runpy
import sys

import robustsmooth

COMMANDS = {
    "train": "train a classifier for randomized smoothing",
    "certify": "certify the test images of a trained network",
    "predict": "predict the test images with a smoothed network",
    "attack": "attack the test images of a trained network",
    "measure": "measure agreement with the vote, inference time, or smoothed inference",
    "report": "tables, figures and an HTML page about runs",
    "export": "export a trained network as safetensors or ONNX",
    "illustrate": "draw a figure that needs no network",
}

_HELP = f"""robustsmooth {robustsmooth.__version__}: train, certify, attack and compare image classifiers.

  robustsmooth <command> [group=choice ...] [key=value ...]

Commands
{"".join(f"  {name:<11} {what}{chr(10)}" for name, what in COMMANDS.items())}
`robustsmooth <command> --help` lists its groups, their choices and examples;
`robustsmooth <command> --cfg job` shows its config without running it."""


def main() -> None:
    """Run the command that the first argument names, with the other arguments."""
    sys.path.append(str(os.getcwd()))  # noqa: PTH109 (a text) # the user's classes, as with `python -m`
    first = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if first in ("-h", "--help"):
        print(_HELP)
    elif first == "--version":
        print(f"robustsmooth {robustsmooth.__version__}")
    elif first in ("-sc", "--shell-completion"):
        _complete()
    elif first in COMMANDS:
        del sys.argv[1]
        # As `python -m` does, so that Lightning can start the same command line in other processes.
        runpy.run_module(f"robustsmooth.{first}", run_name="__main__", alter_sys=True)
    else:
        close = difflib.get_close_matches(first, COMMANDS, n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        known = ", ".join(COMMANDS)
        print(f"robustsmooth: there is no command `{first}`{guess} (known are {known})", file=sys.stderr)
        sys.exit(2)


def _complete() -> None:
    """Shell completion: of the command's name, then Hydra's completion of its settings."""
    program, *words = os.environ.get("COMP_LINE", "robustsmooth train ").split(" ")
    if len(words) < 2:
        print(" ".join(name for name in COMMANDS if name.startswith(words[0] if words else "")))
    elif words[0] in COMMANDS:
        os.environ["COMP_LINE"] = " ".join([program, *words[1:]])
        sys.argv[0] = "robustsmooth"
        name = "report.__main__" if words[0] == "report" else words[0]
        getattr(importlib.import_module(f"robustsmooth.{name}"), words[0])()


if __name__ == "__main__":
    main()
