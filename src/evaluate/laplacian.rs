//! Laplacian pyramid (Burt and Adelson, 1983, "The Laplacian Pyramid as a Compact Image Code").
//!
//! With g₀ the image, gᵢ₊₁ = reduce(gᵢ) and L levels, level i < L − 1 is gᵢ − expand(gᵢ₊₁) and holds the details between
//! two scales; the last is g_{L−1} itself. Adding expand(level i + 1) back from the last to the first gives the image.
//!
//! Planes are f32, `size`·`size`, row-major. The filter is the 5×5 binomial one, mirrored at the edges without
//! repeating the edge pixel, as ProGAN's code and OpenCV's pyrDown and pyrUp have it.

/// Binomial coefficients of order 4; they add up to 16.
const BINOMIAL: [f32; 5] = [1.0, 4.0, 6.0, 4.0, 1.0];

/// Smallest level of a pyramid, pixels a side.
pub const SMALLEST: usize = 16;

/// Sides of the levels of an image of `size` pixels: halved down to [`SMALLEST`].
pub fn level_sizes(size: usize) -> Vec<usize> {
    std::iter::successors(Some(size), |s| Some(s / 2))
        .take_while(|&s| s >= SMALLEST)
        .collect()
}

/// Half the size: blurred, then every second pixel. `size` is even and at least 4.
pub fn reduce(plane: &[f32], size: usize) -> Vec<f32> {
    let blurred = blur(plane, size, 1.0);
    let half = size / 2;
    (0..half * half)
        .map(|i| blurred[i / half * 2 * size + i % half * 2])
        .collect()
}

/// Twice the size: zeros in between, then blurred, times 4. `size` is at least 2.
pub fn expand(plane: &[f32], size: usize) -> Vec<f32> {
    let double = size * 2;
    let mut sparse = vec![0.0; double * double];
    for (i, &value) in plane.iter().enumerate() {
        sparse[i / size * 2 * double + i % size * 2] = value;
    }
    blur(&sparse, double, 4.0)
}

/// Level `level` of `levels` of an image, u8 HWC RGB (0 to 255): 3 planes of `size >> level` pixels a side.
pub fn level(image: &[u8], size: usize, level: usize, levels: usize) -> Vec<f32> {
    let side = size >> level;
    let mut out = Vec::with_capacity(3 * side * side);
    for channel in 0..3 {
        let mut plane: Vec<f32> = image
            .iter()
            .skip(channel)
            .step_by(3)
            .map(|&v| f32::from(v))
            .collect();
        for i in 0..level {
            plane = reduce(&plane, size >> i);
        }
        if level + 1 < levels {
            let coarse = expand(&reduce(&plane, side), side / 2);
            plane.iter_mut().zip(coarse).for_each(|(p, c)| *p -= c);
        }
        out.extend(plane);
    }
    out
}

/// `plane` convolved with `scale` times the 5×5 binomial filter, first along rows, then along columns.
fn blur(plane: &[f32], size: usize, scale: f32) -> Vec<f32> {
    let mut rows = vec![0.0; plane.len()];
    for (from, to) in plane.chunks_exact(size).zip(rows.chunks_exact_mut(size)) {
        for (x, to) in to.iter_mut().enumerate() {
            *to = if (2..size - 2).contains(&x) {
                taps(|k| from[x + k - 2])
            } else {
                taps(|k| from[mirror(x + k, size)])
            } / 16.0;
        }
    }
    let mut out = vec![0.0; plane.len()];
    for (y, to) in out.chunks_exact_mut(size).enumerate() {
        let from: [&[f32]; 5] =
            std::array::from_fn(|k| &rows[mirror(y + k, size) * size..][..size]);
        for (x, to) in to.iter_mut().enumerate() {
            *to = taps(|k| from[k][x]) * (scale / 16.0);
        }
    }
    out
}

#[inline(always)]
fn taps(value: impl Fn(usize) -> f32) -> f32 {
    (0..5).map(|k| BINOMIAL[k] * value(k)).sum()
}

/// Index `shifted − 2` in 0..n, mirrored at both ends: −1 is 1, n is n − 2.
fn mirror(shifted: usize, n: usize) -> usize {
    let index = shifted.abs_diff(2);
    if index < n {
        index
    } else {
        2 * (n - 1) - index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: usize) -> Vec<u8> {
        (0..size * size * 3)
            .map(|i| (i * i * 7 % 251) as u8)
            .collect()
    }

    #[test]
    fn levels_go_down_to_sixteen_pixels() {
        assert_eq!(level_sizes(64), [64, 32, 16]);
        assert_eq!(level_sizes(16), [16]);
        assert!(level_sizes(8).is_empty());
    }

    #[test]
    fn a_constant_stays_constant_and_has_no_details() {
        let image = vec![77; 32 * 32 * 3];
        assert!(level(&image, 32, 0, 2).iter().all(|&v| v == 0.0));
        assert!(level(&image, 32, 1, 2).iter().all(|&v| v == 77.0));
    }

    #[test]
    fn an_impulse_gives_the_binomial_filter_mirrored_at_the_edge() {
        let mut plane = vec![0.0; 8 * 8];
        plane[4 * 8 + 4] = 256.0;
        let reduced = reduce(&plane, 8);
        // 6·6, 6·1 one step aside (two pixels), 1·1 both ways.
        assert_eq!(
            [reduced[2 * 4 + 2], reduced[2 * 4 + 1], reduced[4 + 1]],
            [36.0, 6.0, 1.0]
        );
        // The pixel beside the corner is seen from the corner twice: from inside and in the mirror.
        plane.fill(0.0);
        plane[1] = 256.0;
        assert_eq!(reduce(&plane, 8)[0], 6.0 * 8.0);
    }

    #[test]
    fn the_levels_add_up_to_the_image() {
        let image = image(64);
        let area = 16 * 16;
        let mut planes: Vec<Vec<f32>> = level(&image, 64, 2, 3)
            .chunks(area)
            .map(<[f32]>::to_vec)
            .collect();
        for (index, side) in [(1, 16), (0, 32)] {
            let details = level(&image, 64, index, 3);
            for (plane, details) in planes.iter_mut().zip(details.chunks(4 * side * side)) {
                *plane = expand(plane, side)
                    .iter()
                    .zip(details)
                    .map(|(a, b)| a + b)
                    .collect();
            }
        }
        for (i, &v) in image.iter().enumerate() {
            assert!((planes[i % 3][i / 3] - f32::from(v)).abs() < 1e-3);
        }
    }
}
