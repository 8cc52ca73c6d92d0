"""Whether anything grows or is lost over a long time. Long: ``make soak``."""
