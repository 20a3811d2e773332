//! A local page on which the latent space of a generator is explored.
//!
//! The page holds vectors and directions and adds them up itself; `worker` makes pictures of vectors, so that the
//! server has no state that could grow, and a shared file ([`share`]) needs the generator in JavaScript and nothing else.

pub mod draw;
mod gate;
mod http;
mod model;
mod routes;
pub mod share;
mod worker;

pub use routes::{serve, token};
