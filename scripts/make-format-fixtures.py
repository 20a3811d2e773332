#!/usr/bin/env python3
"""Makes tests/fixtures/formats/: small data sets in the formats that people have, written by Python's own libraries.

truth.json says for each set what is in it, in the order that the program has to find it: width, height, channels, the
sum of the samples of each channel as Pillow decodes them, and the label.

    python3 -m venv VENV && VENV/bin/pip install lmdb pyarrow pillow numpy
    VENV/bin/python scripts/make-format-fixtures.py
"""

from __future__ import annotations

import gzip
import io
import json
import pathlib
import shutil
import struct
import tarfile
import tempfile
import zipfile

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FOLDER = pathlib.Path(__file__).parent.parent / "tests/fixtures/formats"
LABELS = ["cat", "dog", "newt"]


def picture(seed: int, width: int = 32, height: int = 32) -> np.ndarray:
    """A gradient with a disc, different for every seed, u8 HWC; in few colours, so that it packs well."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1)
    image = (image + random.integers(0, 200, 3)) % 256
    cx, cy = random.integers(4, width - 4), random.integers(4, height - 4)
    image[(x - cx) ** 2 + (y - cy) ** 2 < 20] = random.integers(0, 256, 3)
    return (image // 16 * 16).astype(np.uint8)


def grey(seed: int, side: int = 28) -> np.ndarray:
    """A bright ring on black, u8 HW."""
    random = np.random.default_rng(1000 + seed)
    y, x = np.mgrid[0:side, 0:side]
    cx, cy, r = random.integers(9, side - 9), random.integers(9, side - 9), random.integers(4, 8)
    distance = np.abs(np.hypot(x - cx, y - cy) - r)
    return np.clip(255 - 120 * distance, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}[kind]
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def truth(pixels: np.ndarray, label: int | None) -> dict:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    height, width, channels = pixels.shape
    sums = pixels.reshape(-1, channels).sum(axis=0, dtype=np.int64).tolist()
    return {"width": width, "height": height, "channels": channels, "sums": sums, "label": label}


def truth_of_file(data: bytes, label: int | None) -> dict:
    return truth(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), label)


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


def cifar10() -> list[dict]:
    """All records, those of training first."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    found, members = [], {"cifar-10-batches-bin/batches.meta.txt": ("\n".join(classes) + "\n\n").encode()}
    for batch, name in enumerate(names):
        records = b""
        for i in range(3):
            pixels, label = picture(10 * batch + i), (3 * batch + i) % 10
            records += bytes([label]) + pixels.transpose(2, 0, 1).tobytes()
            found.append(truth(pixels, label))
        members[f"cifar-10-batches-bin/{name}"] = records
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("cifar-10-batches-bin")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for name, data in members.items():
            add_member(archive, name, data)
    (FOLDER / "cifar-10-binary.tar.gz").write_bytes(gz(raw.getvalue()))
    return found


def mnist() -> list[dict]:
    """The training images, then those for tests."""
    folder = FOLDER / "mnist"
    folder.mkdir()
    found = []
    for prefix, count, begin in (("train", 12, 0), ("t10k", 5, 100)):
        images = np.stack([grey(begin + i) for i in range(count)])
        labels = np.array([(begin + 7 * i) % 10 for i in range(count)], np.uint8)
        found += [truth(image, int(label)) for image, label in zip(images, labels)]
        data = struct.pack(">BBBB3I", 0, 0, 8, 3, *images.shape) + images.tobytes()
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gz(data))
        data = struct.pack(">BBBBI", 0, 0, 8, 1, count) + labels.tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gz(data))
    return found


def webdataset() -> list[dict]:
    """A shard in POSIX's form with a long name, one in GNU's, gzipped."""
    folder = FOLDER / "webdataset"
    folder.mkdir()
    found = []
    kinds = [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")]
    for shard, form in enumerate([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
            for i in range(6):
                extension, kind = kinds[i % 4]
                data = encode(picture(100 * shard + i + 300, 30 + i, 36), kind)
                label = (5 * shard + i) % 3 if i != 4 else None
                stem = f"{shard}/{i:06d}" if i != 2 else f"{shard}/{'long-' * 30}name"
                number = f"{label}\n".encode()
                # The class may come before its image or after it.
                if label is not None and i % 2:
                    add_member(archive, f"{stem}.cls", number)
                add_member(archive, f"{stem}.{extension}", data)
                add_member(archive, f"{stem}.json", b"{}")
                if label is not None and not i % 2:
                    add_member(archive, f"{stem}.cls", number)
                found.append(truth_of_file(data, label))
        data = raw.getvalue()
        (folder / f"shard-{shard:06d}.tar{'.gz' if shard else ''}").write_bytes(gz(data) if shard else data)
    return found


def parquet() -> dict[str, list[dict]]:
    """Hugging Face's form in two shards of training and one of testing, and plain forms."""
    folder = FOLDER / "parquet"
    folder.mkdir()
    feature = {"_type": "ClassLabel", "names": LABELS}
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps(info)},
    )
    sets: dict[str, list[dict]] = {"train": [], "test": []}
    for name, begin, count in (("train-00000-of-00002", 0, 9), ("train-00001-of-00002", 20, 4),
                               ("test-00000-of-00001", 40, 3)):
        rows = []
        for i in range(count):
            data = encode(picture(500 + begin + i, 33, 30 + i), "JPEG" if i % 2 else "PNG")
            label = (begin + i) % 3
            # What an unlabelled row has.
            rows.append({"image": {"bytes": data, "path": f"{i}.jpg"}, "label": -1 if i == 3 else label})
            sets[name.split("-")[0]].append(truth_of_file(data, None if i == 3 else label))
        # Small pages: several in a row group, of which there are several.
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet", compression="snappy",
                       row_group_size=4, data_page_size=600, write_batch_size=1)
    files = [encode(picture(600 + i), "WEBP") for i in range(5)]
    plain = pa.table({"image": pa.array(files, pa.binary()), "label": pa.array([0, 4, 2, None, 1], pa.int32())})
    pq.write_table(plain, FOLDER / "plain.parquet", compression="none", use_dictionary=False, data_page_version="2.0")
    sets["plain"] = [truth_of_file(data, label) for data, label in zip(files, [0, 4, 2, None, 1])]
    pq.write_table(plain, FOLDER / "zstd.parquet", compression="zstd")
    without = pa.table({"image": pa.array([files[0], None, files[1]], pa.binary())})
    pq.write_table(without, FOLDER / "null.parquet", compression="snappy")
    pq.write_table(pa.table({"text": ["a", "b"], "n": [1, 2]}), FOLDER / "no-image.parquet", compression="snappy")
    return sets


def write_lmdb(folder: pathlib.Path, count: int) -> list[dict]:
    """Values that fit a page, and some that do not, under keys of 40 hexadecimal digits; some deleted again."""
    found = {}
    with lmdb.open(str(folder), map_size=1 << 24) as env:
        with env.begin(write=True) as t:
            for i in range(count):
                key = f"{(i * 2654435761) % 2**64:040x}".encode()
                large = i % 20 == 7
                size = (90, 80) if large else (14, 12)
                pixels = picture(700 + i, *size)
                if large:
                    pixels = pixels + np.random.default_rng(i).integers(0, 8, pixels.shape, np.uint8)
                data = encode(pixels, "WEBP")
                t.put(key, data)
                found[key] = truth_of_file(data, None)
        with env.begin(write=True) as t:
            for key in sorted(found)[::9]:
                t.delete(key)
                del found[key]
    (folder / "lock.mdb").unlink(missing_ok=True)
    return [found[key] for key in sorted(found)]


def lsun() -> dict[str, list[dict]]:
    sets = {"lsun": write_lmdb(FOLDER / "church_outdoor_val_lmdb", 90)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "tower_val_lmdb"
        sets["lsun-zip"] = write_lmdb(folder, 6)
        for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
            with zipfile.ZipFile(FOLDER / f"lmdb-{name}.zip", "w", method) as archive:
                # Fixed times: the same bytes at every run.
                for member, data in (("tower_val_lmdb/data.mdb", (folder / "data.mdb").read_bytes()),
                                     ("tower_val_lmdb/lock.mdb", b"")):
                    archive.writestr(zipfile.ZipInfo(member), data, compress_type=method)
    return sets


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    sets = {"cifar10": cifar10(), "mnist": mnist(), "webdataset": webdataset()}
    sets |= {f"parquet-{name}": found for name, found in parquet().items()}
    sets |= lsun()
    lines = ",\n".join(
        f"{json.dumps(name)}: [\n" + ",\n".join("  " + json.dumps(image) for image in images) + "\n]"
        for name, images in sets.items()
    )
    (FOLDER / "truth.json").write_text("{\n" + lines + "\n}\n")
    total = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{total / 1e3:.0f} kB in {FOLDER}; lmdb {lmdb.__version__}, pyarrow {pa.__version__}, Pillow {Image.__version__}")


if __name__ == "__main__":
    main()
