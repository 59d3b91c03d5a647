"""What does a diffusion denoiser know? Blind UNet denoisers, their sparse representation of images, and its measures."""
