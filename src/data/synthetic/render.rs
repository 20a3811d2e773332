//! Draws a face, back to front: background, hair behind, neck, ears, skin, features, hair in front, glasses, hat.
//!
//! Head coordinates: the origin lies between the eyes, x to the right, y down; the chin is near y = 0.86, the top of
//! the skull near −0.82, the cheeks near x = ±0.57. A turn of the head is a rotation about the vertical axis, seen
//! from far away: features sit at a depth, move by it, and are foreshortened by the slope of the face they sit on.

use std::ops::RangeInclusive;

use super::attributes::{FaceAttributes, HairColor, HatStyle};
use super::canvas::{Bounds, Canvas, Color, dim, ellipse, mix, over, ramp, wave};

/// Sides in pixels that [`render`] draws.
pub const SIZES: RangeInclusive<usize> = 16..=1024;

/// The turn of the head at a yaw of 1, in radians (41°).
const FULL_TURN: f32 = 0.72;
/// How far behind the face the axis that stays in place lies: a turned face moves in the frame by the depth of its
/// features beyond this, which keeps it inside.
const AXIS: f32 = 0.16;
/// Size of the head in the frame, and height of its origin, both in half widths of the image.
const FRAME_SCALE: f32 = 0.98;
const FRAME_HEIGHT: f32 = 0.04;

const INK: Color = [0.09, 0.06, 0.06];
const WHITE: Color = [0.97, 0.97, 0.95];
const EYE_SIDE: f32 = 0.265;
const EYE_DEPTH: f32 = 0.43;
/// Slopes of the face where eyes and mouth corners sit, in radians from frontal.
const EYE_SLOPE: f32 = 0.33;
const MOUTH_SLOPE: f32 = 0.25;

/// Draws `face` at `size`·`size`: size·size·3 u8, HWC RGB. The same face and size give the same bytes.
///
/// # Panics
/// Where `size` is not in [`SIZES`].
pub fn render(face: &FaceAttributes, size: usize) -> Vec<u8> {
    assert!(SIZES.contains(&size), "size {size} is outside {SIZES:?}");
    let head = Head::new(face);
    let mut canvas = Canvas::new(
        size,
        [face.offset[0], FRAME_HEIGHT + face.offset[1]],
        FRAME_SCALE * face.scale,
    );
    background(&mut canvas, face);
    if !face.bald {
        hair_behind(&mut canvas, &head);
    }
    body(&mut canvas, &head);
    skin(&mut canvas, &head);
    complexion(&mut canvas, &head);
    nose(&mut canvas, &head);
    if face.beard > 0.0 {
        beard(&mut canvas, &head);
    }
    mouth(&mut canvas, &head);
    for side in [-1.0, 1.0] {
        eye(&mut canvas, &head, side);
        brow(&mut canvas, &head, side);
    }
    if !face.bald {
        hair_in_front(&mut canvas, &head);
        // Short hair lies behind the ear, long hair hides it.
        ear(
            &mut canvas,
            &head,
            head.near_side(),
            ramp(0.35, 0.2, face.hair_length),
        );
    }
    if face.eyeglasses {
        eyeglasses(&mut canvas, &head);
    }
    if face.hat {
        hat(&mut canvas, &head);
    }
    canvas.into_rgb()
}

/// What several features need to know about the head.
struct Head<'a> {
    face: &'a FaceAttributes,
    sin: f32,
    cos: f32,
    angle: f32,
    /// Half width of the face at the cheeks, and height of the chin.
    width: f32,
    chin: f32,
    /// How much the jaw narrows towards the chin, and how square the outline is.
    taper: f32,
    square: f32,
    skin: Color,
    shadow: Color,
    hair: Color,
    /// Unit vector towards the light.
    light: [f32; 3],
}

impl<'a> Head<'a> {
    fn new(face: &'a FaceAttributes) -> Self {
        let angle = face.yaw * FULL_TURN;
        let skin = skin_color(face.skin_tone);
        let (x, y, z) = (0.75 * face.light, -0.45_f32, 0.85_f32);
        let length = (x * x + y * y + z * z).sqrt();
        let choose = |male, female| if face.male { male } else { female };
        Self {
            face,
            sin: angle.sin(),
            cos: angle.cos(),
            angle,
            width: choose(0.585, 0.55) * face.face_width,
            chin: choose(0.88, 0.83),
            taper: choose(0.16, 0.34),
            square: choose(0.5, 0.2),
            skin,
            shadow: [skin[0] * 0.62, skin[1] * 0.50, skin[2] * 0.46],
            hair: hair_color(face.hair_color),
            light: [x / length, y / length, z / length],
        }
    }

    /// Where a point of the head at `x` and depth `z` appears.
    fn place(&self, x: f32, z: f32) -> f32 {
        x * self.cos + (z - AXIS) * self.sin
    }

    /// How much narrower than from its front something on the face at `slope` (radians, to the right) appears.
    fn foreshorten(&self, slope: f32) -> f32 {
        ((self.angle + slope).cos() / slope.cos()).max(0.12)
    }

    /// Centre line of the face at height `y`: the chin lies further in front than the temples.
    fn middle(&self, y: f32) -> f32 {
        let v = (y / self.chin).max(0.0);
        self.sin * (0.01 + 0.27 * v * v)
    }

    /// Signed distance to the outline of the face grown by `grow`, and position inside it (−1..1 both ways).
    #[inline(always)]
    fn outline(&self, x: f32, y: f32, grow: f32) -> (f32, f32, f32) {
        const MIDDLE: f32 = 0.05;
        let height = if y < MIDDLE { 0.87 } else { self.chin - MIDDLE } + grow;
        let v = (y - MIDDLE) / height;
        let below = v.max(0.0);
        let width = (self.width + grow) * (1.0 - self.taper * below * below);
        let u = (x - self.middle(y)) / width;
        let k = self.square;
        let (uu, vv) = (u * u, v * v);
        let value = (1.0 - k) * (uu + vv) + k * (uu * uu + vv * vv) - 1.0;
        let gx = u * (2.0 * (1.0 - k) + 4.0 * k * uu) / width;
        let gy = v * (2.0 * (1.0 - k) + 4.0 * k * vv) / height;
        (value / (gx * gx + gy * gy).sqrt().max(1.0), u, v)
    }

    /// Brightness of a surface with this normal: 1 on average.
    #[inline(always)]
    fn lit(&self, nx: f32, ny: f32) -> f32 {
        let nz = (1.0 - nx * nx - ny * ny).max(0.0).sqrt();
        let lambert = (nx * self.light[0] + ny * self.light[1] + nz * self.light[2]).max(0.0);
        0.66 + 0.42 * lambert
    }

    /// Where an ear lies across, and its half width: the near one turns towards the viewer, the far one hides behind
    /// the cheek.
    fn ear(&self, side: f32) -> (f32, f32) {
        let near = -side * self.sin;
        let out = self.width + 0.005 - 0.22 * near.max(0.0) + 0.05 * near.min(0.0);
        (self.middle(0.0) + side * out, 0.085 + 0.03 * near)
    }

    /// The side of the ear that faces the viewer.
    fn near_side(&self) -> f32 {
        if self.sin > 0.0 { -1.0 } else { 1.0 }
    }

    fn mouth(&self) -> [f32; 2] {
        [self.place(0.0, 0.49), 0.545]
    }

    fn eye(&self, side: f32) -> ([f32; 2], f32) {
        let center = [self.place(side * EYE_SIDE, EYE_DEPTH), 0.0];
        (center, self.foreshorten(side * EYE_SLOPE))
    }
}

/// Pale to dark, linear between five stops.
fn skin_color(tone: f32) -> Color {
    const STOPS: [Color; 5] = [
        [0.98, 0.87, 0.79],
        [0.94, 0.76, 0.63],
        [0.80, 0.59, 0.44],
        [0.58, 0.39, 0.27],
        [0.37, 0.24, 0.17],
    ];
    let position = tone.clamp(0.0, 1.0) * 4.0;
    let stop = (position as usize).min(3);
    mix(STOPS[stop], STOPS[stop + 1], position - stop as f32)
}

fn hair_color(color: HairColor) -> Color {
    match color {
        HairColor::Black => [0.10, 0.09, 0.10],
        HairColor::Brown => [0.40, 0.24, 0.14],
        HairColor::Blond => [0.88, 0.72, 0.40],
        HairColor::Gray => [0.68, 0.68, 0.69],
    }
}

fn background(canvas: &mut Canvas, face: &FaceAttributes) {
    let bounds = canvas.bounds();
    let (sin, cos) = face.background_angle.sin_cos();
    let span = 0.5 / (bounds.x[1] - bounds.x[0]);
    let middle = [
        (bounds.x[0] + bounds.x[1]) * 0.5,
        (bounds.y[0] + bounds.y[1]) * 0.5,
    ];
    canvas.paint(bounds, |x, y, pixel| {
        // The corners of the square lie √2 from its centre: twice the factor for an edge, and cut there.
        let t = 0.5 + 1.4 * span * ((x - middle[0]) * cos + (y - middle[1]) * sin);
        *pixel = mix(face.background, face.background_end, t.clamp(0.0, 1.0));
    });
}

/// Outline of the hair: an ellipse down to the ears, below it two curtains down to where the hair ends.
struct HairOutline {
    center: f32,
    rx: f32,
    ry: f32,
    middle: f32,
    /// Widening per unit of height below `middle`, and where the hair ends.
    flare: f32,
    end: f32,
    ripple: f32,
}

impl HairOutline {
    fn new(head: &Head) -> Self {
        let length = head.face.hair_length;
        let volume = 0.05 + 0.10 * ramp(0.0, 0.6, length);
        Self {
            center: head.place(0.0, 0.06),
            // The skull is deeper than wide.
            rx: head.width * (1.0 + 0.12 * head.sin * head.sin) + volume,
            // A hat presses it down.
            ry: if head.face.hat {
                0.78
            } else {
                0.80 + 0.5 * volume
            },
            middle: -0.12,
            flare: -0.35 + 0.47 * ramp(0.0, 0.5, length),
            end: 0.10 + 1.25 * length,
            ripple: if head.face.wavy {
                0.028 * ramp(0.05, 0.4, length)
            } else {
                0.0
            },
        }
    }

    /// Signed distance, and position across (−1..1).
    #[inline(always)]
    fn distance(&self, x: f32, y: f32) -> (f32, f32) {
        let (dx, dy) = (x - self.center, y - self.middle);
        if dy < 0.0 {
            let grown = self.ripple * wave(dy * 2.6);
            (ellipse(dx, dy, self.rx, self.ry) - grown, dx / self.rx)
        } else {
            let width = self.rx + self.flare * dy + self.ripple * wave(dy * 2.6);
            // The lower corners are rounded.
            let side = dx.abs() - width;
            let below = y - self.end;
            const ROUND: f32 = 0.10;
            let (a, b) = ((side + ROUND).max(0.0), (below + ROUND).max(0.0));
            let rounded = (a * a + b * b).sqrt() - ROUND;
            (rounded.max(side.max(below)), dx / width)
        }
    }

    fn bounds(&self) -> Bounds {
        let rx = self.rx + 0.15 * self.end.max(0.0) + 0.05;
        Bounds::new(
            self.center - rx,
            self.middle - self.ry - 0.05,
            self.center + rx,
            self.end + 0.02,
        )
    }
}

/// Colour of the hair at position `u` across and height `y`: rounded by the light, with strands and a sheen.
#[inline(always)]
fn strand(head: &Head, u: f32, y: f32, strands: f32) -> Color {
    let across = u.clamp(-1.0, 1.0);
    let up = ((y + 0.12) / 0.85).clamp(-0.9, 0.4);
    let sheen = (1.0 - ((y + 0.62 - 0.25 * across * across) * 5.0).powi(2)).max(0.0);
    let shade = head.lit(across * 0.85, up * 0.8)
        + strands
            * (wave(across * 5.3 + 0.4 * wave(y * 0.7)) + 0.7 * wave(across * 12.1 - 0.8 * y))
        + 0.16 * sheen;
    let glow = 0.05 * sheen;
    head.hair.map(|c| (c * shade + glow).clamp(0.0, 1.0))
}

/// Strands thinner than two pixels only make noise: their contrast ends there.
fn strand_contrast(canvas: &Canvas) -> f32 {
    0.045 * ramp(0.09, 0.02, canvas.pixel())
}

fn hair_behind(canvas: &mut Canvas, head: &Head) {
    let outline = HairOutline::new(head);
    let strands = strand_contrast(canvas);
    let edge = canvas.edge();
    canvas.paint(outline.bounds(), |x, y, pixel| {
        let (distance, u) = outline.distance(x, y);
        let alpha = edge.inside(distance);
        if alpha > 0.0 {
            // Behind the neck it is dark.
            let depth = 1.0 - 0.45 * ramp(0.2, 0.8, y) * (1.0 - u * u).max(0.0);
            over(pixel, dim(strand(head, u, y, strands), 0.9 * depth), alpha);
        }
    });
}

fn body(canvas: &mut Canvas, head: &Head) {
    let edge = canvas.edge();
    let half = if head.face.male { 0.36 } else { 0.27 };
    let center = head.place(0.0, 0.1);
    let bottom = canvas.bounds().y[1];
    let bounds = Bounds::new(center - half - 0.1, 0.4, center + half + 0.1, bottom);
    let chin = head.middle(head.chin);
    canvas.paint(bounds, |x, y, pixel| {
        let u = (x - center) / half;
        let wide = half + 0.3 * ramp(0.85, 1.2, y).powi(2);
        let alpha = edge.inside((x - center).abs() - wide);
        // The chin throws a shadow.
        let from_chin = (x - chin) / 0.5;
        let shade = ramp(1.15, 0.75, y + 0.15 * from_chin * from_chin);
        let color = mix(
            dim(head.skin, head.lit(0.8 * u.clamp(-1.0, 1.0), 0.2)),
            head.shadow,
            0.2 + 0.7 * shade,
        );
        over(pixel, color, alpha);
    });
    let shirt = head.face.shirt;
    let whole = canvas.bounds();
    let bounds = Bounds::new(whole.x[0], 0.85, whole.x[1], bottom);
    canvas.paint(bounds, |x, y, pixel| {
        let u = x - center;
        // The shoulders fall outwards, the neckline towards the middle.
        let shoulder = 0.90 + 0.16 * u * u;
        let neckline = 1.06 - 0.9 * (u.abs() - 0.12).max(0.0);
        let alpha = edge.between(y - shoulder, 10.0) * edge.inside((neckline - y) * 0.75);
        let shade = 1.05 - 0.25 * u.abs() + 0.2 * u * head.light[0];
        over(pixel, dim(shirt, shade), alpha);
    });
}

fn ear(canvas: &mut Canvas, head: &Head, side: f32, alpha: f32) {
    let (x, rx) = head.ear(side);
    let color = dim(head.skin, head.lit(0.6 * side, 0.0) * 0.94);
    canvas.ellipse([x, 0.10], rx, 0.165, color, alpha);
    canvas.glow(
        [x + 0.01 * side, 0.09],
        rx * 0.8,
        0.12,
        head.shadow,
        0.8 * alpha,
    );
}

fn skin(canvas: &mut Canvas, head: &Head) {
    let edge = canvas.edge();
    ear(canvas, head, -head.near_side(), 1.0);
    // The back of the skull, which a turned head shows.
    let skull = [head.place(0.0, 0.02), -0.16];
    let (rx, ry) = (head.width * (0.97 + 0.06 * head.sin * head.sin), 0.70);
    canvas.paint(Bounds::around(skull, rx, ry), |x, y, pixel| {
        let (dx, dy) = (x - skull[0], y - skull[1]);
        let alpha = edge.inside(ellipse(dx, dy, rx, ry));
        if alpha > 0.0 {
            over(pixel, skin_shade(head, dx / rx, dy / ry), alpha);
        }
    });
    let bounds = Bounds::new(
        head.middle(0.0).min(head.middle(head.chin)) - head.width,
        -0.84,
        head.middle(0.0).max(head.middle(head.chin)) + head.width,
        head.chin,
    );
    canvas.paint(bounds, |x, y, pixel| {
        let (distance, u, v) = head.outline(x, y, 0.0);
        let alpha = edge.inside(distance);
        if alpha > 0.0 {
            over(pixel, skin_shade(head, u, v), alpha);
        }
    });
    ear(canvas, head, head.near_side(), 1.0);
}

/// Skin lit as on an ellipsoid, turning redder where it darkens.
#[inline(always)]
fn skin_shade(head: &Head, u: f32, v: f32) -> Color {
    let light = head.lit(u * 0.9, v * 0.9);
    let shadow = ((1.0 - light) * 2.2).clamp(0.0, 1.0);
    mix(dim(head.skin, light.max(0.97)), head.shadow, shadow * 0.8)
}

/// Cheeks, eye sockets, chin, and the shadow of what is worn above.
fn complexion(canvas: &mut Canvas, head: &Head) {
    let face = head.face;
    let blush = mix(head.skin, [0.85, 0.30, 0.28], 0.55);
    let strength =
        (if face.male { 0.2 } else { 0.35 } + 0.25 * face.smile) * (1.0 - 0.6 * face.skin_tone);
    for side in [-1.0, 1.0] {
        let width = head.foreshorten(side * 0.55);
        let cheek = [head.place(side * 0.33, 0.38), 0.30 - 0.03 * face.smile];
        canvas.glow(cheek, 0.24 * width, 0.19, blush, strength);
        let (eye, width) = head.eye(side);
        canvas.glow(
            [eye[0], eye[1] - 0.03],
            0.26 * width,
            0.19,
            head.shadow,
            0.35,
        );
        if face.smile > 0.0 {
            // The fold from the nose to the corner of the mouth.
            let fold = [head.place(side * 0.24, 0.46), 0.44];
            canvas.glow(fold, 0.07, 0.13, head.shadow, 0.35 * face.smile);
        }
    }
    let chin = [head.middle(head.chin) * 0.95, head.chin - 0.15];
    canvas.glow(chin, 0.17, 0.10, dim(head.skin, 1.12), 0.5);
    canvas.glow([head.mouth()[0], 0.66], 0.20, 0.07, head.shadow, 0.35);
}

fn nose(canvas: &mut Canvas, head: &Head) {
    let size = head.face.nose;
    let root = head.place(0.0, 0.48);
    let tip = head.place(0.0, 0.48 + 0.14 * size);
    let base = 0.32 + 0.03 * (size - 1.0);
    // The side away from the light is dark; on a turned head, the far side against the cheek behind it.
    let dark = (0.9 * head.face.light - 1.6 * head.sin).clamp(-1.0, 1.0);
    let highlight = dim(head.skin, 1.18);
    let bounds = Bounds::new(
        root.min(tip) - 0.22,
        -0.12,
        root.max(tip) + 0.22,
        base + 0.04,
    );
    canvas.paint(bounds, |x, y, pixel| {
        let t = (y + 0.12) / (base + 0.12);
        let ridge = root + (tip - root) * t;
        let half = 0.10 + 0.10 * t * t * size;
        let u = (x - ridge) / half;
        let fade = (1.0 - u * u).max(0.0);
        let along = ramp(0.0, 0.35, t) * ramp(1.12, 0.95, t);
        let shade = (-dark * u).max(0.0) + 0.35 * u * u;
        over(
            pixel,
            head.shadow,
            (2.1 * fade * fade * shade * along).min(0.75),
        );
        let ridge_light = (1.0 - 9.0 * u * u).max(0.0);
        over(pixel, highlight, 0.55 * ridge_light * along);
    });
    let wing = 0.105 * size;
    let middle = head.place(0.0, 0.50);
    canvas.glow(
        [0.5 * (tip + middle), base + 0.035],
        wing * 1.7,
        0.075,
        head.shadow,
        0.75,
    );
    canvas.glow([tip, base - 0.05], 0.085 * size, 0.07, highlight, 0.7);
    let nostril = dim(head.shadow, 0.45);
    for side in [-1.0, 1.0] {
        let at = [head.place(side * 0.058 * size, 0.55), base + 0.022];
        let width = 0.032 * size * head.foreshorten(side * 0.3);
        canvas.ellipse(at, width, 0.018, nostril, 0.85);
        let rim = [head.place(side * wing, 0.50), base - 0.02];
        canvas.glow(rim, 0.035, 0.06, head.shadow, 0.55);
    }
}

fn beard(canvas: &mut Canvas, head: &Head) {
    let amount = head.face.beard;
    let grow = 0.015 + 0.07 * amount;
    let edge = canvas.edge();
    let [mouth, _] = head.mouth();
    let bottom = head.chin + grow;
    let bounds = Bounds::new(-0.85, 0.0, 0.85, bottom);
    let color = mix(head.hair, dim(head.shadow, 0.7), 0.25);
    let strands = strand_contrast(canvas);
    let opaque = 0.60 + 0.38 * amount;
    let (left, right) = (head.foreshorten(-0.3), head.foreshorten(0.3));
    canvas.paint(bounds, |x, y, pixel| {
        let (distance, u, v) = head.outline(x, y, grow * ramp(0.1, 0.7, y));
        let alpha = edge.inside(distance);
        if alpha <= 0.0 {
            return;
        }
        // Height where the beard begins: low on the cheeks, up along the sides, and up to the nose in the middle.
        let m = (x - mouth) / if x < mouth { left } else { right };
        let cheeks = 0.60 - 0.62 * u.abs().powi(3).min(1.0);
        let top = cheeks - (cheeks - 0.415) * ramp(0.40, 0.15, m.abs());
        let soft = ramp(-0.035, 0.055, y - top);
        let shade = head.lit(u.clamp(-1.0, 1.0) * 0.8, (v * 0.5).clamp(-0.6, 0.6))
            + strands * (wave(u * 9.0 + y) + wave(u * 17.0 - 2.0 * y));
        over(pixel, dim(color, shade), alpha * soft * opaque);
    });
}

fn mouth(canvas: &mut Canvas, head: &Head) {
    let face = head.face;
    let [x0, y0] = head.mouth();
    let half = 0.185 + 0.065 * face.smile;
    let left = half * head.foreshorten(-MOUTH_SLOPE);
    let right = half * head.foreshorten(MOUTH_SLOPE);
    let bend = 0.012 + 0.085 * face.smile;
    let open = face.mouth_open * (0.075 + 0.055 * face.smile);
    let upper = 0.042 * face.lips * (1.0 - 0.3 * face.smile);
    let lower = 0.062 * face.lips * (1.0 - 0.25 * face.smile);
    let lips = if face.male {
        mix(head.skin, [0.62, 0.24, 0.22], 0.42)
    } else {
        mix(head.skin, [0.80, 0.12, 0.20], 0.72)
    };
    let upper_color = dim(lips, 0.84);
    let lower_color = dim(lips, 1.04);
    let line = mix(dim(lips, 0.35), INK, 0.4);
    let edge = canvas.edge();
    let bounds = Bounds::new(x0 - left, y0 - 0.16, x0 + right, y0 + 0.10 + open + lower);
    canvas.paint(bounds, |x, y, pixel| {
        let dx = x - x0;
        let u = dx / if dx < 0.0 { left } else { right };
        let arch = 1.0 - u * u;
        if arch <= 0.0 {
            return;
        }
        let seam = y0 + bend * (arch - 0.55);
        let fall = open * arch;
        // Cupid's bow: the upper lip dips in the middle.
        let bow = arch.sqrt() - 0.22 * (1.0 - 36.0 * dx * dx).max(0.0);
        let upper_edge = seam - 0.25 * fall - upper * bow;
        let upper_seam = seam - 0.25 * fall;
        let lower_seam = seam + 0.75 * fall;
        let lower_edge = lower_seam + lower * arch.sqrt();
        over(
            pixel,
            upper_color,
            edge.between(y - upper_edge, upper_seam - y),
        );
        over(
            pixel,
            lower_color,
            edge.between(y - lower_seam, lower_edge - y),
        );
        if open > 0.0 {
            over(
                pixel,
                [0.30, 0.07, 0.08],
                edge.between(y - upper_seam, lower_seam - y),
            );
            let teeth = upper_seam + fall * 0.68;
            over(
                pixel,
                WHITE,
                edge.between(y - upper_seam, teeth - y) * ramp(0.0, 0.25, arch),
            );
        }
        let closed = 1.0 - 0.75 * ramp(0.0, 0.25, face.mouth_open);
        over(pixel, line, 0.9 * closed * edge.stroke(y - seam, 0.013));
    });
    for (side, width) in [(-1.0, left), (1.0, right)] {
        let corner = [x0 + side * width, y0 - 0.55 * bend];
        canvas.glow(corner, 0.05, 0.045, head.shadow, 0.8);
    }
}

fn eye(canvas: &mut Canvas, head: &Head, side: f32) {
    let face = head.face;
    let (center, foreshortened) = head.eye(side);
    let size = face.eye_size;
    let half = 0.150 * size * foreshortened;
    let upper = 0.088 * size;
    // A smile lifts the lower lid.
    let lower = 0.062 * size * (1.0 - 0.35 * face.smile);
    let edge = canvas.edge();
    let iris = [center[0] + 0.02 * head.sin, center[1] - 0.012];
    let radius = 0.074 * size;
    let narrow = foreshortened.clamp(0.7, 1.0);
    let rim = dim(face.eye_color, 0.55);
    let lashes = if face.male { 0.014 } else { 0.024 };
    let lid = if face.male {
        mix(head.shadow, INK, 0.75)
    } else {
        INK
    };
    let bounds = Bounds::around(center, half + 0.05, 0.15);
    canvas.paint(bounds, |x, y, pixel| {
        let u = (x - center[0]) / half;
        let arch = 1.0 - u * u;
        // Inner corners lie a little lower than outer ones.
        let tilt = center[1] - 0.014 * u * side;
        let top = tilt - upper * arch;
        let bottom = tilt + lower * arch;
        if arch > 0.0 {
            let alpha = edge.between(y - top, bottom - y);
            if alpha > 0.0 {
                // The lid throws a shadow on the upper part of the ball.
                let mut color = mix(WHITE, [0.70, 0.68, 0.70], ramp(0.05, -0.01, y - top));
                let (dx, dy) = ((x - iris[0]) / narrow, y - iris[1]);
                let distance = (dx * dx + dy * dy).sqrt();
                let tone = mix(rim, face.eye_color, ramp(radius, radius * 0.7, distance));
                over(&mut color, tone, edge.inside(distance - radius));
                over(
                    &mut color,
                    [0.03, 0.02, 0.02],
                    edge.inside(distance - radius * 0.48),
                );
                let (gx, gy) = (x - iris[0] + 0.026, y - iris[1] + 0.026);
                let glint = (gx * gx + gy * gy).sqrt();
                over(&mut color, [1.0; 3], 0.95 * edge.inside(glint - 0.024));
                over(pixel, color, alpha);
            }
        }
        if arch > -0.12 {
            // The upper lid, heavier towards the outer corner; the lower one is only a shadow.
            let weight = lashes * (1.0 + 0.5 * u * side);
            let slope = 2.0 * upper * u / half;
            let across = (1.0 + slope * slope).sqrt().recip();
            let fade = ramp(-0.12, 0.12, arch);
            over(pixel, lid, fade * edge.stroke((y - top) * across, weight));
            over(
                pixel,
                head.shadow,
                0.6 * fade * edge.stroke((y - bottom) * across, 0.010),
            );
        }
        // The fold above the lid.
        let fold = edge.stroke(y - top + 0.045, 0.009);
        over(pixel, head.shadow, 0.7 * fold * ramp(0.0, 0.4, arch));
    });
}

fn brow(canvas: &mut Canvas, head: &Head, side: f32) {
    let face = head.face;
    let (eye, foreshortened) = head.eye(side);
    let half = 0.185 * foreshortened;
    let (height, arch_height, weight) = if face.male {
        (-0.185, 0.030, 0.036)
    } else {
        (-0.215, 0.060, 0.022)
    };
    let weight = weight * face.brow;
    let color = mix(dim(head.hair, 0.8), INK, 0.25);
    let edge = canvas.edge();
    let center = [eye[0] + 0.01 * side, height - 0.015 * face.smile];
    canvas.paint(Bounds::around(center, half, 0.13), |x, y, pixel| {
        let u = (x - center[0]) / half;
        // Outwards positive; the highest point lies outside the middle.
        let w = u * side;
        let curve = center[1] - arch_height * (1.0 - (w - 0.25) * (w - 0.25)) + 0.012;
        let thickness = weight * (1.0 - u * u).max(0.0).sqrt() * (1.0 - 0.35 * w);
        over(pixel, color, 0.92 * edge.stroke(y - curve, thickness));
    });
}

fn hair_in_front(canvas: &mut Canvas, head: &Head) {
    let outline = HairOutline::new(head);
    let face = head.face;
    let strands = strand_contrast(canvas);
    let edge = canvas.edge();
    // The face shows through an opening; its top is the hairline.
    let opening = [head.place(0.0, 0.36), 0.22];
    let hairline = if face.bangs { -0.30 } else { -0.52 };
    let (rx, ry) = (
        (head.width - 0.05) * (1.0 - 0.12 * head.sin * head.sin),
        opening[1] - hairline,
    );
    // Parted hair rises on one side; a fringe is flat.
    let part = if face.bangs { 0.0 } else { 0.18 };
    let bounds = outline.bounds();
    let cast = if face.bangs { 0.07 } else { 0.05 };
    canvas.paint(bounds, |x, y, pixel| {
        let (outer, u) = outline.distance(x, y);
        let (dx, dy) = (x - opening[0], y - opening[1]);
        let lifted = dy + part * (dx + 0.1);
        let inner = if dy < 0.0 {
            let (p, q) = (dx / rx, lifted / ry);
            // Flatter than an ellipse at the hairline.
            let (pp, qq) = (p * p, q * q);
            let value = 0.45 * (pp + qq) + 0.55 * (pp * pp + qq * qq) - 1.0;
            let gx = p * (0.9 + 2.2 * pp) / rx;
            let gy = q * (0.9 + 2.2 * qq) / ry;
            value / (gx * gx + gy * gy).sqrt().max(1.0)
        } else {
            dx.abs() - rx - 0.06 * ramp(0.0, 0.6, dy)
        };
        let distance = outer.max(-inner);
        // A soft shadow on the skin beside the hair.
        if inner < 0.0 && outer < 0.0 {
            over(
                pixel,
                head.shadow,
                0.5 * ramp(cast, 0.0, -inner) * ramp(0.5, 0.2, y),
            );
        }
        let alpha = edge.inside(distance);
        if alpha > 0.0 {
            over(pixel, strand(head, u, y, strands), alpha);
        }
    });
}

fn eyeglasses(canvas: &mut Canvas, head: &Head) {
    let face = head.face;
    let edge = canvas.edge();
    let frame = face.frame_color;
    const STROKE: f32 = 0.022;
    let (rx, ry) = (0.215, 0.175);
    let y0 = 0.015;
    // Between a circle and a rounded rectangle.
    let round = 0.17 - 0.11 * face.frame_shape;
    let depth = EYE_DEPTH + 0.06;
    for side in [-1.0, 1.0] {
        let narrow = head.foreshorten(side * 0.22);
        let center = [head.place(side * EYE_SIDE, depth), y0];
        let half = (rx * narrow).max(0.06);
        let height = ry - 0.025 * face.frame_shape;
        let r = round.min(half);
        let bounds = Bounds::around(center, half + STROKE, height + STROKE);
        canvas.paint(bounds, |x, y, pixel| {
            let (qx, qy) = (
                (x - center[0]).abs() - half + r,
                (y - center[1]).abs() - height + r,
            );
            let (ax, ay) = (qx.max(0.0), qy.max(0.0));
            let distance = (ax * ax + ay * ay).sqrt() + qx.max(qy).min(0.0) - r;
            // A reflection across the upper corner.
            let band = (x - center[0]) * 0.8 + (y - center[1]) + 0.12;
            let glare = edge.between(band + 0.035, 0.035 - band);
            over(
                pixel,
                [1.0; 3],
                edge.inside(distance) * (0.06 + 0.22 * glare),
            );
            over(pixel, frame, edge.stroke(distance, STROKE));
        });
        // The temple, from the lens to the ear.
        let hinge = [center[0] + side * half, y0 - 0.06];
        let ear = [head.ear(side).0, y0 - 0.02];
        if (ear[0] - hinge[0]) * side > 0.0 {
            canvas.line(hinge, ear, STROKE * 0.9, frame, 1.0);
        }
    }
    let bridge = |side: f32| {
        let narrow = head.foreshorten(side * 0.22);
        [
            head.place(side * EYE_SIDE, depth) - side * rx * narrow,
            y0 - 0.05,
        ]
    };
    canvas.line(bridge(-1.0), bridge(1.0), STROKE, frame, 1.0);
}

fn hat(canvas: &mut Canvas, head: &Head) {
    let edge = canvas.edge();
    let color = head.face.hat_color;
    let center = [head.place(0.0, 0.06), -0.30];
    let volume = 0.13 + 0.06 * head.sin * head.sin;
    match head.face.hat_style {
        HatStyle::Beanie => {
            let rx = head.width + volume;
            dome(canvas, head, center, [rx, 0.74], color);
            let band = Band {
                center: [center[0], -0.42],
                half: [rx + 0.025, 0.11],
                ribs: 0.09,
            };
            band.draw(canvas, head, dim(color, 1.2));
        }
        HatStyle::Cap => {
            let rx = head.width + volume;
            dome(canvas, head, center, [rx, 0.68], color);
            let visor = [head.place(0.0, 0.72), -0.34];
            canvas.glow([visor[0], visor[1] + 0.12], 0.55, 0.16, head.shadow, 0.8);
            let half = 0.58;
            let bounds = Bounds::around(visor, half, 0.18);
            canvas.paint(bounds, |x, y, pixel| {
                let u = (x - visor[0]) / half;
                let arch = (1.0 - u * u).max(0.0);
                let (top, bottom) = (visor[1] - 0.14 * arch + 0.06, visor[1] + 0.12 * arch);
                let alpha = edge.between(y - top, bottom - y);
                let shade = 0.62 + 0.3 * ramp(bottom, top, y) + 0.15 * u * head.light[0];
                over(pixel, dim(color, shade), alpha);
            });
        }
        HatStyle::Brimmed => {
            let rx = head.width + volume - 0.06;
            dome(canvas, head, center, [rx, 0.70], color);
            let band = Band {
                center: [center[0], -0.52],
                half: [0.94 * rx, 0.07],
                ribs: 0.0,
            };
            band.draw(canvas, head, dim(color, 0.45));
            let brim = [head.place(0.0, 0.1), -0.40];
            canvas.glow([brim[0], brim[1] + 0.12], 0.6, 0.14, head.shadow, 0.8);
            let half = 1.02;
            canvas.paint(Bounds::around(brim, half, 0.16), |x, y, pixel| {
                let (dx, dy) = (x - brim[0], y - brim[1]);
                // The brim curls up at the sides.
                let dy = dy + 0.09 * dx * dx;
                let alpha = edge.inside(ellipse(dx, dy, half, 0.105));
                let shade = 0.95 - 2.6 * dy + 0.2 * dx * head.light[0];
                over(pixel, dim(color, shade), alpha);
            });
        }
    }
}

/// The crown of a hat: an ellipse cut at the forehead.
fn dome(canvas: &mut Canvas, head: &Head, center: [f32; 2], [rx, ry]: [f32; 2], color: Color) {
    let edge = canvas.edge();
    let bounds = Bounds::new(center[0] - rx, center[1] - ry, center[0] + rx, center[1]);
    canvas.paint(bounds, |x, y, pixel| {
        let (dx, dy) = (x - center[0], y - center[1]);
        let distance = ellipse(dx, dy, rx, ry).max(dy + 0.04);
        let shade = head.lit((dx / rx).clamp(-1.0, 1.0) * 0.85, (dy / ry).max(-1.0) * 0.7);
        over(pixel, dim(color, shade), edge.inside(distance));
    });
}

/// A band around the head, bent as seen from slightly above.
struct Band {
    center: [f32; 2],
    /// Half its width and half its height.
    half: [f32; 2],
    /// Contrast of its knitted ribs.
    ribs: f32,
}

impl Band {
    fn draw(&self, canvas: &mut Canvas, head: &Head, color: Color) {
        let edge = canvas.edge();
        let ([x0, y0], [rx, ry]) = (self.center, self.half);
        let ribs = self.ribs * ramp(0.08, 0.03, canvas.pixel());
        canvas.paint(Bounds::around(self.center, rx, ry + 0.1), |x, y, pixel| {
            let u = (x - x0) / rx;
            let middle = y0 + 0.05 - 0.10 * u * u;
            let alpha = edge.stroke(y - middle, ry) * edge.inside((x - x0).abs() - rx);
            let shade = head.lit(u.clamp(-1.0, 1.0) * 0.85, 0.0) + ribs * wave(u * 8.0);
            over(pixel, dim(color, shade), alpha);
        });
    }
}
