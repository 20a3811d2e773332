//! The tools of the latent space.

#[path = "../driver/mod.rs"]
mod driver;
#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../training/mod.rs"]
mod training;

mod arithmetic;
mod classifier;
mod components;
mod edit;
mod factorise;
mod fit;
mod forget;
mod invert;
mod logistic;
mod networks;
mod walk;
