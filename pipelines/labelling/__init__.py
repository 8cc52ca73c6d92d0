"""The parts of :func:`pipelines.label`: inputs, work in units, the workers here or on a cluster, and the outputs."""

__all__: list[str] = []
