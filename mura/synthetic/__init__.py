"""Synthetic radiographs in MURA's layout, to try the program where MURA can't be. No reader of data imports this room.

Bones are hollow tubes in space (cm): projected, shaded by the length of the ray's path in them, and exposed. Only
`+ - * /`, square roots and integers touch the pixels, so that a seed gives the same picture on every machine.
"""
