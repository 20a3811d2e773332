//! What computes for the page: the one thread that owns the generator.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};

use anyhow::{Result, bail, ensure};

use crate::backend::Use;
use crate::explore::gate::Made;
use crate::gan::sheet::to_pixels;
use crate::latent::encoder::Encoder;
use crate::latent::generator::Generator;
use crate::latent::invert::{Helpers, Settings, invert};
use crate::latent::networks::Piece;

/// Images of one request at most.
pub const MOST_IMAGES: usize = 32;
/// How a photograph is inverted: less than `latent invert` does, since somebody waits.
const SETTINGS: Settings = Settings {
    steps: 200,
    restarts: 4,
    rounds: 3,
    features: 0.0,
    prior: 1e-3,
    stages: 0,
    added: 0.0,
    seed: 0,
};
/// Steps of one inversion at most.
const STEPS: usize = SETTINGS.steps + SETTINGS.rounds;
/// Events of one inversion at most.
pub const MOST_EVENTS: usize = STEPS + 2;
/// Photographs that may wait.
const MOST_WAITING: usize = 8;

/// What is to be computed.
pub enum Job {
    /// The pictures of vectors, f32 `[n][latent_dim]`.
    Images(Vec<f32>, SyncSender<Made>),
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

/// What makes pictures, and the photographs that wait.
struct Worker<'a> {
    generator: &'a Generator<'a>,
    single: Box<dyn Piece + 'a>,
    many: Box<dyn Piece + 'a>,
    waiting: VecDeque<(Vec<f32>, SyncSender<Event>)>,
}

/// Does the jobs that come, until nobody is left to send any. Pictures come between the steps of an inversion.
///
/// # Errors
/// Where the networks cannot be made.
pub fn work(generator: &Generator, encoder: Option<&Encoder>, jobs: &Receiver<Job>) -> Result<()> {
    let all = 0..generator.blocks();
    let mut worker = Worker {
        generator,
        single: generator.piece(all.clone(), 1, Use::Inference)?,
        many: generator.piece(all, MOST_IMAGES.min(16), Use::Inference)?,
        waiting: VecDeque::new(),
    };
    loop {
        if let Some((image, events)) = worker.waiting.pop_front() {
            let end = worker
                .invert(encoder, &image, &events, jobs)
                .unwrap_or_else(|error| Event::Failed(format!("{error:#}")));
            // Who asked may be gone.
            let _ = events.send(end);
        } else {
            let Ok(job) = jobs.recv() else { return Ok(()) };
            worker.take(job);
        }
    }
}

impl Worker<'_> {
    /// Makes pictures at once, and has photographs wait.
    fn take(&mut self, job: Job) {
        // Who asked may be gone.
        match job {
            Job::Images(z, reply) => {
                let pictures = self.pictures(&z);
                let _ = reply.send(pictures.map_err(|error| format!("{error:#}")));
            }
            Job::Invert(_, events) if self.waiting.len() >= MOST_WAITING => {
                let busy = "too many photographs are waiting: try again in a moment";
                let _ = events.send(Event::Failed(busy.to_string()));
            }
            Job::Invert(image, events) => self.waiting.push_back((image, events)),
        }
    }

    /// The vector of a photograph; other jobs are taken meanwhile.
    fn invert(
        &mut self,
        encoder: Option<&Encoder>,
        image: &[f32],
        events: &SyncSender<Event>,
        jobs: &Receiver<Job>,
    ) -> Result<Event> {
        let generator = self.generator;
        let helpers = Helpers {
            encoder,
            discriminator: None,
        };
        let mut steps = 0;
        let points = invert(generator, helpers, image, &SETTINGS, &mut |_, _, _| {
            steps += 1;
            ensure!(
                events.send(Event::Step(steps, STEPS)).is_ok(),
                "the page is gone"
            );
            loop {
                match jobs.try_recv() {
                    Ok(job) => self.take(job),
                    Err(TryRecvError::Empty) => return Ok(()),
                    Err(TryRecvError::Disconnected) => bail!("this server has ended"),
                }
            }
        })?;
        let found = self.single.forward(&points.z)?;
        let squares = found
            .iter()
            .zip(image)
            .map(|(a, b)| f64::from(a - b).powi(2));
        let error = squares.sum::<f64>() / image.len() as f64;
        // Pixels span 2.
        let psnr = 10.0 * (4.0 / error.max(1e-12)).log10();
        Ok(Event::Done(points.z, psnr as f32))
    }

    /// RGBA `[n][h][w][4]` of vectors.
    fn pictures(&mut self, z: &[f32]) -> Result<Vec<u8>> {
        let dimensions = self.generator.dimensions;
        let images = if z.len() == dimensions.latent_dim {
            self.single.forward(z)?
        } else {
            self.many.forward_all(z)?
        };
        ensure!(
            images.iter().all(|v| v.is_finite()),
            "the picture is not finite: use smaller numbers"
        );
        let mut out = Vec::with_capacity(images.len() / dimensions.channels * 4);
        for image in images.chunks_exact(self.generator.image_len()) {
            let pixels = to_pixels(image, dimensions.channels, dimensions.image_size);
            for rgb in pixels.chunks_exact(3) {
                out.extend_from_slice(&[rgb[0], rgb[1], rgb[2], 255]);
            }
        }
        Ok(out)
    }
}
