//! The sheet of generated images with their nearest training images.

use image::RgbImage;

use crate::evaluate::Reference;
use crate::evaluate::neighbours::Neighbour;
use crate::latent::picture::{Cell, Sheet};

/// Generated images of either kind.
const ROWS: usize = 6;
/// Neighbours of each.
pub const EACH: usize = 6;

/// The sheet: first the generated images that are nearest to a training image, then the first ones as they come, each
/// with its nearest training images. Distances are over `typical`, the median distance of a real image from its nearest
/// other one.
pub fn sheet(
    reference: &Reference,
    generated: &[u8],
    found: &[Vec<Neighbour>],
    typical: f64,
) -> RgbImage {
    let size = reference.size();
    let mut sheet = Sheet::new(3, size);
    sheet.title("generated images and their nearest training images");
    sheet.title(format!(
        "{}, among {}; 1 is typical of real images",
        reference.neighbours_by(),
        reference.among()
    ));
    let headings = (1..=EACH).map(|place| format!("nearest {place}"));
    sheet.headings(std::iter::once("generated".to_string()).chain(headings));
    let first = |row: usize| {
        found[row]
            .first()
            .map_or(f64::INFINITY, |near| near.distance)
    };
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|&a, &b| first(a).total_cmp(&first(b)).then(a.cmp(&b)));
    let rows = order.iter().take(ROWS).map(|&row| ("closest", row));
    for (label, row) in rows.chain((0..found.len().min(ROWS)).map(|row| ("sample", row))) {
        let bytes = size * size * 3;
        let own = planes(&generated[row * bytes..][..bytes]);
        let mut cells = vec![Cell::Image(own, String::new())];
        for near in &found[row] {
            let caption = match typical > 0.0 {
                true => format!("{:.2}", near.distance / typical),
                false => format!("{:.3}", near.distance),
            };
            cells.push(Cell::Image(planes(reference.image(near.index)), caption));
        }
        sheet.row(format!("{label} {row}"), cells);
    }
    sheet.draw()
}

/// An image u8 HWC as f32 CHW in [−1, 1].
fn planes(pixels: &[u8]) -> Vec<f32> {
    let channel = |c: usize| pixels.iter().skip(c).step_by(3);
    (0..3)
        .flat_map(channel)
        .map(|&v| f32::from(v) / 127.5 - 1.0)
        .collect()
}
