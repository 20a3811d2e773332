//! Tables of numbers as pictures: a colour and the number in each cell.

use embedded_graphics::mono_font::MonoFont;
use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_9X15};
use image::RgbImage;
use image::imageops::{replace, rotate270};

use crate::latent::picture::{Canvas, text_width};

/// Pixels around everything.
const GAP: usize = 6;
/// Pixels of a cell: room for five characters.
const CELL: (usize, usize) = (34, 20);
/// Black is legible on the strongest of these.
const LOW: [f64; 3] = [92.0, 148.0, 222.0];
const HIGH: [f64; 3] = [238.0, 122.0, 96.0];

/// A table whose cells are coloured by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// Lines above it.
    pub title: Vec<String>,
    /// Names of the columns, written upwards.
    pub columns: Vec<String>,
    /// Rows: a name, and a number a column; what is not a number is left white.
    pub rows: Vec<(String, Vec<f64>)>,
    /// By column: the number of the strongest red, whose negative is the strongest blue. White is 0.
    pub scales: Vec<f64>,
}

impl Matrix {
    /// A square one of numbers from −1 to 1.
    pub fn square(title: Vec<String>, names: &[String], values: Vec<Vec<f64>>) -> Self {
        Self {
            title,
            columns: names.to_vec(),
            rows: names.iter().cloned().zip(values).collect(),
            scales: vec![1.0; names.len()],
        }
    }

    /// The picture.
    pub fn draw(&self) -> RgbImage {
        let (small, large) = (&FONT_6X10, &FONT_9X15);
        let widest = |font: &MonoFont, texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|text| text_width(font, text)).max().unwrap_or(0)
        };
        let labels = widest(small, &mut self.rows.iter().map(|(name, _)| name)) + GAP;
        let above = widest(small, &mut self.columns.iter()) + GAP;
        let title_width = widest(large, &mut self.title.iter());
        let line = large.character_size.height as usize + 2;
        let (left, top) = (GAP + labels, GAP + self.title.len() * line + above);
        let width = (left + self.columns.len() * CELL.0).max(GAP + title_width) + GAP;
        let height = top + self.rows.len() * CELL.1 + GAP;
        let mut canvas = Canvas::new(width, height);
        for (number, text) in self.title.iter().enumerate() {
            canvas.text(large, GAP, GAP + number * line, width, text);
        }
        let letter = small.character_size.height as usize;
        for (column, name) in self.columns.iter().enumerate() {
            let mut upright = Canvas::new(above, letter);
            upright.text(small, GAP / 2, 0, above, name);
            let x = left + column * CELL.0 + (CELL.0 - letter) / 2;
            let at = (x as i64, (top - above) as i64);
            replace(&mut canvas.0, &rotate270(&upright.0), at.0, at.1);
        }
        for (row, (name, values)) in self.rows.iter().enumerate() {
            let y = top + row * CELL.1;
            let text_y = y + (CELL.1 - letter) / 2;
            canvas.text(small, GAP, text_y, labels, name);
            for (column, &value) in values.iter().enumerate() {
                if !value.is_finite() {
                    continue;
                }
                let x = left + column * CELL.0;
                let scale = self.scales.get(column).copied().unwrap_or(1.0);
                // A white line stays between cells.
                canvas.fill((x, y), (CELL.0 - 1, CELL.1 - 1), colour(value, scale));
                let number = short(value);
                let indent = CELL.0.saturating_sub(text_width(small, &number)) / 2;
                canvas.text(small, x + indent, text_y, CELL.0, &number);
            }
        }
        canvas.0
    }
}

/// From blue by way of white to red.
fn colour(value: f64, scale: f64) -> [u8; 3] {
    let share = if scale > 0.0 { value / scale } else { 0.0 };
    let share = share.clamp(-1.0, 1.0);
    let end = if share < 0.0 { LOW } else { HIGH };
    end.map(|end| (255.0 + (end - 255.0) * share.abs()).round() as u8)
}

/// A number in at most five characters where it is below 10,000: `.35`, `-.35`, `1.00`, `12.3`, `123`.
fn short(value: f64) -> String {
    let text = match value.abs() {
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    match text.as_str() {
        "0.00" | "-0.00" => "0".to_string(),
        text => match text.strip_prefix("0.") {
            Some(rest) => format!(".{rest}"),
            None => text.replacen("-0.", "-.", 1),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.354, ".35"),
            (-0.354, "-.35"),
            (1.0, "1.00"),
            (-0.001, "0"),
            (-9.999, "-10.0"),
            (123.4, "123"),
            (0.999, "1.00"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn cells_have_the_colours_of_their_numbers() {
        let names: Vec<String> = (0..40).map(|i| format!("Attribute_{i:02}")).collect();
        let mut values = vec![vec![0.0; 40]; 40];
        values[0][1] = 1.0;
        values[1][0] = -1.0;
        values[2][2] = f64::NAN;
        let picture = Matrix::square(vec!["A title".to_string()], &names, values).draw();
        let label = 12 * 6 + GAP;
        assert_eq!(picture.width() as usize, 2 * GAP + label + 40 * CELL.0);
        let top = GAP + 17 + label;
        let corner = |row: usize, column: usize| {
            let (x, y) = (GAP + label + column * CELL.0, top + row * CELL.1);
            picture.get_pixel(x as u32, y as u32).0
        };
        assert_eq!(corner(0, 1), HIGH.map(|v| v as u8));
        assert_eq!(corner(1, 0), LOW.map(|v| v as u8));
        assert_eq!(corner(2, 2), [255; 3]);
    }
}
