//! The tools of the latent space.

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
