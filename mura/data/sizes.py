"""The side of the cached pictures follows from the side of the network's input."""

MARGIN = 8 / 7  # what rotation and shift find around the picture: 224 -> 256
STEP = 16


def cache_size_for(image_size: int) -> int:
    """Side in pixels, so that models of one input size share one cache: 224 -> 256, 320 -> 368, 64 -> 80."""
    return -(-round(image_size * MARGIN) // STEP) * STEP
