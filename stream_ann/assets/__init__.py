"""The bundled demo clip and its labels; data only."""
