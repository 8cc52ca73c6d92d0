"""Faults, in real processes: kills, signals, full disks, limits, lost cameras; nothing may be lost or hang."""
