"""A DataLoader whose worker processes load the images of a store."""

from __future__ import annotations

import numpy as np
import ray
import torch
from torch.utils.data import DataLoader, Dataset

from polystore import FileManager
from polystore_ray import RayBackendRegistry


class Images(Dataset[torch.Tensor]):
    """The images at some paths of the cluster memory."""

    def __init__(self, fm: FileManager, paths: list[str]) -> None:
        self.fm, self.paths = fm, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        # A copy: what is loaded is a read-only view of shared memory.
        return torch.from_numpy(self.fm.load(self.paths[index], backend="memory").copy())


def main() -> None:
    """Load a batch in two workers."""
    ray.init(num_cpus=2, object_store_memory=200 * 2**20)
    fm = FileManager(RayBackendRegistry("training"))
    paths = [f"/images/{i}.npy" for i in range(8)]
    fm.save_batch([np.full((4, 4), i, "f4") for i in range(8)], paths, backend="memory")

    # Not 'fork', the default of older Pythons on Linux: no connection of Ray outlives a fork.
    loader = DataLoader(
        Images(fm, paths), batch_size=4, num_workers=2, multiprocessing_context="spawn"
    )
    print([batch.mean().item() for batch in loader])


if __name__ == "__main__":
    main()
