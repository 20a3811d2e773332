//! One file an operation, named as the file in `cuda/` whose kernels it launches; `batch_norm_grid` is a part of `batch_norm`.

pub mod activation;
pub mod adam;
pub mod augment;
pub mod balance;
pub mod batch;
pub mod batch_norm;
mod batch_norm_grid;
pub mod cast;
pub mod concatenate;
pub mod conv2d;
pub mod conv_bias_relu;
pub mod conv_transpose2d;
pub mod conv_wgrad;
pub mod gan_loss;
pub mod gradient_penalty;
pub mod instance_noise;
pub mod l1_loss;
pub mod latent;
pub mod logits;
pub mod pool;
pub mod resize;
pub mod spectral_norm;
