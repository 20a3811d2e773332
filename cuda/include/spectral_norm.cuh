// What spectral norm keeps on the device, as the host lays it out too.
#pragma once

#include <cstdint>

// One layer's weight and its singular vectors: `Entry` of src/backend/cuda/ops/spectral_norm.rs.
struct SpectralLayer {
    // [rows][columns].
    const float* weight;
    // [rows] and [columns].
    float* u;
    float* v;
    // One number.
    float* sigma;
    // [slices + groups][columns] in which sums over slices of rows are left, and over groups of those.
    float* partial;
    // [groups + 1], 0 between launches.
    uint32_t* arrived;
    uint32_t rows;
    uint32_t columns;
    // The first block of a launch that works on this layer.
    uint32_t first_block;
    uint32_t slices;
    // What the convolutions see the weight multiplied by, a power of two.
    float factor;
    uint32_t unused;
};
