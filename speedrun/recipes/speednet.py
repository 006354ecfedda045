"""speednet: the default. The planner chooses width, depth, resolutions, batch and cutout for the seconds there are."""

from speedrun.config import Config

SUMMARY = "whitened fast net trained by Muon; size and schedule chosen for the budget"
CONFIG = Config(recipe="speednet")
