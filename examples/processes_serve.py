"""A Ray Serve deployment on a store that outlives the job that filled it."""

from __future__ import annotations

import numpy as np
import ray
from ray import serve

from polystore import FileManager
from polystore_ray import RayBackendRegistry


@serve.deployment
class Model:
    """Multiply by weights from the cluster memory."""

    def __init__(self, fm: FileManager) -> None:
        self.fm = fm

    def __call__(self, number: float) -> float:
        """Return the number times the sum of the weights."""
        weights = self.fm.load("/weights", backend="memory")
        return float(number * weights.sum())


def main() -> None:
    """Deploy the model, and call it."""
    ray.init(num_cpus=2, object_store_memory=200 * 2**20)
    # Replicas may belong to another job, and a store of this job would end with this job.
    fm = FileManager(RayBackendRegistry("models", lifetime="detached"))
    fm.save(np.arange(4), "/weights", backend="memory", overwrite=True)

    model = serve.run(Model.bind(fm), route_prefix=None)
    print(model.remote(2.0).result())


if __name__ == "__main__":
    main()
