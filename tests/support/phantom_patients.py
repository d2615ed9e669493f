"""Series of phantoms that stand for several patients."""

import numpy as np

from kspacesr_rt.kspace.phantoms import brain_phantom


def save_heads(folder, *, patients, noise, seed=0, n=3):
    """Write phantoms of several patients, each of its own contrast and noise."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for patient in range(patients):
        heads = np.stack(
            [brain_phantom((128, 112), seed=100 * seed + 10 * patient + k) for k in range(n)]
        )
        level = noise * rng.uniform(0.5, 2.0)
        noisy = heads + level * (
            rng.standard_normal(heads.shape) + 1j * rng.standard_normal(heads.shape)
        )
        np.save(folder / f"patient{seed}{patient:02d}_T2.npy", np.abs(noisy).astype(np.float32))
    return folder
