#!/usr/bin/env python3
"""Makes tests/fixtures/images/: small images of many kinds, each with what Pillow makes of it.

For NAME.EXT there is NAME.EXT.32.rgb: 32*32*3 bytes (HWC), the image opened by Pillow, turned upright, converted to
RGB, resized as torchvision's Resize(32) and CenterCrop(32) do on a Pillow image. NAME.EXT.crop108.64.rgb: the same with
CenterCrop(108) before and 64 pixels.

    python3 -m venv VENV && VENV/bin/pip install pillow numpy && VENV/bin/python scripts/make-image-fixtures.py
"""

import io
import pathlib
import struct
import zlib

import numpy as np
import PIL
from PIL import Image, ImageOps

FOLDER = pathlib.Path(__file__).parent.parent / "tests/fixtures/images"
WIDTH, HEIGHT = 90, 110


def picture(width=WIDTH, height=HEIGHT):
    """Smooth colours with a few hard edges, different in each corner, f64 HWC in 0..1."""
    y, x = np.mgrid[0:height, 0:width]
    u, v = x / (width - 1), y / (height - 1)
    image = np.stack([u, v, 0.5 + 0.5 * np.sin(9 * u) * np.cos(7 * v)], axis=-1)
    disc = (u - 0.35) ** 2 + ((v - 0.3) * height / width) ** 2 < 0.04
    image[disc] = [0.9, 0.2, 0.1]
    image[(u > 0.6) & (u < 0.85) & (v > 0.55) & (v < 0.9)] = [0.1, 0.3, 0.8]
    return image


def centre_crop(image, size):
    """torchvision.transforms.functional.center_crop on an image that is large enough."""
    left = int(round((image.width - size) / 2.0))
    top = int(round((image.height - size) / 2.0))
    return image.crop((left, top, left + size, top + size))


def fit(image, size, crop=None):
    if crop is not None:
        image = centre_crop(image, crop)
    short, long = sorted(image.size)
    long = int(size * long / short)
    shape = (size, long) if image.width <= image.height else (long, size)
    return centre_crop(image.resize(shape, Image.Resampling.BILINEAR), size)


def over_white(image):
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def png_16_bit_rgb(samples):
    """A 16-bit RGB PNG, which Pillow reads but does not write."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    scaled = picture()
    pixels = np.round(scaled * 255).astype(np.uint8)
    rgb = Image.fromarray(pixels)
    wide = Image.fromarray(np.round(picture(130, 75) * 255).astype(np.uint8))

    def save(name, image, expected=None, **options):
        path = FOLDER / name
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image.save(path, **options)
        if expected is None:
            expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        (FOLDER / f"{name}.32.rgb").write_bytes(fit(expected, 32).tobytes())

    save("rgb.jpg", rgb, quality=92)
    save("rgb-wide-progressive.jpg", wide, quality=90, progressive=True)
    save("rgb-not-subsampled.jpg", rgb, quality=90, subsampling=0)
    save("grey.jpg", rgb.convert("L"), quality=92)
    save("cmyk.jpg", rgb.convert("CMYK"), quality=92, subsampling=0)

    # YCCK as Adobe writes it: the inks are YCbCr of the inverted picture, times a little black. Pillow writes CMYK
    # only, and inverts all four planes; so YCbCr planes go in as its C, M and Y, and the marker's transform byte is
    # set to 2.
    black = Image.fromarray(np.full((HEIGHT, WIDTH), 40, np.uint8))
    ycck = io.BytesIO()
    Image.merge("CMYK", [*rgb.convert("YCbCr").split(), black]).save(ycck, "JPEG", quality=92, subsampling=0)
    ycck = bytearray(ycck.getvalue())
    marker = ycck.index(b"\xff\xee\x00\x0eAdobe")
    assert ycck[marker + 15] == 0, "transform"
    ycck[marker + 15] = 2
    save("ycck.jpg", bytes(ycck))

    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"exif-{orientation}.jpg", wide, quality=85, exif=exif)

    save("rgb.png", rgb)
    save("palette.png", rgb.quantize(64))
    save("bilevel.png", rgb.convert("1"))
    save("grey.png", rgb.convert("L"))

    alpha = np.round(np.clip(scaled[..., 1] * 2 - 0.5, 0, 1) * 255).astype(np.uint8)
    rgba = Image.fromarray(np.dstack([pixels, alpha]))
    save("alpha.png", rgba, over_white(rgba))
    grey_alpha = Image.merge("LA", [rgb.convert("L"), Image.fromarray(alpha)])
    save("grey-alpha.png", grey_alpha, over_white(grey_alpha))
    palette = rgb.quantize(32)
    palette.info["transparency"] = 3
    save("palette-transparent.png", palette, over_white(palette), transparency=3)
    save("alpha.webp", rgba, over_white(rgba), lossless=True)

    # Pillow keeps the high byte of 16-bit RGB; of 16-bit grey it makes mode I;16, so the high byte is taken here.
    small = picture(40, 50)
    save("rgb16.png", png_16_bit_rgb(np.round(small * 65535).astype(np.uint16)))
    grey16 = np.round(small.mean(axis=-1) * 65535).astype(np.uint16)
    high = Image.fromarray((grey16 >> 8).astype(np.uint8))
    save("grey16.png", Image.fromarray(grey16), high.convert("RGB"))

    save("rgb.bmp", wide.resize((48, 40)))
    save("palette.bmp", wide.quantize(16).resize((60, 40), Image.Resampling.NEAREST))
    save("lossy.webp", rgb, quality=85)
    save("tiny-upscaled.png", rgb.resize((20, 13)))

    # CelebA's own shape, and the crop that much published work uses with it.
    celeba = Image.fromarray(np.round(picture(178, 218) * 255).astype(np.uint8))
    celeba.save(FOLDER / "crop-celeba.jpg", quality=85)
    celeba = Image.open(FOLDER / "crop-celeba.jpg").convert("RGB")
    (FOLDER / "crop-celeba.jpg.32.rgb").write_bytes(fit(celeba, 32).tobytes())
    (FOLDER / "crop-celeba.jpg.crop108.64.rgb").write_bytes(fit(celeba, 64, crop=108).tobytes())

    total = sum(path.stat().st_size for path in FOLDER.iterdir())
    print(f"Pillow {PIL.__version__}: {len(list(FOLDER.glob('*.rgb')))} expectations, {total} bytes in all")


if __name__ == "__main__":
    main()
