//! Antialiased painting without allocation: features are signed distances in the head's own coordinates, laid over
//! each other inside their bounding boxes.

/// sRGB, red, green and blue in 0..=1.
pub type Color = [f32; 3];

/// A rectangle in head coordinates.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Left and right end.
    pub x: [f32; 2],
    /// Upper and lower end.
    pub y: [f32; 2],
}

impl Bounds {
    /// From the corner `x0`, `y0` to the corner `x1`, `y1`.
    pub fn new(x0: f32, y0: f32, x1: f32, y1: f32) -> Self {
        Self {
            x: [x0, x1],
            y: [y0, y1],
        }
    }

    /// What an ellipse around `center` with the half axes `rx` and `ry` fills.
    pub fn around(center: [f32; 2], rx: f32, ry: f32) -> Self {
        Self::new(
            center[0] - rx,
            center[1] - ry,
            center[0] + rx,
            center[1] + ry,
        )
    }
}

/// A square image in f32, and the map from its pixels to head coordinates.
pub struct Canvas {
    size: usize,
    pixels: Vec<Color>,
    /// Head coordinates of the upper left corner of the image.
    corner: [f32; 2],
    /// Side of a pixel in head coordinates.
    pixel: f32,
    /// Pixels a unit of head coordinates.
    per_pixel: f32,
}

impl Canvas {
    /// A black image of `size`·`size` pixels. It spans −1..1 both ways; the head's origin is at `origin` of it, and one
    /// head unit is `scale` of it.
    pub fn new(size: usize, origin: [f32; 2], scale: f32) -> Self {
        let pixel = 2.0 / (size as f32 * scale);
        Self {
            size,
            pixels: vec![[0.0; 3]; size * size],
            corner: origin.map(|o| (-1.0 - o) / scale),
            pixel,
            per_pixel: 1.0 / pixel,
        }
    }

    /// Side of a pixel in head coordinates.
    pub fn pixel(&self) -> f32 {
        self.pixel
    }

    /// The whole image in head coordinates.
    pub fn bounds(&self) -> Bounds {
        let side = self.pixel * self.size as f32;
        Bounds::new(
            self.corner[0],
            self.corner[1],
            self.corner[0] + side,
            self.corner[1] + side,
        )
    }

    /// Calls `paint(x, y, pixel)` with the centre of every pixel that may touch `bounds`.
    #[inline(always)]
    pub fn paint(&mut self, bounds: Bounds, paint: impl Fn(f32, f32, &mut Color)) {
        let range = |[low, high]: [f32; 2], corner: f32| {
            let first = ((low - corner) * self.per_pixel - 1.0).floor().max(0.0) as usize;
            let end = ((high - corner) * self.per_pixel + 1.0).ceil().max(0.0) as usize;
            (first.min(self.size), end.min(self.size))
        };
        let (x0, x1) = range(bounds.x, self.corner[0]);
        let (y0, y1) = range(bounds.y, self.corner[1]);
        if x0 >= x1 {
            return;
        }
        for row in y0..y1 {
            let y = self.corner[1] + (row as f32 + 0.5) * self.pixel;
            let pixels = &mut self.pixels[row * self.size + x0..row * self.size + x1];
            for (column, pixel) in pixels.iter_mut().enumerate() {
                let x = self.corner[0] + ((x0 + column) as f32 + 0.5) * self.pixel;
                paint(x, y, pixel);
            }
        }
    }

    /// Lays an ellipse of one colour around `center`, with the half axes `rx` and `ry`, over the image; `alpha` is its
    /// opacity, 0 to 1.
    pub fn ellipse(&mut self, center: [f32; 2], rx: f32, ry: f32, color: Color, alpha: f32) {
        let cover = self.edge();
        self.paint(Bounds::around(center, rx, ry), |x, y, pixel| {
            let a = cover.inside(ellipse(x - center[0], y - center[1], rx, ry));
            over(pixel, color, a * alpha);
        });
    }

    /// Lays over the image a patch that fades out towards the rim of an ellipse: shadows, blush, highlights.
    pub fn glow(&mut self, center: [f32; 2], rx: f32, ry: f32, color: Color, alpha: f32) {
        let (ix, iy) = (1.0 / rx, 1.0 / ry);
        self.paint(Bounds::around(center, rx, ry), |x, y, pixel| {
            let (u, v) = ((x - center[0]) * ix, (y - center[1]) * iy);
            let fade = (1.0 - u * u - v * v).max(0.0);
            over(pixel, color, alpha * fade * fade);
        });
    }

    /// Lays over the image a line of constant width with round ends.
    pub fn line(&mut self, from: [f32; 2], to: [f32; 2], radius: f32, color: Color, alpha: f32) {
        let cover = self.edge();
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let inverse = 1.0 / (dx * dx + dy * dy).max(1e-9);
        let bounds = Bounds::new(
            from[0].min(to[0]) - radius,
            from[1].min(to[1]) - radius,
            from[0].max(to[0]) + radius,
            from[1].max(to[1]) + radius,
        );
        self.paint(bounds, |x, y, pixel| {
            let (px, py) = (x - from[0], y - from[1]);
            let t = ((px * dx + py * dy) * inverse).clamp(0.0, 1.0);
            let (ex, ey) = (px - t * dx, py - t * dy);
            let distance = (ex * ex + ey * ey).sqrt();
            over(pixel, color, alpha * cover.stroke(distance, radius));
        });
    }

    /// What tells how much of a pixel lies inside an edge.
    pub fn edge(&self) -> Edge {
        Edge {
            per_pixel: self.per_pixel,
        }
    }

    /// The image rounded to bytes: size·size·3 u8, HWC RGB.
    pub fn into_rgb(self) -> Vec<u8> {
        let mut bytes = vec![0; self.pixels.len() * 3];
        for (out, pixel) in bytes.chunks_exact_mut(3).zip(&self.pixels) {
            for (byte, &value) in out.iter_mut().zip(pixel) {
                *byte = (value * 255.0 + 0.5) as u8;
            }
        }
        bytes
    }
}

/// Coverage of a pixel by shapes given as signed distances (negative inside), in head units.
#[derive(Clone, Copy)]
pub struct Edge {
    per_pixel: f32,
}

impl Edge {
    /// The share of a pixel, 0 to 1, inside of one edge: what a pixel-wide box filter gives for a straight edge along
    /// an axis.
    #[inline(always)]
    pub fn inside(self, distance: f32) -> f32 {
        (0.5 - distance * self.per_pixel).clamp(0.0, 1.0)
    }

    /// The share between two edges, `low` and `high` being how far the pixel is past the one and before the other.
    /// Right for shapes thinner than a pixel too.
    #[inline(always)]
    pub fn between(self, low: f32, high: f32) -> f32 {
        (self.inside(-low) + self.inside(-high) - 1.0).max(0.0)
    }

    /// The share within `radius` of a curve at `distance`.
    #[inline(always)]
    pub fn stroke(self, distance: f32, radius: f32) -> f32 {
        self.between(distance + radius, radius - distance)
    }
}

/// Lays `color` over `pixel` with the opacity `alpha`, 0 to 1.
#[inline(always)]
pub fn over(pixel: &mut Color, color: Color, alpha: f32) {
    for (p, c) in pixel.iter_mut().zip(color) {
        *p += (c - *p) * alpha;
    }
}

/// The colour between `a` (at `t` = 0) and `b` (at 1).
#[inline(always)]
pub fn mix(a: Color, b: Color, t: f32) -> Color {
    [0, 1, 2].map(|i| a[i] + (b[i] - a[i]) * t)
}

/// The colour times `factor`, kept within 0..=1.
#[inline(always)]
pub fn dim(color: Color, factor: f32) -> Color {
    color.map(|c| (c * factor).clamp(0.0, 1.0))
}

/// Smooth step from 0 at `from` to 1 at `to`.
#[inline(always)]
pub fn ramp(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Signed distance (negative inside) from `x`, `y` to an ellipse at the origin, to first order: exact at the rim.
#[inline(always)]
pub fn ellipse(x: f32, y: f32, rx: f32, ry: f32) -> f32 {
    let (u, v) = (x / rx, y / ry);
    let value = u * u + v * v - 1.0;
    let (gx, gy) = (u / rx, v / ry);
    // Far inside the gradient vanishes; there the bound below is as good as the distance.
    0.5 * value / (gx * gx + gy * gy).sqrt().max(0.5 / rx.max(ry))
}

/// A cheap stand-in for sin(2π·`turns`): period 1, range −1..=1, smooth.
#[inline(always)]
pub fn wave(turns: f32) -> f32 {
    // Truncation after a shift is floor without a call to the C library; no face has 256 turns left of its centre.
    let shifted = turns + 256.0;
    let t = shifted - shifted as i32 as f32 - 0.5;
    let s = 16.0 * t * (0.5 - t.abs());
    // One refinement of the parabola brings the error below 0.2 %.
    s * (0.775 + 0.225 * s.abs())
}
