//! Sheets of images with words beside them.

use embedded_graphics::Drawable;
use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{Dimensions as _, OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoFont;
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_9X15};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::text::{Baseline, Text};
use image::RgbImage;

use crate::gan::sheet::to_pixels;

/// Pixels between images, and around the whole.
const GAP: usize = 4;
/// An image is enlarged by a whole number to at least as many pixels a side.
const LEAST: usize = 96;

/// A place of a sheet.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Cell {
    /// Nothing.
    #[default]
    Empty,
    /// An image, f32 `[c][h][w]` in [−1, 1], and what stands below it; nothing where that is empty.
    Image(Vec<f32>, String),
}

/// Rows of images with labels: what a tool of the latent space shows.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    channels: usize,
    size: usize,
    title: Vec<String>,
    headings: Vec<String>,
    rows: Vec<(String, Vec<Cell>)>,
}

impl Sheet {
    /// An empty sheet for images of `channels`, `size` pixels a side.
    pub fn new(channels: usize, size: usize) -> Self {
        Self {
            channels,
            size,
            ..Self::default()
        }
    }

    /// Adds a line above everything.
    pub fn title(&mut self, line: impl Into<String>) {
        self.title.push(line.into());
    }

    /// Sets what stands above each column.
    pub fn headings(&mut self, headings: impl IntoIterator<Item = String>) {
        self.headings = headings.into_iter().collect();
    }

    /// Adds a row, with its label in front.
    pub fn row(&mut self, label: impl Into<String>, cells: Vec<Cell>) {
        self.rows.push((label.into(), cells));
    }

    /// Adds a row of images, f32 `[n][c][h][w]` in [−1, 1], without labels of their own.
    pub fn images(&mut self, label: impl Into<String>, images: &[f32]) {
        let each = self.channels * self.size * self.size;
        let images = images.chunks_exact(each);
        let cells = images.map(|image| Cell::Image(image.to_vec(), String::new()));
        self.rows.push((label.into(), cells.collect()));
    }

    /// How often each pixel is repeated.
    fn enlarged(&self) -> usize {
        LEAST.div_ceil(self.size.max(1)).max(1)
    }

    /// The picture.
    pub fn draw(&self) -> RgbImage {
        let factor = self.enlarged();
        let cell = self.size * factor;
        let small = &FONT_6X10;
        let large = &FONT_9X15;
        let label_width = self
            .rows
            .iter()
            .map(|(label, _)| text_width(small, label))
            .max()
            .filter(|&width| width > 0)
            .map_or(0, |width| width + GAP);
        let columns = self.rows.iter().map(|(_, cells)| cells.len());
        let columns = columns.max().unwrap_or(0).max(self.headings.len());
        let line = |font: &MonoFont| font.character_size.height as usize + 2;
        let title_height = self.title.len() * line(large);
        let heading_height = if self.headings.is_empty() {
            0
        } else {
            line(small)
        };
        let captioned = |cells: &[Cell]| {
            let has = |cell: &Cell| matches!(cell, Cell::Image(_, caption) if !caption.is_empty());
            cells.iter().any(has)
        };
        let title_width = self.title.iter().map(|line| text_width(large, line)).max();
        let width = (2 * GAP + label_width + columns * (cell + GAP))
            .max(title_width.unwrap_or(0) + 2 * GAP);
        let rows_height: usize = self
            .rows
            .iter()
            .map(|(_, cells)| cell + GAP + if captioned(cells) { line(small) } else { 0 })
            .sum();
        let height = 2 * GAP + title_height + heading_height + rows_height;
        let mut canvas = Canvas::new(width, height);
        let mut y = GAP;
        for text in &self.title {
            canvas.text(large, GAP, y, width - GAP, text);
            y += line(large);
        }
        let x_of = |column: usize| GAP + label_width + column * (cell + GAP);
        for (column, text) in self.headings.iter().enumerate() {
            canvas.text(small, x_of(column), y, cell, text);
        }
        y += heading_height;
        for (label, cells) in &self.rows {
            let middle = y + (cell.saturating_sub(line(small))) / 2;
            canvas.text(small, GAP, middle, label_width, label);
            for (column, place) in cells.iter().enumerate() {
                let Cell::Image(image, caption) = place else {
                    continue;
                };
                let x = x_of(column);
                let pixels = to_pixels(image, self.channels, self.size);
                canvas.image(&pixels, self.size, factor, (x, y));
                canvas.text(small, x, y + cell + 1, cell, caption);
            }
            y += cell + GAP + if captioned(cells) { line(small) } else { 0 };
        }
        canvas.0
    }
}

/// Pixels that `text` takes in one line.
pub fn text_width(font: &MonoFont, text: &str) -> usize {
    text.chars().count() * font.character_size.width as usize
}

/// A picture that is drawn on: white, with black words.
pub struct Canvas(pub RgbImage);

impl Canvas {
    /// A white one.
    pub fn new(width: usize, height: usize) -> Self {
        let white = image::Rgb([255; 3]);
        Self(RgbImage::from_pixel(width as u32, height as u32, white))
    }

    /// Writes `text` with its upper left corner at (x, y); what is wider than `most` pixels ends in two dots. What the
    /// font lacks is a question mark.
    pub fn text(&mut self, font: &MonoFont, x: usize, y: usize, most: usize, text: &str) {
        let fits = most / font.character_size.width as usize;
        let plain = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
        let mut shown: String = text.chars().map(plain).collect();
        if shown.len() > fits {
            shown.truncate(fits.saturating_sub(2));
            shown.push_str(&".."[..fits.min(2)]);
        }
        let style = MonoTextStyle::new(font, Rgb888::BLACK);
        let at = Point::new(x as i32, y as i32);
        // Drawing cannot fail: the error type is `Infallible`.
        let _ = Text::with_baseline(&shown, at, style, Baseline::Top).draw(self);
    }

    /// Draws an image, u8 `[size][size][3]`, each pixel `factor` times as wide and high, with its corner at `at`.
    pub fn image(&mut self, pixels: &[u8], size: usize, factor: usize, at: (usize, usize)) {
        for (index, rgb) in pixels.chunks_exact(3).enumerate() {
            let (column, row) = (index % size * factor, index / size * factor);
            for (dx, dy) in (0..factor * factor).map(|i| (i % factor, i / factor)) {
                let (x, y) = (at.0 + column + dx, at.1 + row + dy);
                self.0
                    .put_pixel(x as u32, y as u32, image::Rgb([rgb[0], rgb[1], rgb[2]]));
            }
        }
    }

    /// Fills a rectangle.
    pub fn fill(&mut self, at: (usize, usize), size: (usize, usize), color: [u8; 3]) {
        for y in at.1..at.1 + size.1 {
            for x in at.0..at.0 + size.0 {
                self.0.put_pixel(x as u32, y as u32, image::Rgb(color));
            }
        }
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Self::Error>
    where
        I: IntoIterator<Item = Pixel<Self::Color>>,
    {
        let area = self.bounding_box();
        for Pixel(at, color) in pixels {
            if area.contains(at) {
                let rgb = image::Rgb([color.r(), color.g(), color.b()]);
                self.0.put_pixel(at.x as u32, at.y as u32, rgb);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_enlarged_and_labelled() {
        let mut sheet = Sheet::new(1, 32);
        sheet.title("Übung");
        sheet.headings(["left".to_string(), "right".to_string()]);
        let image = vec![-1.0; 32 * 32];
        let labelled = Cell::Image(image.clone(), "dark".to_string());
        sheet.row("row", vec![labelled, Cell::Empty]);
        sheet.images("", &image);
        let picture = sheet.draw();
        let black = picture.pixels().filter(|p| p.0 == [0; 3]).count();
        assert!(
            black > 2 * 96 * 96 + 50 && black < 2 * 96 * 96 + 1000,
            "{black}"
        );
        assert_eq!(
            picture.width() as usize,
            2 * GAP + (18 + GAP) + 2 * (96 + GAP)
        );
    }
}
