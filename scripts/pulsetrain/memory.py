"""Memory that a job needs, known before it starts; imports nothing heavy, so that the rules can ask."""

from pulsetrain.detector import PIXELS

MOST_CELLS = 352  # memory cells of AGIPD, https://doi.org/10.1107/S1600577518016077
BLOCK_MB = 32  # bytes read at once (stored or, where several frames share a chunk, unpacked)
INTERPRETER_MB = 400  # Python with numpy, numba, h5py and the compiled kernels


def litpixels_mb(stream, threads, n_cells=MOST_CELLS):
    """Memory that counting one module takes [MB = 1e6 bytes], whatever the number of frames up to some millions.

    Parameters
    ----------
    stream : str
        ``"raw"`` or ``"proc"``.
    threads : int
    n_cells : int
        Memory cells in use.

    Returns
    -------
    int
        Interpreter, two blocks being read and one being unpacked, work space of the threads, tables of the
        frames and chunks (some 100 bytes for each of a million frames), and per cell the mask (uint8), the powder
        and the counts (uint32), for raw data also three offsets and gains (float32), two limits (uint16), and
        room for reading them.
    """
    per_cell = PIXELS * (1 + 4 + 4)
    if stream == "raw":
        per_cell += PIXELS * (3 * 4 + 3 * 4 + 2 * 2 + 3 * 4)
    blocks = 3 * BLOCK_MB * 1e6
    work = threads * 8 * PIXELS * 4
    tables = 250e6
    return int(INTERPRETER_MB + (n_cells * per_cell + blocks + work + tables) / 1e6)
