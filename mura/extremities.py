"""The seven extremities of MURA, their order, and the names of MURA's folders. The only place."""

TOP_FOLDER = "MURA-v1.1"
BOXES = "boxes.csv"
"""Beside the lists of a synthetic data set: where its findings are. Its presence says that the data are synthetic."""

EXTREMITIES: tuple[str, ...] = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")

FOLDER_OF: dict[str, str] = {name: f"XR_{name.upper()}" for name in EXTREMITIES}
EXTREMITY_OF: dict[str, str] = {folder: name for name, folder in FOLDER_OF.items()}
INDEX_OF: dict[str, int] = {name: position for position, name in enumerate(EXTREMITIES)}

ALL_SEVEN = "unified"
"""The name of the data set that pools them."""


def data_name(extremities: list[str]) -> str:
    """Return the name of a set of extremities: `wrist`, `finger+wrist`, `without-wrist` for six, `unified` for all."""
    chosen = [name for name in EXTREMITIES if name in extremities]
    absent = [name for name in EXTREMITIES if name not in extremities]
    if not absent:
        return ALL_SEVEN
    return f"without-{absent[0]}" if len(absent) == 1 else "+".join(chosen)
