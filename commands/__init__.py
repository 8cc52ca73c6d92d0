"""The commands of ``stream-ann``, one module each. They parse and print; the pipelines do the work."""

__all__: list[str] = []
