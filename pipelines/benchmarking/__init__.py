"""The parts of the frame-rate benchmark, which :mod:`pipelines.bench` puts together."""

__all__: list[str] = []
