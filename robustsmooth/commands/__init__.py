"""What makes a function of a config a command.

    @command("train")
    def train(cfg: DictConfig) -> None: ...

    if __name__ == "__main__":
        train()

Nothing heavy is imported here, so that ``--help`` and a misspelt key answer at once.
"""

from robustsmooth.commands.composing import conf_dir, register_resolvers
from robustsmooth.commands.describing import describe, environment, prepare, write_description
from robustsmooth.commands.explaining import explain
from robustsmooth.commands.running import command, nested

__all__ = [
    "command",
    "conf_dir",
    "describe",
    "environment",
    "explain",
    "nested",
    "prepare",
    "register_resolvers",
    "write_description",
]
