//! What a synthetic face looks like, as numbers: the ground truth that goes with every rendered image.

pub use crate::data::sources::celeba::ATTRIBUTE_NAMES as CELEBA_ATTRIBUTES;
use crate::random::{Purpose, Stream};

/// Natural hair colours, named as CelebA names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HairColor {
    /// `Black_Hair`.
    Black,
    /// `Brown_Hair`.
    Brown,
    /// `Blond_Hair`.
    Blond,
    /// `Gray_Hair`.
    Gray,
}

/// What is worn where [`FaceAttributes::hat`] is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HatStyle {
    /// A knitted dome with a turned-up band.
    Beanie,
    /// A dome with a visor that points where the face points.
    Cap,
    /// A crown with a ribbon and a wide brim.
    Brimmed,
}

/// Everything that [`render`](super::render()) draws. Numbers are without unit and, unless said otherwise, in 0..=1.
/// Colours are sRGB in 0..=1.
#[derive(Clone, Debug, PartialEq)]
pub struct FaceAttributes {
    /// Where the head turns, −1..=1: −1 is a three-quarter view towards the left edge of the image, 0 frontal, 1
    /// towards the right edge.
    pub yaw: f32,
    /// A man: wider jaw, heavier and lower brows, paler lips, no eyelashes, wider neck, often shorter hair.
    pub male: bool,
    /// Wears glasses.
    pub eyeglasses: bool,
    /// Colour of hair, brows and beard.
    pub hair_color: HairColor,
    /// Length of the hair: 0 is cropped above the ears, 0.5 reaches the chin, 1 the lower edge of the image.
    pub hair_length: f32,
    /// No hair on the head at all, whatever colour and length say; brows and beard keep the colour.
    pub bald: bool,
    /// Hair falls over the forehead.
    pub bangs: bool,
    /// Hair with a rippled outline instead of a straight one.
    pub wavy: bool,
    /// 0 is none; above, its density and length. Covers chin, cheeks and upper lip.
    pub beard: f32,
    /// Wears a hat.
    pub hat: bool,
    /// Which one, where a hat is worn.
    pub hat_style: HatStyle,
    /// Colour of the hat.
    pub hat_color: [f32; 3],
    /// 0 is a neutral mouth, 1 a broad smile with raised cheeks.
    pub smile: f32,
    /// 0 is a closed mouth; above, the teeth show.
    pub mouth_open: f32,
    /// 0 is the palest, 1 the darkest.
    pub skin_tone: f32,
    /// Colour of the background where its gradient starts.
    pub background: [f32; 3],
    /// Colour of the background where its gradient ends.
    pub background_end: [f32; 3],
    /// Direction of the gradient, in radians, from the x axis (right) towards the y axis (down).
    pub background_angle: f32,
    /// Where the light comes from, −1 (left) to 1 (right); always from above and in front.
    pub light: f32,
    /// Colour of the clothes at the lower edge.
    pub shirt: [f32; 3],
    /// Colour of the iris.
    pub eye_color: [f32; 3],
    /// Colour of the frame of the glasses.
    pub frame_color: [f32; 3],
    /// Shape of the glasses: 0 is round, 1 rectangular.
    pub frame_shape: f32,
    /// Width of the face against the average, about 0.93..1.07.
    pub face_width: f32,
    /// Size of the eyes against the average, about 0.9..1.12.
    pub eye_size: f32,
    /// Thickness of the brows against the average of the sex, about 0.8..1.25.
    pub brow: f32,
    /// Size of the nose against the average, about 0.85..1.2.
    pub nose: f32,
    /// Thickness of the lips against the average of the sex, about 0.8..1.25.
    pub lips: f32,
    /// Centre of the face against the usual one, in half widths of the image (x right, y down).
    pub offset: [f32; 2],
    /// Size of the face against the usual one, about 0.95..1.05.
    pub scale: f32,
}

/// One number a property: which element of the face's stream decides it. Numbers are stable, so that a new property
/// leaves the others of every face as they were.
struct Draw(Stream);

impl Draw {
    fn unit(&self, element: u64) -> f32 {
        self.0.uniform(element)
    }

    fn between(&self, element: u64, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit(element)
    }

    fn chance(&self, element: u64, probability: f32) -> bool {
        self.unit(element) < probability
    }

    fn pick<T: Copy, const N: usize>(&self, element: u64, from: [T; N]) -> T {
        from[self.0.below(element, N as u32) as usize]
    }
}

impl FaceAttributes {
    /// Face `index` of the endless, reproducible sequence that `seed` names.
    ///
    /// Attributes are independent and balanced (half men, 40 % with glasses, a quarter with a hat, the four hair
    /// colours, yaw and skin tone uniform), except where people's are not: only men are bald (12 % of them, never
    /// under a hat) or bearded (half of them), and women's hair is mostly longer than men's.
    pub fn sample(seed: u64, index: u64) -> Self {
        let draw = Draw(Stream::new(seed, Purpose::Synthetic, index));
        let male = draw.chance(0, 0.5);
        let hat = draw.chance(1, 0.25);
        let hair_length = match (draw.chance(2, 0.85), male) {
            (true, true) => draw.between(3, 0.0, 0.35),
            (true, false) => draw.between(3, 0.4, 1.0),
            (false, _) => draw.unit(3),
        };
        // Smiles gather towards both ends, mouths open mostly with a smile: neither is a coin thrown in the middle.
        let smile = ease(draw.unit(9));
        let mouth_open = (1.4 * ease(draw.unit(10)) * (0.35 + 0.65 * smile) - 0.25).clamp(0.0, 1.0);
        let hue = draw.unit(15);
        let saturation = draw.between(16, 0.08, 0.45);
        let value = draw.between(17, 0.35, 0.92);
        Self {
            yaw: draw.between(4, -1.0, 1.0),
            male,
            eyeglasses: draw.chance(5, 0.4),
            hair_color: draw.pick(
                6,
                [
                    HairColor::Black,
                    HairColor::Brown,
                    HairColor::Blond,
                    HairColor::Gray,
                ],
            ),
            hair_length,
            bald: draw.chance(7, 0.16) && male && !hat,
            bangs: draw.chance(26, 0.35),
            wavy: draw.chance(27, 0.4),
            beard: if draw.chance(8, 0.5) && male {
                draw.between(32, 0.4, 1.0)
            } else {
                0.0
            },
            hat,
            hat_style: draw.pick(12, [HatStyle::Beanie, HatStyle::Cap, HatStyle::Brimmed]),
            hat_color: hsv(
                draw.unit(13),
                draw.between(14, 0.35, 0.8),
                draw.between(33, 0.3, 0.85),
            ),
            smile,
            mouth_open,
            skin_tone: draw.unit(11),
            background: hsv(hue, saturation, value),
            background_end: hsv(
                hue + draw.between(18, -0.08, 0.08),
                saturation,
                value * draw.between(19, 0.6, 0.95),
            ),
            background_angle: draw.between(20, 0.0, 2.0 * std::f32::consts::PI),
            light: draw.between(21, -1.0, 1.0),
            shirt: hsv(
                draw.unit(22),
                draw.between(23, 0.1, 0.7),
                draw.between(24, 0.2, 0.9),
            ),
            eye_color: draw.pick(
                25,
                [
                    [0.36, 0.21, 0.11],
                    [0.26, 0.46, 0.70],
                    [0.33, 0.50, 0.28],
                    [0.24, 0.15, 0.10],
                ],
            ),
            frame_color: draw.pick(
                28,
                [
                    [0.07, 0.07, 0.08],
                    [0.30, 0.14, 0.08],
                    [0.55, 0.10, 0.12],
                    [0.10, 0.14, 0.35],
                ],
            ),
            frame_shape: draw.unit(29),
            face_width: draw.between(30, 0.93, 1.07),
            eye_size: draw.between(31, 0.9, 1.12),
            brow: draw.between(34, 0.8, 1.25),
            nose: draw.between(35, 0.85, 1.2),
            lips: draw.between(36, 0.8, 1.25),
            offset: [draw.between(37, -0.03, 0.03), draw.between(38, -0.03, 0.03)],
            scale: draw.between(39, 0.95, 1.05),
        }
    }
}

/// Pushes a uniform number towards 0 and 1 (smoothstep).
fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// Hue in turns (any number: it wraps), saturation and value in 0..=1, to sRGB in 0..=1.
fn hsv(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [0.0, 2.0 / 3.0, 1.0 / 3.0].map(|shift| {
        let ramp = ((hue + shift).rem_euclid(1.0) * 6.0 - 3.0).abs() - 1.0;
        value * (1.0 - saturation * (1.0 - ramp.clamp(0.0, 1.0)))
    })
}

/// The face described in CelebA's terms, in the order of [`CELEBA_ATTRIBUTES`]. An attribute that the renderer has no
/// notion of (necktie, blur, attractiveness …) is false. `Young` is everyone whose hair is not gray.
pub fn celeba_attributes(face: &FaceAttributes) -> [bool; 40] {
    let hair = !face.bald;
    let bearded = face.beard > 0.0;
    CELEBA_ATTRIBUTES.map(|name| match name {
        "Bald" => face.bald,
        "Bangs" => hair && face.bangs && !face.hat,
        "Big_Lips" => face.lips > 1.12,
        "Big_Nose" => face.nose > 1.1,
        "Black_Hair" => hair && face.hair_color == HairColor::Black,
        "Blond_Hair" => hair && face.hair_color == HairColor::Blond,
        "Brown_Hair" => hair && face.hair_color == HairColor::Brown,
        "Gray_Hair" => hair && face.hair_color == HairColor::Gray,
        "Bushy_Eyebrows" => face.brow > 1.12,
        "Eyeglasses" => face.eyeglasses,
        "Goatee" | "Mustache" | "Sideburns" => bearded,
        "No_Beard" => !bearded,
        "Male" => face.male,
        "Mouth_Slightly_Open" => face.mouth_open > 0.15,
        "Narrow_Eyes" => face.eye_size < 0.94,
        "Pale_Skin" => face.skin_tone < 0.15,
        "Smiling" => face.smile > 0.5,
        "Straight_Hair" => hair && !face.wavy,
        "Wavy_Hair" => hair && face.wavy,
        "Wearing_Hat" => face.hat,
        "Wearing_Lipstick" => !face.male,
        "Young" => face.hair_color != HairColor::Gray,
        _ => false,
    })
}
