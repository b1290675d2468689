"""Particles of the simulator: their scattered intensity as a function of the scattering vector, and orientations."""

import numpy as np

from pulsetrain.detector import wavelength_m

# The blob: a sum of Gaussian densities. No centre, no axis and no mirror plane of symmetry; its outermost centre
# plus two widths is 17 nm from the origin, so a speckle is 2 pi / 34 nm = 0.18 / nm wide.
BLOB_CENTRES_NM = np.array(
    [
        [11.9, 1.3, -4.6],
        [-7.4, 9.1, 2.2],
        [-3.1, -10.6, 6.3],
        [2.7, 4.4, 11.2],
        [-8.8, -3.5, -7.9],
        [0.6, -1.9, -1.2],
    ]
)
BLOB_WIDTHS_NM = np.array([2.0, 2.3, 1.8, 2.1, 1.9, 2.6])
BLOB_WEIGHTS = np.array([1.0, 1.35, 0.8, 1.1, 0.9, 1.5])


def rotation_matrices(quaternion):
    """Rotation matrices of unit quaternions.

    Convention: q = (w, x, y, z), active rotation r' = R(q) r. A particle of orientation q has the density
    rho(R^T r) in the laboratory, so its intensity there is I_lab(q_vector) = I_body(R^T q_vector); with rows as
    vectors, ``q_body = q_lab @ R``. The laboratory frame is EXtra-geom's: z along the beam.

    Parameters
    ----------
    quaternion : ndarray, (n, 4)

    Returns
    -------
    ndarray, (n, 3, 3)
    """
    w, x, y, z = np.moveaxis(np.asarray(quaternion, dtype=float), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def wavenumber_per_nm(photon_energy_kev):
    """2 pi / wavelength [1/nm]."""
    return 2 * np.pi / (wavelength_m(photon_energy_kev) * 1e9)


def blob_intensity(q_vectors):
    """Intensity of the blob in its own frame: I(q) = |sum_k a_k exp(-q^2 s_k^2 / 2) exp(i q.r_k)|^2.

    Parameters
    ----------
    q_vectors : ndarray of float, (..., 3)
        [1/nm], with |q| = 4 pi sin(theta) / wavelength.

    Returns
    -------
    ndarray, (...,)
        Same precision as `q_vectors`.
    """
    q_vectors = np.asarray(q_vectors)
    kind = q_vectors.dtype.type
    q_squared = np.einsum("...i,...i->...", q_vectors, q_vectors)
    phase = q_vectors @ BLOB_CENTRES_NM.T.astype(kind)
    real = np.zeros_like(q_squared)
    imaginary = np.zeros_like(q_squared)
    for k, (weight, width) in enumerate(zip(BLOB_WEIGHTS, BLOB_WIDTHS_NM, strict=True)):
        amplitude = kind(weight) * np.exp(q_squared * kind(-(width**2) / 2))
        real += amplitude * np.cos(phase[..., k])
        imaginary += amplitude * np.sin(phase[..., k])
    return real**2 + imaginary**2


def spheroid_intensity(q_vectors, a_nm, c_nm):
    """Intensity of a homogeneous spheroid in its own frame, relative to q = 0.

    |3 (sin x - x cos x) / x^3|^2 with x^2 = a^2 (qx^2 + qy^2) + c^2 qz^2 (Guinier and Fournet 1955, section 2.1).

    Parameters
    ----------
    q_vectors : ndarray of float, (..., 3)
        [1/nm]; the polar axis is z.
    a_nm, c_nm : float
        Equatorial and polar radius.

    Returns
    -------
    ndarray, (...,)
        Same precision as `q_vectors`.
    """
    q_vectors = np.asarray(q_vectors)
    scale = np.array([a_nm, a_nm, c_nm]).astype(q_vectors.dtype)
    x = np.sqrt(np.einsum("...i,...i->...", q_vectors * scale, q_vectors * scale))
    x = np.maximum(x, q_vectors.dtype.type(0.05))  # the series is 1 there; below, float32 cancels
    return (3 * (np.sin(x) - x * np.cos(x)) / x**3) ** 2
