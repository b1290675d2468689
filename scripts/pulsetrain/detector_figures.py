"""Pictures on the assembled detector, by EXtra-geom."""

import h5py
import numpy as np
from extra_geom import AGIPD_1MGeometry
from matplotlib.colors import ListedColormap, LogNorm, PowerNorm

from pulsetrain.detector import MASK_BIT_NAMES
from pulsetrain.figures import new_figure, say_nothing_to_show

GALLERY_PIXELS = 160  # half side of the pictures of single hits, around the beam axis
GALLERY_BIN = 2


def draw_assembled(geometry_path, image, title, units, log=True, colours="viridis"):
    """One image on the assembled detector, seen along the beam, with a colour bar.

    Parameters
    ----------
    geometry_path : str
        CrystFEL geometry.
    image : ndarray, (16, 512, 128)
        (module, slow_scan, fast_scan); NaN where there is nothing to show.
    title : str
    units : str
        Of `image`.
    log : bool
        Logarithmic colours.
    colours : str
        Colour map.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = new_figure(8, 7.2)
    if not np.isfinite(image).any():
        say_nothing_to_show(axes, f"{title}: nothing to show")
        return figure
    axes.set_title(title, fontsize=11)
    geometry = AGIPD_1MGeometry.from_crystfel_geom(geometry_path)
    show_assembled(geometry, figure, axes, image, units, _norm(image, log), colours)
    return figure


def show_assembled(
    geometry, figure, axes, image, units, norm, colours="viridis", no_value=None, extend="neither", pixel_mm=(0.2, 0.2)
):
    """Draw one image on the assembled detector into given axes, seen along the beam, with a colour bar.

    Parameters
    ----------
    geometry : extra_geom.AGIPD_1MGeometry or another detector's
    figure : matplotlib.figure.Figure
    axes : matplotlib.axes.Axes
    image : ndarray, (16, 512, 128) or as the geometry wants it
        (module, slow_scan, fast_scan); gaps and pixels that are NaN stay white.
    units : str
        Of `image`.
    norm : matplotlib.colors.Normalize
        With its limits.
    colours : str
        Colour map.
    no_value : tuple of (ndarray of bool, str), optional
        Pixels (16, 512, 128) to be drawn in a colour of their own, and that colour.
    extend : str
        Ends of the colour bar beyond which there are values.
    pixel_mm : tuple of float
        Distance of rows and of columns [mm].
    """
    assembled, centre = geometry.position_modules(image)
    if isinstance(norm, LogNorm):
        # A logarithmic scale cannot show zeros; they are drawn in its lowest colour, gaps stay white.
        assembled = np.where(assembled <= 0, norm.vmin, assembled)
    height, width = assembled.shape
    row_mm, column_mm = pixel_mm
    # Looking along the beam +x points to the left, so the columns are turned round, as EXtra-geom does.
    extent = (
        (width - centre[1]) * column_mm,
        -centre[1] * column_mm,
        -centre[0] * row_mm,
        (height - centre[0]) * row_mm,
    )
    # Averaging colours where the picture has fewer pixels than the detector: no single row or hot pixel is lost.
    place = {"origin": "lower", "extent": extent, "interpolation": "antialiased", "interpolation_stage": "rgba"}
    if no_value is not None:
        where, colour = no_value
        unknown, _ = geometry.position_modules(np.where(where, 1.0, np.nan))
        axes.imshow(unknown[:, ::-1], cmap=ListedColormap([colour]), **place)
    picture = axes.imshow(assembled[:, ::-1], norm=norm, cmap=colours, **place)
    axes.plot(0, 0, "+", color="#d1495b", markersize=10)
    axes.set(xlabel="x [mm]", ylabel="y [mm]", aspect="equal")
    figure.colorbar(picture, ax=axes, shrink=0.85, label=units, extend=extend)


def draw_powder(geometry_path, powder_path, name, counts_name, title):
    """Mean photons per frame and pixel of all frames, hits or misses.

    Parameters
    ----------
    geometry_path, powder_path : str
    name, counts_name : str
        Datasets of the sum and of the frames in which each pixel counts, both (16, 512, 128).
    title : str
    """
    with h5py.File(powder_path) as file:
        total, counts = file[name][()].astype(float), file[counts_name][()]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counts > 0, total / counts, np.nan)
    return draw_assembled(geometry_path, mean, f"{title} ({counts.max(initial=0)} frames)", "photons / pixel / frame")


def draw_mask(geometry_path, mask_paths, outlier_paths, modules):
    """Fraction of the memory cells in which each pixel is bad, with the causes in the title.

    Parameters
    ----------
    geometry_path : str
    mask_paths, outlier_paths : list of str
        Per module in use, ``masks/r...._m...h5`` and ``masks/r...._outliers_m...h5``.
    modules : list of int
    """
    fraction = np.full((16, 512, 128), np.nan)
    causes = dict.fromkeys(MASK_BIT_NAMES, 0)
    cells_seen = 0
    for module, mask_path, outlier_path in zip(modules, mask_paths, outlier_paths, strict=True):
        with h5py.File(mask_path) as static, h5py.File(outlier_path) as outliers:
            n_cells = static["mask"].shape[0]
            bad = np.zeros((512, 128))
            for cell in range(n_cells):
                bits = static["mask"][cell] | outliers["mask"][cell]
                bad += bits != 0
                for bit in causes:
                    causes[bit] += np.count_nonzero(bits & bit)
            if n_cells:
                fraction[module] = bad / n_cells
            cells_seen += n_cells
    total = max(cells_seen, 1) * 512 * 128
    named = [f"{MASK_BIT_NAMES[bit]} {100 * count / total:.2f} %" for bit, count in causes.items() if count]
    title = "\n".join(", ".join(named[start : start + 2]) for start in range(0, len(named), 2)) or "no bad pixels"
    return draw_assembled(geometry_path, fraction, title, "fraction of the memory cells", log=False, colours="magma")


def draw_gallery(geometry_path, cxi_path, n_images=12):
    """The hits with most photons, assembled, from strongest to weaker."""
    with h5py.File(cxi_path) as file:
        entry = file["entry_1"]
        photons = entry["instrument_1/detector_1/photon_counts"][()]
        strongest = np.argsort(-photons, kind="stable")[:n_images]
        if not len(strongest):
            figure, axes = new_figure(8, 3)
            say_nothing_to_show(axes, "The run has no hits.")
            return figure
        columns = min(4, len(strongest))
        rows = -(-len(strongest) // columns)
        figure, grid = new_figure(3.4 * columns, 3.3 * rows + 0.5, ncols=columns, nrows=rows, squeeze=False)
        geometry = AGIPD_1MGeometry.from_crystfel_geom(geometry_path)
        brightest = 1
        pictures = []
        for axes, hit in zip(grid.flat, strongest, strict=False):
            image = entry["instrument_1/detector_1/data"][hit].astype(float)
            image[entry["instrument_1/detector_1/mask"][hit] != 0] = np.nan
            assembled, centre = geometry.position_modules(image)
            height, width = assembled.shape
            window = slice(max(centre[0] - GALLERY_PIXELS, 0), min(centre[0] + GALLERY_PIXELS, height))
            across = slice(max(centre[1] - GALLERY_PIXELS, 0), min(centre[1] + GALLERY_PIXELS, width))
            inner = _binned(assembled[window, across], GALLERY_BIN)
            brightest = max(brightest, np.nanmax(inner, initial=1, where=np.isfinite(inner)))
            # A logarithmic scale cannot show zeros; they are drawn in its lowest colour, gaps stay white.
            shown = np.where(inner < 0.5, 0.5, inner)
            pictures.append(axes.imshow(shown[:, ::-1], origin="lower", cmap="viridis", interpolation="nearest"))
            axes.set_title(
                f"train {entry['trainId'][hit]} pulse {entry['pulseId'][hit]}\n{photons[hit]:.0f} photons", fontsize=8
            )
        for picture in pictures:
            picture.set_norm(LogNorm(vmin=0.5, vmax=brightest))
        for axes in grid.flat:
            axes.set_axis_off()
        bar = figure.colorbar(pictures[0], ax=grid, shrink=0.7, pad=0.01)
        bar.set_label(f"photons in {GALLERY_BIN} x {GALLERY_BIN} pixels")
    return figure


def _norm(image, log):
    finite = image[np.isfinite(image)]
    if log and (finite > 0).any():
        low, high = np.percentile(finite[finite > 0], [1, 99.9])
        return LogNorm(vmin=max(low, high * 1e-4), vmax=max(high, low * 1.01))
    return PowerNorm(1, vmin=0, vmax=max(finite.max(), 1e-9))


def _binned(image, size):
    """Sum of size x size pixels; a block without any pixel of the detector stays NaN."""
    rows, columns = (length // size * size for length in image.shape)
    blocks = image[:rows, :columns].reshape(rows // size, size, columns // size, size)
    gap = np.isnan(blocks).all(axis=(1, 3))
    return np.where(gap, np.nan, np.nansum(blocks, axis=(1, 3)))
