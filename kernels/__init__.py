"""Device kernels: augmentation, and parts of a training step.

Importing this package alone imports neither torch nor Triton. `kernels.augment` makes batches: uint8 NHWC images in,
augmented channels-last half out, in one pass:

    from kernels.augment import Augmentation, augment

    images = torch.from_numpy(array).cuda()              # uint8 (N, H, W, 3), the whole data set
    recipe = Augmentation(flip="random", translate=4)    # a compile-time constant
    batch = augment(images, index, recipe, mean=mean, std=std, seed=0, epoch=3, dtype=torch.float16)

`batch` is (B, 3, H, W) in channels-last memory format. What happens to an image depends on (seed, epoch, its index in
the data set) alone: not on the batch that it is in, nor on the device.

`kernels.newton_schulz` orthogonalises all the filters of a net at once, `kernels.pool_norm` pools, normalises
and activates, `kernels.conv_pool` convolves before that, `kernels.whiten` whitens and activates, `kernels.conv_fp8`
convolves in 8-bit floats. For CPUs are `kernels.winograd` and `kernels.conv_cpu`, which convolve, and
`kernels.norm_cpu`, which pools, normalises and activates; `kernels.native` compiles the C code of two of them.
"""
