"""Running a plan step by step on a device."""
