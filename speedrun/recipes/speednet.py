"""speednet: the default. The planner chooses width, depth, resolutions, batch and cutout for the seconds there are.

The tiers are fixed points of the same dials, each as long as its percent is expected to take, for whoever compares the
time to an accuracy. None has been measured: they follow published trainings, with Muon and early epochs at fewer pixels
in the place of what those did at 95 % and above. Sources: github.com/KellerJordan/cifar10-airbench (94, 95, 96 %) and
github.com/hiverge/cifar10-speedrun (rates at 94 %), github.com/fulcrumresearch/cifar-10-speedrun (resolutions), and
TrivialAugment, arXiv 2103.10158 (97 %).
"""

from speedrun.config import AugmentConfig, Config, ModelConfig, OptimConfig

SUMMARY = "whitened fast net trained by Muon; size and schedule chosen for the budget"
CONFIG = Config(recipe="speednet")


def _tier(
    epochs: float,
    batch_size: int,
    model: ModelConfig,
    augment: AugmentConfig,
    optim: OptimConfig,
) -> Config:
    return Config(
        epochs=epochs,
        batch_size=batch_size,
        resolutions=(24, 28, 32),
        tta="full",
        uncertain_share=0.25,
        model=model,
        augment=augment,
        optim=optim,
    )


TIERS = {
    "94": _tier(
        8.5,
        1536,
        ModelConfig(widths=(64, 256, 256), depth=2, activation="silu"),
        AugmentConfig(cutout=0),
        OptimConfig(
            lr=0.205,
            momentum=0.655,
            bias_lr=0.0573,
            head_lr=0.5415,
            sgd_momentum=0.825,
            weight_decay=1.0418e-6,
            label_smoothing=0.09,
            whiten_bias=0.025,
        ),
    ),
    "95": _tier(
        13.0,
        1024,
        ModelConfig(widths=(128, 384, 384), depth=2),
        AugmentConfig(cutout=0),
        OptimConfig(lr=0.18, momentum=0.6, whiten_bias=0.2),
    ),
    "96": _tier(
        32.0,
        1024,
        ModelConfig(widths=(128, 384, 512), depth=3),
        AugmentConfig(translate=4, cutout=12),
        OptimConfig(lr=0.18, momentum=0.6, whiten_bias=0.1, warmup=0.1),
    ),
    "97": _tier(
        200.0,
        1024,
        ModelConfig(widths=(256, 768, 1024), depth=3),
        AugmentConfig(translate=4, cutout=8, policy="trivial"),
        OptimConfig(lr=0.18, momentum=0.6, label_smoothing=0.1, whiten_bias=0.02, warmup=0.05),
    ),
}
