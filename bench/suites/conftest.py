"""Say in every benchmark file what its numbers depend on, without host or user names."""

from kspacesr_rt.bench.run.environment import environment


def pytest_benchmark_update_machine_info(config, machine_info):
    """Drop what names the machine."""
    machine_info.pop("node", None)


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Add the environment, and leave the raw timings of every round out."""
    output_json["environment"] = environment()
    for one in output_json["benchmarks"]:
        one["stats"].pop("data", None)
