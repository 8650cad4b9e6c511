"""The pytest plugin, in projects of its own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

OPTIONS = "-W error -p no:cacheprovider -p no:zarr -p no:asyncio --strict-config --strict-markers"


def test_fixtures_give_file_managers_on_what_is_the_tests_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import numpy as np
        import pytest

        VALUE = np.arange(3)

        @pytest.mark.parametrize("again", [1, 2])
        @pytest.mark.parametrize("key", ["memory", "disk", "zarr"])
        def test_backends(key, again, request, tmp_path):
            fm = request.getfixturevalue(f"polystore_{key}")
            fm.save(VALUE, "/a.npy", backend=key)
            assert fm.load("/a.npy", backend=key).tolist() == [0, 1, 2]
            assert (tmp_path / "a.npy").exists() == (key != "memory")

        @pytest.mark.parametrize("again", [1, 2])
        def test_local(polystore_local, again):
            assert polystore_local.list_dir("/", backend="memory") == []
            polystore_local.save(VALUE, "/a.npy", backend="memory")
            assert not polystore_local.load("/a.npy", backend="memory").flags.writeable

        @pytest.mark.parametrize("again", ["a/b", "a/c"])
        def test_ray(polystore_ray, again):
            import ray

            assert "test_ray-a-" in repr(polystore_ray)
            assert polystore_ray.list_dir("/", backend="memory") == []
            polystore_ray.save(VALUE, "/a.npy", backend="memory")
            total = ray.remote(lambda fm: fm.load("/a.npy", backend="memory").sum())
            assert ray.get(total.remote(polystore_ray)) == 3

        def test_what_the_ini_file_says():
            import ray

            assert ray.cluster_resources()["CPU"] == 3
            assert ray.cluster_resources()["object_store_memory"] == 100 * 2**20
        """
    )
    pytester.makeini(
        f"""
        [pytest]
        polystore_ray_cpus = 3
        polystore_ray_object_store_mib = 100
        addopts = {OPTIONS}
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=11)


def test_nothing_is_loaded_until_a_fixture_is_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_loaded(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("polystore")
            assert {"numpy", "polystore", "polystore_ray", "ray", "zarr"}.isdisjoint(sys.modules)
        """
    )
    # zarr has a plugin too, which loads it: it is left out above.
    result = pytester.runpytest_subprocess(*OPTIONS.split())
    result.assert_outcomes(passed=1)


def test_a_promise_that_fails_explains_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from polystore import MemoryBackend
        from polystore.testing import Readable

        class Empty(MemoryBackend):
            def list_dir(self, path):
                return []

        class TestEmpty(Readable):
            @pytest.fixture
            def backend(self):
                return Empty()
        """
    )
    result = pytester.runpytest_subprocess(*OPTIONS.split())
    assert "assert [] == ['a.npy', 'b.npy']" in result.stdout.str()
