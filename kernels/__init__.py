"""Device kernels: uint8 NHWC images in, augmented channels-last half out, in one pass."""
