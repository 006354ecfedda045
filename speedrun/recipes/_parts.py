"""What several recipes have in common."""

from speedrun.config import AugmentConfig, OptimConfig

# The augmentation and the SGD of most published trainings; each recipe adds its rate.
CROP_AND_FLIP = AugmentConfig(flip="random", translate=4, padding="zero", cutout=0)
SGD = OptimConfig(filters="sgd", momentum=0.9, weight_decay=5e-4, label_smoothing=0.0, schedule="cosine")
# Muon for nets whose logits are not divided by the width, as speednet's are: its companion's rates are smaller by that.
MUON = OptimConfig(momentum=0.6, bias_lr=2e-4, head_lr=1e-4, weight_decay=1e-6, label_smoothing=0.1, warmup=0.1)
