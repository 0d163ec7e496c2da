"""mura: one model for all seven upper-limb extremities, or one for each?"""

__version__ = "0.1.0"
