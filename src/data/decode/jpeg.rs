//! JPEG files (ITU-T T.81): decoded without reading the headers more than once, and told whether they are whole.

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{Limits, budget};

/// What is said of a JPEG whose image data end before its pixels do.
const CUT: &str = "its image data end too early, and what is missing is filled in";

/// Zeros behind the image data, in the place of the end marker: a decoder that gets through all of them had not enough.
const PADDING: usize = 64;

/// What the markers of a JPEG say of it.
pub struct Layout {
    /// Where the end marker begins; `None` where there is none.
    pub end: Option<usize>,
    progressive: bool,
    /// Components of the frame.
    components: usize,
    pixels: u64,
    scans: usize,
    /// Units between restarts; 0 for none.
    interval: u64,
    restarts: u64,
    /// Whether a scan has not all components.
    apart: bool,
    /// The lowest bit that came of each coefficient of each component; [`NEVER`] where none did.
    lowest: [[u8; 64]; 4],
    /// The numbers of the components, in the order of the frame.
    numbers: [u8; 4],
    /// Units of 8×8 or more that the frame has, where its components are interleaved.
    units: u64,
}

const NEVER: u8 = 99;

impl Layout {
    /// Follows the markers from the start of the file to its end marker.
    pub fn read(bytes: &[u8]) -> Self {
        let mut layout = Self {
            end: None,
            progressive: false,
            components: 0,
            pixels: 0,
            scans: 0,
            interval: 0,
            restarts: 0,
            apart: false,
            lowest: [[NEVER; 64]; 4],
            numbers: [0; 4],
            units: 0,
        };
        let mut at = 2;
        while let Some(found) = bytes
            .get(at..)
            .and_then(|rest| rest.iter().position(|&b| b == 0xFF))
        {
            at += found + 1;
            match bytes.get(at) {
                None => break,
                Some(0xD9) => {
                    layout.end = Some(at - 1);
                    break;
                }
                // A fill byte: the marker is still to come.
                Some(0xFF) => {}
                // A stuffed byte of entropy-coded data, or a marker without a length.
                Some(&marker @ (0x00 | 0x01 | 0xD0..=0xD8)) => {
                    layout.restarts += u64::from((0xD0..=0xD7).contains(&marker));
                    at += 1;
                }
                // A segment: its length counts itself. Thumbnails with an end of their own are inside one.
                Some(&marker) => {
                    let Some(length) = bytes.get(at + 1..at + 3) else {
                        break;
                    };
                    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                    let end = (at + 1 + length).min(bytes.len());
                    layout.segment(marker, bytes.get(at + 3..end).unwrap_or_default());
                    at += 1 + length;
                }
            }
        }
        layout
    }

    fn segment(&mut self, marker: u8, body: &[u8]) {
        match (marker, body) {
            (0xDD, &[high, low, ..]) => self.interval = u64::from(u16::from_be_bytes([high, low])),
            (
                0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF,
                &[_, h0, h1, w0, w1, n, ..],
            ) => {
                self.progressive |= marker == 0xC2;
                self.components = usize::from(n);
                let (width, height) = (u16::from_be_bytes([w0, w1]), u16::from_be_bytes([h0, h1]));
                let (width, height) = (u64::from(width), u64::from(height));
                self.pixels = width * height;
                let (mut across, mut down) = (1, 1);
                for (place, one) in body[6..].chunks_exact(3).take(4).enumerate() {
                    self.numbers[place] = one[0];
                    across = across.max(u64::from(one[1] >> 4));
                    down = down.max(u64::from(one[1] & 15));
                }
                if n == 1 {
                    (across, down) = (1, 1);
                }
                self.units = width.div_ceil(8 * across) * height.div_ceil(8 * down);
            }
            (0xDA, &[count, ref rest @ ..]) => {
                self.scans += 1;
                self.apart |= usize::from(count) != self.components;
                let count = usize::from(count).min(4);
                let Some(&[first, last, bits]) = rest.get(2 * count..2 * count + 3) else {
                    return;
                };
                let range = usize::from(first.min(63))..=usize::from(last.min(63));
                for one in rest[..2 * count].chunks_exact(2) {
                    let place = self.numbers.iter().position(|number| *number == one[0]);
                    for lowest in &mut self.lowest[place.unwrap_or(3)][range.clone()] {
                        *lowest = bits & 15;
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether scans or restarts are missing that should be there.
    fn lacks_some(&self) -> bool {
        if self.progressive {
            let used = self.lowest.iter().take(self.components.min(4));
            return used.flatten().any(|lowest| *lowest != 0);
        }
        // Each interval but the last ends with one.
        let few = |restarts: u64| restarts + 1 < self.units.div_ceil(self.interval);
        self.interval > 0 && self.scans == 1 && !self.apart && few(self.restarts)
    }

    /// Whether the end marker may be replaced by zeros without a change for what is whole.
    fn can_be_padded(&self) -> bool {
        !self.progressive && self.scans == 1 && !self.apart && self.interval == 0
    }
}

/// A JPEG's pixels.
pub struct Decoded {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Whether there is one sample a pixel, else RGB.
    pub grey: bool,
    /// How it is to be turned.
    pub orientation: Orientation,
    /// What is damaged.
    pub damage: Option<&'static str>,
    /// What it takes of the memory for decoding, until it is done with.
    pub share: budget::Share,
}

/// Decodes a grey or colour JPEG that has an end and is within `limits` into `pixels`, u8 HWC; `None` for any other.
pub fn decode(
    bytes: &[u8],
    layout: &Layout,
    limits: &Limits,
    pixels: &mut Vec<u8>,
) -> Option<Decoded> {
    let end = layout.end?;
    // An end that comes too early reads as one in time: the decoder goes on with zeros for ever. With a few zeros in its
    // place it says when it gets to their end.
    let padded = layout.can_be_padded().then(|| {
        let mut padded = Vec::with_capacity(end + PADDING);
        padded.extend_from_slice(&bytes[..end]);
        padded.resize(end + PADDING, 0);
        padded
    });
    let mut decoder = open(padded.as_deref().unwrap_or(bytes))?;
    let (grey, space) = match decoder.input_colorspace()? {
        ColorSpace::YCbCr | ColorSpace::RGB => (false, ColorSpace::RGB),
        ColorSpace::Luma if layout.components == 1 => (true, ColorSpace::Luma),
        _ => return None,
    };
    let orientation = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif))
        .unwrap_or(Orientation::NoTransforms);
    let (width, height) = decoder.dimensions()?;
    let (width, height) = (u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    let options = decoder.options().jpeg_set_out_colorspace(space);
    decoder.set_options(options.set_strict_mode(padded.is_some()));
    let decoded = decoder.output_buffer_size()?;
    let rgb = 3 * u64::from(width) * u64::from(height);
    if width.max(height) > limits.max_side || rgb > limits.max_bytes {
        return None;
    }
    let turned = orientation != Orientation::NoTransforms;
    let share = budget::take(layout.needed() + if turned { rgb } else { 0 }).ok()?;
    // Damaged data may leave some as they are.
    pixels.clear();
    pixels.resize(decoded, 0);
    let mut damage = layout.lacks_some().then_some(CUT);
    let done = decoder.decode_into(pixels);
    if padded.is_some() && done.is_err() {
        damage = Some(CUT);
        pixels.fill(0);
        let mut decoder = open(bytes)?;
        decoder.set_options(options);
        decoder.decode_into(pixels).ok()?;
    } else {
        done.ok()?;
    }
    Some(Decoded {
        width,
        height,
        grey,
        orientation,
        damage,
        share,
    })
}

/// A decoder that has read the headers. As `image` sets it: what is wrong behind them is passed over.
fn open(bytes: &[u8]) -> Option<JpegDecoder<ZCursor<&[u8]>>> {
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().ok()?;
    Some(decoder)
}

impl Layout {
    /// What is missing, if something is: of a JPEG that [`decode`] does not take.
    pub fn damage(&self) -> Option<&'static str> {
        self.lacks_some().then_some(CUT)
    }

    /// Bytes that it takes to decode it to RGB: what comes in several scans is kept as coefficients meanwhile.
    pub fn needed(&self) -> u64 {
        let components = self.components as u64;
        let coefficients = match self.progressive || self.scans > 1 {
            true => 2 * components * self.pixels,
            false => 0,
        };
        coefficients + components.max(3) * self.pixels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_is_whole_only_with_its_end() {
        // SOI, a segment that holds an end marker, entropy data with a stuffed byte and a restart, EOI.
        let whole = [
            0xFF, 0xD8, 0xFF, 0xE1, 0, 4, 0xFF, 0xD9, 7, 0xFF, 0, 1, 0xFF, 0xD0, 3, 0xFF, 0xD9,
        ];
        assert_eq!(Layout::read(&whole).end, Some(whole.len() - 2));
        for length in 0..whole.len() {
            assert!(Layout::read(&whole[..length]).end.is_none(), "{length}");
        }
    }
}
