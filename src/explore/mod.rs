//! A local page on which the latent space of a generator is explored.
