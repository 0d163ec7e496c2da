"""The seven extremities of MURA: their names, order and folder names; and the arms of a study. The only place."""

EXTREMITIES: tuple[str, ...] = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")

FOLDER_OF: dict[str, str] = {name: f"XR_{name.upper()}" for name in EXTREMITIES}
EXTREMITY_OF: dict[str, str] = {folder: name for name, folder in FOLDER_OF.items()}
INDEX_OF: dict[str, int] = {name: position for position, name in enumerate(EXTREMITIES)}

UNIFIED = "unified"
LEAVE_ONE_OUT = "leave_one_out"
ARMS = (UNIFIED, "specialised", "shared", "finetuned", LEAVE_ONE_OUT)
"""The ways to train that a study compares, in the order in which they are told of."""


def data_name(extremities: list[str]) -> str:
    """Name of a set of extremities: `wrist`, `finger+wrist`, `without-wrist` for six, `unified` for all seven."""
    chosen = [name for name in EXTREMITIES if name in extremities]
    absent = [name for name in EXTREMITIES if name not in extremities]
    if not absent:
        return UNIFIED
    return f"without-{absent[0]}" if len(absent) == 1 else "+".join(chosen)


def arm_of(extremities: list[str]) -> str:
    """`unified` for all seven, `specialised` for one, `union` for anything between."""
    if data_name(extremities) == UNIFIED:
        return UNIFIED
    return "specialised" if len(extremities) == 1 else "union"
