//! `cuda/cast.cu`: every bit.

use crate::emulation::{Launch, Memory, TYPES, Type};
use crate::{normal, run_twice};

#[test]
fn rounds_to_nearest_even_and_loses_nothing_on_the_way_back() {
    for t in TYPES {
        let v = t.vector();
        for count in [1, 3, 4, 5, v - 1, v, v + 1, 256 * v, 256 * v + 7, 4099] {
            let mut values = normal(Type::F32, count, 40);
            if count > 5 {
                values[1] = f64::from(f32::MAX);
                values[2] = f64::NEG_INFINITY;
                values[3] = f64::from(f32::from_bits(0x7fc0_0000));
                values[4] = -0.0;
            }
            // Powers of two, as weights under spectral norm have one.
            let factor = [1.0f32, 0.25, 8.0][count % 3];
            let from = Memory::typed(Type::F32, &values);
            let blocks = (count.div_ceil(256 * v), 1, 1);
            let out = run_twice(&[count * t.size(), count * 4], |out| {
                let cast = |kernel: String, from: &Memory, to: &Memory| {
                    let launch = Launch::new(kernel, blocks, 256).buffer(from);
                    launch.buffer(to).value(count as u64)
                };
                let kernel = format!("cast_from_f32_{}", t.suffix());
                let there = cast(kernel, &from, &out[0]).value(factor);
                // In f32 there is nothing to cast back.
                let back = (t != Type::F32)
                    .then(|| cast(format!("cast_to_f32_{}", t.suffix()), &out[0], &out[1]));
                [there].into_iter().chain(back).collect()
            });
            let mut results = vec![out[0].read(t)];
            if t != Type::F32 {
                results.push(out[1].read(Type::F32));
            }
            for got in results {
                for (i, (&got, &value)) in got.iter().zip(&values).enumerate() {
                    let want = t.round(Type::F32.round(f64::from(factor) * value));
                    assert!(
                        got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                        "{t:?}, element {i} of {count}: {value:e} became {got:e}, not {want:e}"
                    );
                }
            }
        }
    }
}
