"""The door: what a command line is checked for before anything starts. The only room that knows Hydra and OmegaConf.

No torch here: `--help`, `--cfg job` and a mistyped option must answer at once.
"""

from pathlib import Path

CONF_DIR = Path(__file__).resolve().parent.parent.parent / "conf"
