//! What computes for the page: the one thread that owns the generator.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};

use anyhow::{Result, ensure};

use crate::backend::Use;
use crate::explore::inversion::{Inversion, STEPS};
use crate::gan::sheet::to_pixels;
use crate::latent::generator::Generator;
use crate::latent::networks::Piece;

/// Images of one request at most.
pub const MOST_IMAGES: usize = 32;
/// Events of one inversion at most.
pub const MOST_EVENTS: usize = STEPS + 2;
/// Photographs that may wait.
const MOST_WAITING: usize = 8;

/// What is to be computed.
pub enum Job {
    /// The pictures of vectors, f32 `[n][latent_dim]`.
    Images(Vec<f32>, SyncSender<Result<Vec<u8>, String>>),
    /// The vector of a photograph, f32 `[c][h][w]` in [−1, 1].
    Invert(Vec<f32>, SyncSender<Event>),
}

/// How an inversion goes.
pub enum Event {
    /// After so many steps of so many.
    Step(usize, usize),
    /// The vector, and how near its picture comes, in dB.
    Done(Vec<f32>, f32),
    /// Why there is none.
    Failed(String),
}

/// Does the jobs that come, until nobody is left to send any. A photograph is inverted a step at a time, pictures come
/// in between.
///
/// # Errors
/// Where the networks cannot be made.
pub fn work(generator: &Generator, jobs: &Receiver<Job>) -> Result<()> {
    let all = 0..generator.blocks();
    let mut single = generator.piece(all.clone(), 1, Use::Inference)?;
    let mut many = generator.piece(all, MOST_IMAGES.min(16), Use::Inference)?;
    let mut waiting: std::collections::VecDeque<(Vec<f32>, SyncSender<Event>)> = Default::default();
    let mut inverting: Option<(Inversion, SyncSender<Event>)> = None;
    loop {
        if inverting.is_none()
            && let Some((image, events)) = waiting.pop_front()
        {
            match Inversion::new(generator, image) {
                Ok(inversion) => inverting = Some((inversion, events)),
                Err(error) => drop(events.send(Event::Failed(format!("{error:#}")))),
            }
        }
        let job = match &inverting {
            None => jobs.recv().map_err(|_| TryRecvError::Disconnected),
            Some(_) => jobs.try_recv(),
        };
        match job {
            Ok(Job::Images(z, reply)) => {
                let piece = if z.len() == generator.dimensions.latent_dim {
                    &mut single
                } else {
                    &mut many
                };
                let pictures = pictures(generator, piece.as_mut(), &z);
                // Who asked may be gone.
                let _ = reply.send(pictures.map_err(|error| format!("{error:#}")));
            }
            Ok(Job::Invert(_, events)) if waiting.len() >= MOST_WAITING => {
                let busy = "too many photographs are waiting: try again in a moment";
                let _ = events.send(Event::Failed(busy.to_string()));
            }
            Ok(Job::Invert(image, events)) => waiting.push_back((image, events)),
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {
                if let Some((mut inversion, events)) = inverting.take() {
                    let event = inversion
                        .advance()
                        .unwrap_or_else(|error| Event::Failed(format!("{error:#}")));
                    let goes_on = matches!(event, Event::Step(..));
                    // Nobody waits for one whose page is gone.
                    if events.send(event).is_ok() && goes_on {
                        inverting = Some((inversion, events));
                    }
                }
            }
        }
    }
}

/// RGBA `[n][h][w][4]` of vectors.
fn pictures(generator: &Generator, piece: &mut dyn Piece, z: &[f32]) -> Result<Vec<u8>> {
    let images = piece.forward_all(z)?;
    ensure!(
        images.iter().all(|v| v.is_finite()),
        "the picture is not finite: use smaller numbers"
    );
    let (channels, size) = (
        generator.dimensions.channels,
        generator.dimensions.image_size,
    );
    let mut out = Vec::with_capacity(images.len() / channels * 4);
    for image in images.chunks_exact(generator.image_len()) {
        for rgb in to_pixels(image, channels, size).chunks_exact(3) {
            out.extend_from_slice(&[rgb[0], rgb[1], rgb[2], 255]);
        }
    }
    Ok(out)
}
