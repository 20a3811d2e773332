//! Who may ask for what, and what is answered.

use std::net::TcpListener;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::explore::gate::{self, File, Gate};
use crate::explore::http::{Answer, Body, Method, Request, listen};
use crate::explore::model::describe;
use crate::explore::worker::{Event, Job, MOST_EVENTS, MOST_IMAGES, work};
use crate::hex::hex;
use crate::latent::directions::Direction;
use crate::latent::encoder::Encoder;
use crate::latent::generator::Generator;

/// Jobs that wait for the worker; who has more waits with them.
const QUEUE: usize = 64;
/// Larger numbers are no vectors of anything.
const LARGEST: f32 = 1e4;

/// The page, by the name of each file.
pub const PAGE: [File; 4] = [
    (
        "",
        "text/html; charset=utf-8",
        include_str!("page/index.html"),
    ),
    (
        "style.css",
        "text/css; charset=utf-8",
        include_str!("page/style.css"),
    ),
    (
        "latent.js",
        "text/javascript; charset=utf-8",
        include_str!("page/latent.js"),
    ),
    (
        "app.js",
        "text/javascript; charset=utf-8",
        include_str!("page/app.js"),
    ),
];

/// A word that nobody guesses: other users of this machine reach its loopback too.
///
/// # Errors
/// Where the system has no random numbers.
pub fn token() -> Result<String> {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    read.context("the system gives no random numbers (/dev/urandom)")?;
    Ok(hex(&bytes))
}

/// What every request is answered by.
struct Routes {
    gate: Gate,
    model: String,
    latent_dim: usize,
    channels: usize,
    size: usize,
    jobs: SyncSender<Job>,
}

/// Answers the page's requests below `/TOKEN/` and computes on this thread; `encoder` makes inversions better. It does
/// not return.
///
/// # Errors
/// Where the networks cannot be made or no thread can be started.
pub fn serve(
    generator: &Generator,
    directions: &[Direction],
    encoder: Option<&Encoder>,
    listener: TcpListener,
    token: &str,
) -> Result<()> {
    let (jobs, queue) = sync_channel(QUEUE);
    let dimensions = generator.dimensions;
    let routes = Routes {
        gate: Gate {
            token: token.to_string(),
            port: listener.local_addr().context("no address")?.port(),
        },
        model: describe(generator, directions)?.to_string(),
        latent_dim: dimensions.latent_dim,
        channels: dimensions.channels,
        size: dimensions.image_size,
        jobs,
    };
    let longest = (MOST_IMAGES * 4 * dimensions.latent_dim)
        .max(3 * dimensions.image_size * dimensions.image_size);
    listen(listener, longest, move |request| routes.answer(request))?;
    work(generator, encoder, &queue)
}

impl Routes {
    fn answer(&self, request: &Request) -> Answer {
        let name = match self.gate.name(request, &PAGE) {
            Ok(name) => name,
            Err(answer) => return answer,
        };
        match (name, request.method) {
            ("model.json", Method::Get | Method::Head) => {
                Answer::ok("application/json", self.model.clone().into_bytes())
            }
            ("images", Method::Post) => self.images(&request.body),
            ("invert", Method::Post) => self.invert(&request.body),
            ("model.json" | "images" | "invert", _) => {
                Answer::error(405, "another method is needed")
            }
            _ => gate::not_found(),
        }
    }

    /// The pictures of vectors.
    fn images(&self, body: &[u8]) -> Answer {
        let row = 4 * self.latent_dim;
        let rows = body.len() / row;
        if body.is_empty() || !body.len().is_multiple_of(row) || rows > MOST_IMAGES {
            return Answer::error(
                400,
                "whole vectors of 32-bit floats are needed, not too many",
            );
        }
        let z: Vec<f32> = bytemuck::pod_collect_to_vec(body);
        if !z.iter().all(|v| v.abs() <= LARGEST) {
            return Answer::error(400, "these numbers are too large");
        }
        gate::made(&self.jobs, |reply| Job::Images(z, reply))
    }

    /// The vector of a photograph, RGB u8 `[h][w][3]`: lines of JSON on how it goes, the last with the vector.
    fn invert(&self, body: &[u8]) -> Answer {
        let area = self.size * self.size;
        if body.len() != 3 * area {
            return Answer::error(
                400,
                "the photograph has another size than the generator's images",
            );
        }
        let at = |channel: usize, pixel: usize| f32::from(body[3 * pixel + channel]) / 127.5 - 1.0;
        let mut image = Vec::with_capacity(self.channels * area);
        for channel in 0..self.channels {
            image.extend((0..area).map(|pixel| match self.channels {
                1 => (at(0, pixel) + at(1, pixel) + at(2, pixel)) / 3.0,
                _ => at(channel, pixel),
            }));
        }
        // There is room for all of them: a page that does not read holds nobody up.
        let (events, told) = sync_channel(MOST_EVENTS);
        if self.jobs.send(Job::Invert(image, events)).is_err() {
            return gate::ended();
        }
        Answer {
            status: 200,
            mime: "application/x-ndjson",
            body: Body::Pieces(lines(told)),
        }
    }
}

/// An event a line. The worker is never held up for longer than a page takes to be given up.
fn lines(told: Receiver<Event>) -> Box<dyn Iterator<Item = Vec<u8>> + Send> {
    let mut over = false;
    Box::new(std::iter::from_fn(move || {
        if over {
            return None;
        }
        let event = told.recv_timeout(Duration::from_secs(600)).ok()?;
        let line = match event {
            Event::Step(step, of) => json!({"step": step, "of": of}),
            Event::Done(z, psnr) => {
                over = true;
                json!({"z": z, "psnr": psnr})
            }
            Event::Failed(text) => {
                over = true;
                json!({"error": text})
            }
        };
        Some(format!("{line}\n").into_bytes())
    }))
}
