//! Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11, "Parallel random numbers: as easy as 1, 2, 3").
//!
//! Every number is a pure function of `(seed, purpose, step, element)`, so that the CPU and the GPU draw the same
//! ones, in any order and from any number of threads, and a resumed run needs no generator state.

/// What a stream of numbers is for. Streams of different purposes never overlap. Values are part of the checkpoint
/// format: do not renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights; `step` is the index of the tensor.
    Initialise = 1,
    /// Training noise `z`; `step` is the iteration.
    Latent = 2,
    /// The fixed `z` of the sample sheets.
    Sheet = 3,
    /// Order of the images; `step` is the epoch.
    Shuffle = 4,
    /// Horizontal flips; `step` is the iteration.
    Flip = 5,
    /// Procedural faces; `step` is the index of the face.
    Synthetic = 6,
    /// Noise of `sample`; `step` is 0.
    Sample = 7,
    /// Random projections of the evaluation.
    Projection = 8,
    /// Instance noise; `step` is the iteration.
    InstanceNoise = 9,
    /// Which images are held out of training; `step` is 0.
    HoldOut = 10,
    /// The training images that D is looked at with, beside those held out; `step` is the iteration.
    Seen = 11,
    /// Conditions: which of them a run keeps (`step` 0), and which its images are made for (`step` 1 and up).
    Condition = 12,
    /// What images are augmented by before D sees them; `step` is the iteration.
    Augment = 13,
}

/// One Philox4x32-10 block: four independent uniform u32 for one counter and key.
///
/// Reference: Random123 `philox4x32_R(10, …)`; checked against its known-answer vectors below.
#[inline]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    for _ in 0..10 {
        let p0 = M0 * u64::from(counter[0]);
        let p1 = M1 * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

/// The stream of one `(seed, purpose, step)`.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
    purpose: u32,
    step: u64,
}

impl Stream {
    /// Counter words are `(element, step low, step high, purpose)`; the key is the seed.
    pub fn new(seed: u64, purpose: Purpose, step: u64) -> Self {
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            purpose: purpose as u32,
            step,
        }
    }

    /// The four u32 of block `block`.
    #[inline]
    pub fn block(&self, block: u32) -> [u32; 4] {
        philox(
            [
                block,
                self.step as u32,
                (self.step >> 32) as u32,
                self.purpose,
            ],
            self.key,
        )
    }

    /// u32 number `element`.
    #[inline]
    pub fn bits(&self, element: u64) -> u32 {
        self.block((element / 4) as u32)[(element % 4) as usize]
    }

    /// Uniform in (0, 1), never 0 and never 1: the 24 high bits, plus a half, times 2⁻²⁴.
    #[inline]
    pub fn uniform(&self, element: u64) -> f32 {
        unit(self.bits(element))
    }

    /// Uniform integer in `0..n` (by multiplication: the bias is below n·2⁻³²).
    #[inline]
    pub fn below(&self, element: u64, n: u32) -> u32 {
        ((u64::from(self.bits(element)) * u64::from(n)) >> 32) as u32
    }

    /// Standard normal numbers by Box–Muller, elements `0..out.len()`. Block `b` gives elements `4b..4b+4`: its words
    /// 0 and 1 the first pair (cosine, sine), its words 2 and 3 the second.
    pub fn fill_normal(&self, out: &mut [f32]) {
        self.fill_normal_from(0, out);
    }

    /// As [`Self::fill_normal`], from element 4·`first_block` on.
    pub fn fill_normal_from(&self, first_block: u32, out: &mut [f32]) {
        for (block, four) in out.chunks_mut(4).enumerate() {
            let words = self.block(first_block + block as u32);
            let (a, b) = box_muller(words[0], words[1]);
            let (c, d) = box_muller(words[2], words[3]);
            four.copy_from_slice(&[a, b, c, d][..four.len()]);
        }
    }

    /// A seeded permutation of `0..n`: Fisher–Yates from the top.
    pub fn permutation(&self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i as u32 + 1) as usize);
        }
        order
    }
}

#[inline]
fn unit(bits: u32) -> f32 {
    ((bits >> 8) as f32 + 0.5) * (1.0 / 16_777_216.0)
}

#[inline]
fn box_muller(u: u32, v: u32) -> (f32, f32) {
    let radius = (-2.0 * unit(u).ln()).sqrt();
    let angle = 2.0 * std::f32::consts::PI * unit(v);
    (radius * angle.cos(), radius * angle.sin())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors of Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normal_numbers_have_the_moments_of_a_normal() {
        let mut x = vec![f32::NAN; 100_003];
        Stream::new(7, Purpose::Latent, 3).fill_normal(&mut x);
        let n = x.len() as f64;
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let moment = |k: i32| x.iter().map(|&v| f64::from(v).powi(k)).sum::<f64>() / n;
        // Standard errors at n = 1e5: 0.003, 0.0045, 0.012, 0.031; five of each.
        assert!(mean.abs() < 0.016, "{mean}");
        assert!((moment(2) - 1.0).abs() < 0.023, "{}", moment(2));
        assert!(moment(3).abs() < 0.062, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.155, "{}", moment(4));
    }

    #[test]
    fn a_permutation_holds_every_index_once_and_depends_on_the_epoch() {
        let a = Stream::new(1, Purpose::Shuffle, 0).permutation(1000);
        let b = Stream::new(1, Purpose::Shuffle, 1).permutation(1000);
        assert_ne!(a, b);
        let mut sorted = a;
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(i, &v)| i as u32 == v));
    }
}
