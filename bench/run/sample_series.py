"""Series of a wanted size, cut out of the sample."""

from __future__ import annotations

from pydicom import dcmread
from pydicom.dataset import Dataset

from kspacesr_rt.sample import sample_folder


def cut_sample(n_slices: int, size: int) -> list[Dataset]:
    """Return the first slices of the sample, in the order of their names, and of each the middle.

    Parameters
    ----------
    n_slices
        How many; the sample has 20.
    size
        Rows and columns that stay of 256.
    """
    datasets: list[Dataset] = []
    for path in sorted(sample_folder().glob("*.dcm"))[:n_slices]:
        dataset = dcmread(path)
        first = [(extent - size) // 2 for extent in (dataset.Rows, dataset.Columns)]
        rows, columns = (slice(start, start + size) for start in first)
        dataset.PixelData = dataset.pixel_array[rows, columns].tobytes()
        dataset.Rows = dataset.Columns = size
        datasets.append(dataset)
    return datasets
