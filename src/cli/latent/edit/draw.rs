//! What an edit leaves: images, a sheet, and the points.

use anyhow::Result;

use crate::cli::latent::Workshop;
use crate::cli::latent::output::Output;
use crate::gan::sheet::{png, to_pixels};
use crate::latent::animation::{Animation, Format};
use crate::latent::files::LatentFile;
use crate::latent::picture::{Cell, Sheet};
use crate::latent::points::Points;

/// More faces than this are not drawn onto the sheet.
const ROWS: usize = 64;
/// Frames a second of the animation.
const FPS: u32 = 8;

/// Writes `columns`, the faces after the change, one column a strength (or one in all), beside the faces themselves.
///
/// # Errors
/// Where an image cannot be made or a file not written.
pub fn write(
    workshop: &Workshop,
    output: &mut Output,
    faces: &Points,
    columns: &[Points],
    strengths: &[f32],
    title: &str,
) -> Result<()> {
    let generator = workshop.generator;
    let (channels, size) = (
        generator.dimensions.channels,
        generator.dimensions.image_size,
    );
    let each = generator.image_len();
    let n = faces.len();
    let digits = n.to_string().len().max(2);
    let originals = generator.images(faces)?;
    let mut images = Vec::with_capacity(columns.len());
    for column in columns {
        workshop.stop.check()?;
        images.push(generator.images(column)?);
    }
    let label = |column: usize| match strengths.get(column) {
        Some(strength) => format!("{strength:+.1}"),
        None => "edited".to_string(),
    };
    let mut sheet = Sheet::new(channels, size);
    sheet.title(title);
    sheet.headings(std::iter::once("as it was".to_string()).chain((0..columns.len()).map(label)));
    // Strengths nearer than a tenth get more digits in names of files, lest two be one.
    let close = strengths
        .windows(2)
        .any(|pair| (pair[1] - pair[0]).abs() < 0.1);
    let in_file = |column: usize| match strengths.get(column) {
        Some(strength) if close => format!("{strength:+.3}"),
        _ => label(column),
    };
    for face in 0..n {
        let of = |images: &[f32]| images[face * each..][..each].to_vec();
        let cells = std::iter::once(&originals).chain(&images);
        let cells: Vec<Cell> = cells
            .map(|images| Cell::Image(of(images), String::new()))
            .collect();
        let name = format!("images/face-{:0digits$}", face + 1);
        let picture = |image: &[f32]| -> Result<Vec<u8>> {
            let pixels = to_pixels(image, channels, size);
            let side = size as u32;
            let picture = image::RgbImage::from_raw(side, side, pixels).unwrap_or_default();
            png(picture)
        };
        output.write(
            &format!("{name}_original.png"),
            &picture(&of(&originals))?,
            false,
        )?;
        for (column, images) in images.iter().enumerate() {
            let name = format!("{name}_{}.png", in_file(column));
            output.write(&name, &picture(&of(images))?, false)?;
        }
        if face < ROWS {
            sheet.row(format!("face {}", face + 1), cells);
        }
    }
    output.picture("sheet.png", sheet.draw())?;
    if columns.len() > 1 {
        // There and back, all faces in turn.
        let there = 0..columns.len();
        let back = (1..columns.len() - 1).rev();
        let order: Vec<usize> = there.chain(back).collect();
        let shown = n.min(ROWS);
        let mut bytes = Vec::new();
        let mut animation =
            Animation::new(Format::Gif, &mut bytes, size, order.len() * shown, FPS)?;
        for face in 0..shown {
            for &column in &order {
                let image = &images[column][face * each..][..each];
                animation.frame(&to_pixels(image, channels, size))?;
            }
        }
        animation.finish()?;
        output.write("edit.gif", &bytes, true)?;
    }
    let mut points = Points::default();
    for face in 0..n {
        for column in columns {
            points.append(&column.point(face))?;
        }
    }
    let file = LatentFile {
        points,
        generator: Some(generator.identity.clone()),
        made_by: format!(
            "latent edit: {title}; face by face, {} of each",
            columns.len()
        ),
        ..LatentFile::default()
    };
    output.latents("latents.safetensors", &file, &generator.architecture())?;
    Ok(())
}
