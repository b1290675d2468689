"""The look of all pictures, and saving them whole."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from pulsetrain.output import whole_file

HIT_COLOUR = "#d95f02"
MISS_COLOUR = "#1b6ca8"
FRAME_COLOUR = "#9a9a9a"
THRESHOLD_COLOUR = "#111111"
FAILED_COLOUR = "#b3202c"
STAGE_COLOURS = ("#1b6ca8", "#d95f02", "#2c7a4b")
STAGE_NAMES = ("high gain", "medium gain", "low gain")


def new_figure(width=9.0, height=4.5, **subplots):
    """Make a figure and its axes [inches], with the look that all pictures share."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained", **subplots)
    return figure, axes


def save_figure(figure, path, attributes):
    """Write a figure as PNG, whole or not at all, with its provenance as text in the file, and close it."""
    with whole_file(path) as part:
        figure.savefig(part, dpi=130, format="png", metadata={"Software": "pulsetrain"} | attributes)
    plt.close(figure)


def say_nothing_to_show(axes, reason):
    """Put the reason into an empty picture: a run without frames still gets its page."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes, fontsize=12, wrap=True)
