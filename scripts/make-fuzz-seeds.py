#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets to fuzz/corpus/TARGET/seed-NAME: small files of each format, from
tests/fixtures/ or made here. Needs Python's own library only. Other files there, which fuzzing found, are left alone.

    python3 scripts/make-fuzz-seeds.py
"""

from __future__ import annotations

import gzip
import io
import json
import pathlib
import struct
import tarfile

ROOT = pathlib.Path(__file__).parent.parent
FIXTURES = ROOT / "tests/fixtures"
CORPUS = ROOT / "fuzz/corpus"


def seed(target: str, name: str, content: bytes | str) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(content.encode() if isinstance(content, str) else content)


def celeba() -> None:
    seed("attributes", "text", "2\nBald Smiling \n000001.jpg -1  1\n000002.jpg  1 -1\n")
    seed("attributes", "csv", "image_id,Bald,Smiling\r\n000001.jpg,-1,1\r\n000002.jpg,1,-1\r\n")
    seed("attributes", "web-page", "<!DOCTYPE html><html><title>Quota exceeded</title></html>")
    seed("attributes", "wrong-count", "\ufeff3\nMale\na/b.png 1\n")
    seed("partition", "text", "000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n")
    seed("partition", "csv", "image_id,partition\n000001.jpg,0\n000002.jpg,1\n")
    seed("partition", "twice", "a.jpg 0\na.png 1\n")


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def idx() -> None:
    images = struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 3, 4) + bytes(range(24))
    labels = struct.pack(">BBBBI", 0, 0, 8, 1, 5) + bytes([3, 1, 4, 1, 5])
    seed("idx", "images", images)
    seed("idx", "labels", labels)
    seed("idx", "images.gz", packed(images))
    seed("idx", "labels.gz", packed(labels))
    seed("idx", "cut", images[:-1])
    seed("idx", "huge", struct.pack(">BBBB4I", 0, 0, 8, 4, *[0xFFFFFFFF] * 4))


def tar(files: dict[str, bytes]) -> bytes:
    """Without the blocks of zeros that fill a tar up to 10 KiB: two end it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        length = archive.offset
    return out.getvalue()[:length + 1024]


def cifar10() -> None:
    record = bytes([3]) + bytes(3072)
    seed("cifar10", "two", record + bytes([9]) + bytes(i % 251 for i in range(3072)))
    seed("cifar10", "wrong-label", bytes([200]) + record[1:])
    seed("cifar10", "names", "airplane\nautomobile\n\nbird\n")
    files = {
        "cifar-10-batches-bin/batches.meta.txt": b"cat\ndog\n",
        "cifar-10-batches-bin/data_batch_1.bin": record[:100],
    }
    archive = tar(files)
    seed("cifar10_archive", "two", archive)
    seed("cifar10_archive", "cut", archive[:-1600])
    seed("cifar10_archive", "long-name", tar({"x" * 120 + "/test_batch.bin": record[:10]}))


def webdataset() -> None:
    image = (FIXTURES / "images/tiny-upscaled.png").read_bytes()
    shard = tar({"a/000.png": image, "a/000.cls": b"7", "a/001.cls": b"0\n", "a/001.seg.jpg": b"no", ".x/y.png": b""})
    seed("webdataset", "classes", shard)
    seed("webdataset", "classes.gz", packed(shard))
    seed("webdataset", "outside", tar({"../000.png": b"1"}))
    seed("webdataset", "long-name", tar({"ü" * 120 + ".png": b"1"}))


def lmdb() -> None:
    """With pages of 256 bytes: two meta pages, a branch over two leaves, a value of its own pages."""
    size, none = 256, 0xFFFFFFFFFFFFFFFF

    def page(number: int, flags: int, lower: int, content: bytes) -> bytes:
        return (struct.pack("<QHHHH", number, 0, flags, lower, size) + content).ljust(size, b"\0")

    def database(pad: int, depth: int, counts: tuple[int, int, int, int], root: int) -> bytes:
        return struct.pack("<IHH5Q", pad, 0, depth, *counts, root)

    def meta(number: int, root: int, transaction: int) -> bytes:
        content = struct.pack("<IIQQ", 0xBEEFC0DE, 1, 0, 8 * size)
        content += database(size, 0, (0, 0, 0, 0), none) + database(0, 2, (1, 2, 2, 3), root)
        return page(number, 8, 0, content + struct.pack("<QQ", 6, transaction))

    def nodes(number: int, flags: int, entries: list[bytes]) -> bytes:
        """Node offsets in front, nodes from the end."""
        content, offsets, at = b"", [], size
        for entry in entries:
            entry += b"\0" * (len(entry) % 2)
            at -= len(entry)
            content = entry + content
            offsets.append(at)
        table = struct.pack(f"<{len(offsets)}H", *offsets)
        whole = page(number, flags, 16 + len(table), table)
        return whole[:at] + content

    def leaf(key: bytes, value: bytes, length: int, flags: int = 0) -> bytes:
        return struct.pack("<HHHH", length & 0xFFFF, length >> 16, flags, len(key)) + key + value

    def child(number: int, key: bytes) -> bytes:
        return struct.pack("<HHHH", number & 0xFFFF, number >> 16, 0, len(key)) + key

    tree = [
        nodes(2, 1, [child(3, b""), child(4, b"c")]),
        nodes(3, 2, [leaf(b"a", b"first", 5), leaf(b"b", b"second", 6)]),
        nodes(4, 2, [leaf(b"c", struct.pack("<Q", 5), 300, flags=1)]),
        (page(5, 4, 2, b"") + bytes(size))[:2 * size],
    ]
    seed("lmdb", "tree", meta(0, none, 0) + meta(1, 2, 1) + b"".join(tree))
    seed("lmdb", "empty", meta(0, none, 0) + meta(1, none, 0))
    seed("lmdb", "circle", meta(0, none, 0) + meta(1, 2, 1) + nodes(2, 1, [child(2, b"")]))


def parquet() -> None:
    for name in ["null", "plain", "no-image", "zstd"]:
        content = (FIXTURES / f"formats/{name}.parquet").read_bytes()
        seed("parquet", name, content)
        if name in ["null", "no-image"]:
            # From after the magic to the footer, whose length is in front of the last magic.
            footer = struct.unpack("<I", content[-8:-4])[0]
            seed("page_headers", name, content[4:-8 - footer])
            seed("page_headers", f"{name}-cut", content[4:-9 - footer])


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None) -> bytes:
    header: dict = {"__metadata__": metadata} if metadata else {}
    content = b""
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(content), len(content) + len(data)]}
        content += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content


def weights() -> None:
    all_types = {
        "a": ("F64", [2], struct.pack("<2d", 1.5, -1e300)),
        "b": ("I64", [], struct.pack("<q", -3)),
        "c": ("F32", [1, 3], struct.pack("<3f", 0.0, float("nan"), float("inf"))),
        "d": ("F16", [2], b"\x00\x3c\x01\x00"),
        "e": ("BF16", [1, 1], b"\x80\x3f"),
    }
    seed("safetensors", "types", safetensors(all_types, {"format": "pt"}))
    # The generator of 32 px, all of whose widths are the least.
    shapes = [[1, 4, 4, 4], [4, 2, 4, 4], [2, 1, 4, 4], [1, 1, 4, 4]]
    generator = {}
    for block, shape in enumerate(shapes):
        generator[f"main.{3 * block}.weight"] = ("F16", shape, bytes(2 * shape[0] * shape[1] * 16))
        if block < 3:
            norm = f"main.{3 * block + 1}"
            for part in ["weight", "bias", "running_mean", "running_var"]:
                generator[f"{norm}.{part}"] = ("F16", [shape[1]], bytes(2 * shape[1]))
            generator[f"{norm}.num_batches_tracked"] = ("I64", [], bytes(8))
    seed("safetensors", "generator", safetensors(generator))
    seed("safetensors", "pickle", b"\x80\x02}q\x00.")
    seed("safetensors", "overflow", safetensors({"a": ("F32", [1 << 62, 4], b"")}))


def pack() -> None:
    """As fuzz/src/lib.rs expands it: the fields of the header, then the sections without the first."""
    metadata = {
        "recipe": {"dataset": "folder", "data": "/faces", "split": "train", "crop": 3, "drawn": None, "size": 2,
                   "channels": 3},
        "preprocessing": "upright",
        "describe": "three images",
        "skipped": [{"index": 1, "name": "b.jpg", "cause": "b.jpg: the file is empty"}],
        "attribute_names": ["Bald", "Male"],
        "class_names": ["cat", "dog"],
    }

    def write(side: int, channels: int, count: int, sections: list[bytes]) -> bytes:
        header = b"\x89DCGP\r\n\x1a" + struct.pack("<4IQ", 1, side, channels, 0, count) + bytes(64)
        for section in [b"", *sections]:
            header += struct.pack("<3Q", 0, len(section), 0)
        return header + b"".join(sections)

    text = json.dumps(metadata).encode()
    classes = struct.pack("<3I", 0, 1, 0xFFFFFFFF)
    seed("pack", "all", write(2, 3, 3, [text, b"\1\xff\xff\1\0\0", classes, b"\0\1\xff"]))
    bare = json.dumps({**metadata, "skipped": [], "attribute_names": [], "class_names": []}).encode()
    seed("pack", "bare", write(1, 1, 1, [bare, b"", b"", b""]))
    seed("pack", "rows-missing", write(2, 3, 3, [text, b"", classes, b""]))
    seed("pack", "version", b"\x89DCGP\r\n\x1a" + struct.pack("<I", 2) + bytes(4084))


def images() -> None:
    for name in ["tiny-upscaled.png", "bilevel.png", "palette-transparent.png", "lossy.webp", "alpha.webp", "grey.jpg",
                 "exif-6.jpg", "rgb-wide-progressive.jpg", "ycck.jpg", "palette.bmp"]:
        seed("decode", name, (FIXTURES / "images" / name).read_bytes())


def main() -> None:
    for make in [celeba, idx, cifar10, webdataset, lmdb, parquet, weights, pack, images]:
        make()
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes in {CORPUS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
