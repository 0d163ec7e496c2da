"""Synthetic radiographs in MURA's layout, to try the program where MURA can't be. No reader of data imports this room.

Public are `dataset.write_dataset` and `sheet.write_preview`; behind them stand the plan of patients (`plan`), the bones
(`anatomy`), what is wrong with them (`findings`), and the way to pixels (`projection`, `exposure`, `picture`).

Bones are hollow tubes in space (cm): projected, shaded by the length of the ray's path in them, and exposed. Only
`+ - * /`, square roots and integers touch the pixels, so that a seed gives the same picture on every machine.
"""
