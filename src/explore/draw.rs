//! The page of a generator that makes images of edges: one draws, and sees the image.

use std::net::TcpListener;
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::backend::{Backend, Statistics};
use crate::data::drawing::lines;
use crate::data::edges::edges;
use crate::explore::gate::{self, File, Gate, Made};
use crate::explore::http::{Answer, Method, Request, listen};
use crate::gan::sampler::{Sampler, with_pictures};
use crate::gan::sheet::to_pixels;
use crate::model::StateDict;
use crate::model::arch::Dimensions;
use crate::random::{Purpose, Stream};

/// Drawings that wait; who has more waits with them.
const QUEUE: usize = 16;
/// Pixels a side of a drawing at most.
const LARGEST: usize = 1024;

const PAGE: [File; 4] = [
    (
        "",
        "text/html; charset=utf-8",
        include_str!("page/draw.html"),
    ),
    (
        "style.css",
        "text/css; charset=utf-8",
        include_str!("page/style.css"),
    ),
    (
        "draw.css",
        "text/css; charset=utf-8",
        include_str!("page/draw.css"),
    ),
    (
        "draw.js",
        "text/javascript; charset=utf-8",
        include_str!("page/draw.js"),
    ),
];

/// Edges, u8 `[size][size]`, and where their image goes.
type Job = (Vec<u8>, SyncSender<Made>);

struct Routes {
    gate: Gate,
    size: usize,
    jobs: SyncSender<Job>,
}

/// Answers the page's requests below `/TOKEN/` and computes on this thread: images by the generator `dict`. It does not
/// return.
///
/// # Errors
/// Where the network cannot be made or no thread can be started.
pub fn serve<B: Backend>(
    backend: &B,
    dict: &StateDict,
    dimensions: &Dimensions,
    listener: TcpListener,
    token: &str,
) -> Result<()> {
    let (jobs, queue) = sync_channel(QUEUE);
    let size = dimensions.image_size;
    let routes = Routes {
        gate: Gate {
            token: token.to_string(),
            port: listener.local_addr().context("no address")?.port(),
        },
        size,
        jobs,
    };
    let mut sampler = Sampler::new(backend, dimensions, 1)?;
    sampler.load(dict)?;
    let mut z = vec![0.0; dimensions.latent_dim];
    Stream::new(0, Purpose::Sample, 0).fill_normal(&mut z);
    let longest = (LARGEST * LARGEST).max(3 * size * size);
    listen(listener, longest, move |request| routes.answer(request))?;
    let mut image = |picture: &[u8]| -> Result<Vec<u8>> {
        sampler.set_z(backend, &with_pictures(dimensions, picture, &z))?;
        let image = sampler.images(backend, Statistics::Running)?;
        ensure!(
            image.iter().all(|v| v.is_finite()),
            "the generator gives values that are not finite"
        );
        let pixels = to_pixels(&image, dimensions.channels, size);
        let rgba = pixels.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]);
        Ok(rgba.collect())
    };
    for (picture, reply) in queue {
        // Who asked may be gone.
        let _ = reply.send(image(&picture).map_err(|error| format!("{error:#}")));
    }
    Ok(())
}

impl Routes {
    fn answer(&self, request: &Request) -> Answer {
        let name = match self.gate.name(request, &PAGE) {
            Ok(name) => name,
            Err(answer) => return answer,
        };
        match (name, request.method) {
            ("model.json", Method::Get | Method::Head) => {
                let model = json!({ "size": self.size, "version": env!("CARGO_PKG_VERSION") });
                Answer::ok("application/json", model.to_string().into_bytes())
            }
            ("image", Method::Post) => self.image(&request.body),
            ("edges", Method::Post) => self.edges(&request.body),
            ("model.json" | "image" | "edges", _) => Answer::error(405, "another method is needed"),
            _ => gate::not_found(),
        }
    }

    /// The image of a drawing, u8 `[side][side]`, dark on light: RGBA `[size][size][4]`.
    fn image(&self, body: &[u8]) -> Answer {
        let side = body.len().isqrt();
        if side == 0 || side * side != body.len() || side > LARGEST {
            return Answer::error(
                400,
                "a square drawing is needed, a byte a pixel, not too large",
            );
        }
        let picture = match lines(body.to_vec(), side, side, self.size) {
            Ok(picture) => picture,
            Err(error) => return Answer::error(400, &format!("{error:#}")),
        };
        gate::made(&self.jobs, |reply| (picture, reply))
    }

    /// The edges of a photograph, RGB u8 `[size][size][3]`: u8 `[size][size]`.
    fn edges(&self, body: &[u8]) -> Answer {
        if body.len() != 3 * self.size * self.size {
            return Answer::error(400, "the photograph has another size than the images");
        }
        Answer::ok("application/octet-stream", edges(body, self.size, 3))
    }
}
