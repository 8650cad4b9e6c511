"""A DataLoader whose worker processes load images from a store."""

from __future__ import annotations

import numpy as np
import ray
import torch
from torch.utils.data import DataLoader, Dataset

from polystore import FileManager
from polystore_ray import RayBackendRegistry


class Images(Dataset[torch.Tensor]):
    """The images at the given paths of the cluster memory."""

    def __init__(self, fm: FileManager, paths: list[str]) -> None:
        self.fm, self.paths = fm, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        # Copy: a loaded array is a read-only view of shared memory.
        return torch.from_numpy(self.fm.load(self.paths[index], backend="memory").copy())


def main() -> None:
    """Load batches in two worker processes."""
    ray.init(num_cpus=2, object_store_memory=200 * 2**20)
    fm = FileManager(RayBackendRegistry("training"))
    paths = [f"/images/{i}.npy" for i in range(8)]
    fm.save_batch([np.full((4, 4), i, "f4") for i in range(8)], paths, backend="memory")

    # Not 'fork', the default of older Pythons on Linux: Ray's connections do not work after a fork.
    loader = DataLoader(
        Images(fm, paths), batch_size=4, num_workers=2, multiprocessing_context="spawn"
    )
    print([batch.mean().item() for batch in loader])


if __name__ == "__main__":
    main()
