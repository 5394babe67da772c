"""``hart web``: a page on which a person tries prompts, presets and calibration."""
