"""Training of rankers: their data, fits and calibration."""
