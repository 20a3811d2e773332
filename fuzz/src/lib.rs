//! What the fuzz targets run: each parser of the program on any bytes. A parser takes them or refuses them; it neither
//! panics nor claims what is not there. tests/data/fuzz_corpus.rs runs the same on the files in `corpus/`.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dcgan_cuda::data::containers::lmdb::Lmdb;
use dcgan_cuda::data::containers::parquet_pages::{PageKind, page_headers as read_page_headers};
use dcgan_cuda::data::decode::{self, Limits};
use dcgan_cuda::data::pack::{BLOCK, Header, MAGIC, PAGE, Pack};
use dcgan_cuda::data::sources::celeba;
use dcgan_cuda::data::sources::cifar10::{self, Batch, RECORD};
use dcgan_cuda::data::sources::mnist::{self, Idx};
use dcgan_cuda::data::{Parquet, Source, Split, WebDataset};
use dcgan_cuda::model::params::{StateDict, TensorFile};
use twox_hash::XxHash3_64;

/// A target: the name of its folder in `corpus/`, and what it runs, which tells whether the bytes were taken.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("attributes", attributes),
    ("cifar10", cifar10),
    ("cifar10_archive", cifar10_archive),
    ("decode", decode),
    ("idx", idx),
    ("lmdb", lmdb),
    ("pack", pack),
    ("page_headers", page_headers),
    ("parquet", parquet),
    ("partition", partition),
    ("safetensors", safetensors),
    ("webdataset", webdataset),
];

/// CelebA's list of attributes, text or CSV.
pub fn attributes(bytes: &[u8]) -> bool {
    let Ok(table) = celeba::AttributeTable::parse(bytes) else {
        return false;
    };
    assert!(!table.names.is_empty() && !table.files.is_empty());
    assert_eq!(table.values.len(), table.names.len() * table.files.len());
    assert!(table.values.iter().all(|value| value.abs() == 1));
    true
}

/// CelebA's partition, text or CSV.
pub fn partition(bytes: &[u8]) -> bool {
    let Ok(rows) = celeba::parse_partition(bytes) else {
        return false;
    };
    assert!(!rows.is_empty());
    assert!(rows.iter().all(|(_, split)| *split != Split::All));
    true
}

/// A batch file of CIFAR-10, also cut to whole records, and the names of its classes.
pub fn cifar10(bytes: &[u8]) -> bool {
    let mut taken = false;
    let whole = bytes.len() / RECORD * RECORD;
    for (bytes, classes) in [(bytes, 10), (&bytes[..whole], 10), (&bytes[..whole], 256)] {
        if let Ok(batch) = Batch::parse(Bytes::copy_from_slice(bytes), classes) {
            taken = true;
            assert_eq!(batch.len() * RECORD, bytes.len());
            for index in 0..batch.len() {
                assert!(usize::from(batch.label(index)) < classes);
                assert_eq!(batch.pixels(index).len(), RECORD - 1);
            }
        }
    }
    if let Ok(names) = cifar10::parse_names(bytes) {
        assert!(!names.is_empty() && names.len() <= 256);
    }
    taken
}

/// CIFAR-10's tar archive.
pub fn cifar10_archive(bytes: &[u8]) -> bool {
    let wanted = ["data_batch_1.bin", "test_batch.bin"];
    let Ok(files) = cifar10::from_tar(Cursor::new(bytes), &wanted) else {
        return false;
    };
    let unpacked: usize = files.iter().map(|(_, file)| file.len()).sum();
    assert!(files.len() <= 3 && unpacked <= bytes.len());
    !files.is_empty()
}

/// An image file, decoded with small limits, then fitted.
pub fn decode(bytes: &[u8]) -> bool {
    let limits = Limits {
        max_side: 1024,
        max_bytes: 4 << 20,
    };
    let Ok(image) = decode::decode(bytes, "fuzzed", &limits) else {
        return false;
    };
    let (width, height) = image.dimensions();
    assert!(width.max(height) <= limits.max_side && width.min(height) > 0);
    for crop in [None, Some(20)] {
        if let Ok(pixels) = decode::fit(&image, 16, crop) {
            assert_eq!(pixels.len(), 16 * 16 * 3);
        }
    }
    true
}

/// An idx file, gzipped or not, as images and as labels.
pub fn idx(bytes: &[u8]) -> bool {
    let Ok(idx) = Idx::parse_packed(Bytes::copy_from_slice(bytes)) else {
        return false;
    };
    assert!((1..=4).contains(&idx.dimensions.len()));
    assert_eq!(idx.values.len(), idx.dimensions.iter().product::<usize>());
    if let Ok(images) = mnist::check_images(idx.clone()) {
        let [count, height, width] = images.dimensions[..] else {
            panic!("images of {} dimensions", images.dimensions.len());
        };
        assert!(count * height * width > 0);
    }
    let count = idx.values.len();
    if let Ok(labels) = mnist::check_labels(idx, count) {
        assert!(labels.values.iter().all(|&label| label < 10));
    }
    true
}

/// An LMDB file and all of its entries.
pub fn lmdb(bytes: &[u8]) -> bool {
    let Ok(lmdb) = Lmdb::open(Bytes::copy_from_slice(bytes)) else {
        return false;
    };
    for index in 0..lmdb.len() {
        if let Ok(entry) = lmdb.entry(index) {
            assert!(entry.key.len().max(entry.value.len()) <= bytes.len());
        }
    }
    true
}

/// The pages of a Parquet column.
pub fn page_headers(bytes: &[u8]) -> bool {
    const LIMIT: u64 = 1 << 20;
    let Ok(pages) = read_page_headers(bytes, LIMIT) else {
        return false;
    };
    // A header takes bytes of its own.
    assert!(pages.len() <= bytes.len());
    for page in &pages {
        assert!(page.unpacked as u64 <= LIMIT);
        assert!(page.kind != PageKind::Index || page.values == 0);
    }
    !pages.is_empty()
}

/// A Parquet file and its images as they are stored.
pub fn parquet(bytes: &[u8]) -> bool {
    let file = (
        PathBuf::from("fuzzed.parquet"),
        Bytes::copy_from_slice(bytes),
    );
    let Ok(source) = Parquet::from_files(Path::new("."), [Ok(file)]) else {
        return false;
    };
    check_source(&source);
    true
}

/// A WebDataset shard: names, classes, and the images as they are stored.
pub fn webdataset(bytes: &[u8]) -> bool {
    let shard = (PathBuf::from("fuzzed.tar"), Bytes::copy_from_slice(bytes));
    let Ok(source) = WebDataset::from_shards(Path::new("."), [Ok(shard)]) else {
        return false;
    };
    check_source(&source);
    true
}

fn check_source(source: &dyn Source) {
    assert!(!source.is_empty());
    assert_eq!(source.fingerprint(), source.fingerprint());
    for index in 0..source.len().min(1000) {
        assert!(source.name(index).starts_with("fuzzed."));
        let class = source.class(index);
        assert!(class.is_none_or(|class| (class as usize) < source.class_names().len()));
        // An image that cannot be read is left out by name.
        let _ = source.original(index);
    }
}

/// Weights: read, taken as a generator's, and written again as they were read.
pub fn safetensors(bytes: &[u8]) -> bool {
    let Ok(file) = TensorFile::from_bytes(bytes) else {
        return false;
    };
    let dict = StateDict::take_from(&file, "");
    if let Ok(dimensions) = dict.generator_dimensions() {
        assert!(dimensions.check().is_ok());
    }
    let written = file
        .to_bytes()
        .and_then(|bytes| TensorFile::from_bytes(&bytes));
    match written {
        Ok(again) => {
            assert_eq!(again.counts, file.counts);
            assert_eq!(again.metadata, file.metadata);
            assert!(again.floats.keys().eq(file.floats.keys()));
            for (tensor, back) in file.floats.values().zip(again.floats.values()) {
                assert_eq!(back.shape, tensor.shape);
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
                assert!(back.data.iter().zip(&tensor.data).all(same));
            }
        }
        Err(error) => panic!("cannot be read again: {error:#}"),
    }
    true
}

/// A pack as it is, and as `expanded` makes it.
pub fn pack(bytes: &[u8]) -> bool {
    let behind_checksums = expanded(bytes).is_some_and(|whole| open_pack(&whole));
    open_pack(bytes) || behind_checksums
}

fn open_pack(bytes: &[u8]) -> bool {
    let page = &bytes[..bytes.len().min(PAGE)];
    let parsed = Header::parse(page, bytes.len() as u64);
    if bytes.len() < PAGE || !bytes.starts_with(&MAGIC) {
        assert!(parsed.is_err());
        return false;
    }
    let file = tempfile::NamedTempFile::new().and_then(|mut file| {
        file.write_all(bytes)?;
        Ok(file)
    });
    let file = match file {
        Ok(file) => file,
        Err(error) => panic!("no temporary file: {error}"),
    };
    match Pack::open(file.path()) {
        Ok(pack) => {
            assert!(parsed.is_ok() && !pack.is_empty());
            assert_eq!(pack.file_bytes(), bytes.len() as u64);
            let image = pack.size() * pack.size() * pack.channels();
            assert_eq!(pack.pixels().len(), pack.len() * image);
            let width = pack.metadata().attribute_names.len();
            for index in [0, pack.len() / 2, pack.len() - 1, pack.len(), usize::MAX] {
                let attributes = pack.attributes(index);
                assert!(attributes.is_none_or(|row| row.len() == width && index < pack.len()));
                assert!(pack.class(index).is_none() || index < pack.len());
                assert!(pack.part(index).is_none() || index < pack.len());
            }
            // Whether the pixels are right is another question.
            let _ = pack.verify(None);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// Bytes of the header in use: magic, version, size, channels, a gap, count, two hashes, five sections.
const FIELDS: usize = 8 + 4 * 4 + 8 + 2 * 32 + SECTIONS * 24;
const SECTIONS: usize = 5;

/// A pack whose checksums are right, so that what lies behind them is reached: the fields of the header are the first
/// bytes, what follows them goes behind zeroed pixels, and the sections lie one behind another. `None` where the pixels
/// would have more than a MiB.
fn expanded(bytes: &[u8]) -> Option<Vec<u8>> {
    let (fields, rest) = bytes.split_at_checked(FIELDS)?;
    let number = |at: usize| Some(u32::from_le_bytes(*fields.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_le_bytes(*fields.get(at..)?.first_chunk()?));
    let (side, channels, count) = (number(12)?.into(), number(16)?.into(), long(24)?);
    let pixels = [side, side, channels, count]
        .into_iter()
        .try_fold(1u64, u64::checked_mul)
        .filter(|&pixels| pixels <= 1 << 20)?;
    let end = PAGE + (pixels as usize).next_multiple_of(PAGE);
    let mut whole = fields.to_vec();
    whole.resize(end, 0);
    let checksum = XxHash3_64::oneshot;
    // The checksums of the blocks come first, and are not among the bytes.
    let blocks: Vec<u8> = whole[PAGE..]
        .chunks(BLOCK)
        .flat_map(|block| checksum(block).to_le_bytes())
        .collect();
    whole.extend(&blocks);
    whole.extend(rest);
    let mut offset = end;
    for section in 0..SECTIONS {
        let at = FIELDS - (SECTIONS - section) * 24;
        let length = match section {
            0 => blocks.len(),
            _ => usize::try_from(long(at + 8)?).ok()?,
        };
        let next = offset.checked_add(length)?;
        let sum = checksum(whole.get(offset..next)?);
        for (field, value) in [offset as u64, length as u64, sum].into_iter().enumerate() {
            let at = at + field * 8;
            whole[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        offset = next;
    }
    // What is left over makes the file longer than the header says.
    let sum = checksum(&whole[..PAGE - 8]);
    whole[PAGE - 8..PAGE].copy_from_slice(&sum.to_le_bytes());
    Some(whole)
}
