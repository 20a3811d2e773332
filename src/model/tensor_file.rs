//! safetensors files (<https://github.com/huggingface/safetensors>): f32 tensors by name. A header is judged before
//! anything else of a file is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};

use crate::files::open_regular;
use crate::memory;
use crate::text::shown;

/// Longest header that is read from a file, bytes. A record of 1000 iterations has some 10 MiB.
const MAX_HEADER: u64 = 32 << 20;
/// Bytes of each end of a file in which a pickle is looked for.
const END: usize = 64 << 10;

/// What follows where bytes are no safetensors file.
pub const FOREIGN: &str = "; is it damaged, or from another program?";

/// Sizes of tensors by name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// A tensor of f32 on the host, in PyTorch's layout, the last dimension contiguous.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes of its dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements in row-major order, as many as the product of the sizes.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor of `data`, which has as many elements as `shape` says.
    pub fn new(shape: &[usize], data: Vec<f32>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self {
            shape: shape.to_vec(),
            data,
        }
    }

    /// A tensor of no dimensions.
    pub fn scalar(value: f32) -> Self {
        Self::new(&[], vec![value])
    }
}

/// The content of a safetensors file as this program reads and writes it: f32 tensors and i64 scalars.
#[derive(Clone, Debug, Default)]
pub struct TensorFile {
    /// f32 tensors by name.
    pub floats: BTreeMap<String, Tensor>,
    /// i64 scalars by name.
    pub counts: BTreeMap<String, i64>,
    /// `__metadata__` of the header.
    pub metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// The bytes of the file, in the safetensors format (github.com/huggingface/safetensors).
    ///
    /// # Errors
    /// Where a tensor has not as many elements as its shape says.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let head = self.head()?;
        let elements: usize = self.floats.values().map(|t| t.data.len()).sum();
        let mut bytes = Vec::with_capacity(head.len() + 8 * self.counts.len() + 4 * elements);
        self.write_behind(&head, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes the bytes of [`TensorFile::to_bytes`] without holding them together.
    ///
    /// # Errors
    /// As there, and where `to` fails.
    pub fn write_to(&self, to: &mut impl Write) -> Result<()> {
        self.write_behind(&self.head()?, to)
    }

    fn write_behind(&self, head: &[u8], to: &mut impl Write) -> Result<()> {
        to.write_all(head)?;
        for count in self.counts.values() {
            to.write_all(&count.to_le_bytes())?;
        }
        for tensor in self.floats.values() {
            to.write_all(bytemuck::cast_slice(&tensor.data))?;
        }
        Ok(())
    }

    /// The file up to its data: the length, and the JSON of the library's [`Metadata`], which would have the strings of
    /// `metadata` in an order of chance, and the same content is to be the same bytes.
    fn head(&self) -> Result<Vec<u8>> {
        let (mut tensors, mut end) = (Vec::new(), 0);
        let mut add = |name: &String, dtype, shape: &[usize], bytes| {
            let data_offsets = (end, end + bytes);
            end += bytes;
            let shape = shape.to_vec();
            let tensor = TensorInfo {
                dtype,
                shape,
                data_offsets,
            };
            tensors.push((name.clone(), tensor));
        };
        // Wide types first, then by name, as the library has it.
        for name in self.counts.keys() {
            add(name, Dtype::I64, &[], size_of::<i64>());
        }
        for (name, Tensor { shape, data }) in &self.floats {
            add(name, Dtype::F32, shape, size_of_val(&data[..]));
        }
        let tensors = Metadata::new(None, tensors)?;
        let json = if self.metadata.is_empty() {
            serde_json::to_vec(&tensors)?
        } else {
            let mut header = serde_json::to_value(&tensors)?;
            header["__metadata__"] = serde_json::json!(self.metadata);
            serde_json::to_vec(&header)?
        };
        // The data begins at a multiple of 8, as the library has it too.
        let length = json.len().next_multiple_of(8);
        let mut header = (length as u64).to_le_bytes().to_vec();
        header.extend(json);
        header.resize(8 + length, b' ');
        Ok(header)
    }

    /// Reads the safetensors file `path`: f32, f16, bf16 and f64 tensors as f32, i64 scalars as counts.
    ///
    /// # Errors
    /// Where it cannot be read, its bytes cannot be used ([`Self::from_bytes`]), or it does not fit into memory.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_if(path, |_| Ok(()))
    }

    /// As [`Self::read`], but `judge` sees the shapes of the tensors first (those that will be `floats`), and nothing
    /// else is read where it fails.
    ///
    /// # Errors
    /// As there, and where `judge` fails.
    pub fn read_if(path: &Path, judge: impl FnOnce(&Shapes) -> Result<()>) -> Result<Self> {
        let (mut file, mut bytes, needed) = Self::open(path, judge)?;
        memory::ensure(needed, shown(path), |_| {
            "close other programs, raise the limit, or use a smaller file".to_string()
        })?;
        file.read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", shown(path)))?;
        Self::from_bytes(&bytes).with_context(|| format!("{} cannot be used{FOREIGN}", shown(path)))
    }

    /// Has `judge` see the shapes of the tensors of `path`, as [`Self::read_if`] does, and reads no more than the
    /// header.
    ///
    /// # Errors
    /// Where it cannot be read, is no safetensors file, or `judge` fails.
    pub fn header(path: &Path, judge: impl FnOnce(&Shapes) -> Result<()>) -> Result<()> {
        Self::open(path, judge).map(|_| ())
    }

    /// The open file behind its header, the bytes until there, and how many bytes of memory it takes to read the rest.
    fn open(
        path: &Path,
        judge: impl FnOnce(&Shapes) -> Result<()>,
    ) -> Result<(File, Vec<u8>, u64)> {
        let cannot_read = || format!("cannot read {}", shown(path));
        let mut file = open_regular(path).with_context(cannot_read)?;
        let length = file.metadata().with_context(cannot_read)?.len();
        let unusable = || format!("{} cannot be used{FOREIGN}", shown(path));
        ensure!(length > 0, "{}: the file is empty", unusable());
        if is_pickle(&ends(&file, length).with_context(cannot_read)?) {
            bail!("{}", refused_pickle(path));
        }
        let mut bytes = Vec::new();
        let header = read_header(&mut file, length, &mut bytes)
            .with_context(cannot_read)?
            .map_err(|error| anyhow!("it is not a whole safetensors file ({error})"))
            .with_context(unusable)?;
        let mut needed = length;
        let mut shapes = Shapes::new();
        for (name, info) in header.tensors() {
            let elements = info.shape.iter().product::<usize>() as u64;
            needed = needed.saturating_add(elements.saturating_mul(4));
            if info.dtype != Dtype::I64 {
                shapes.insert(name, info.shape.clone());
            }
        }
        judge(&shapes)?;
        Ok((file, bytes, needed))
    }

    /// The shapes of [`Self::floats`].
    pub fn shapes(&self) -> Shapes {
        let shapes = self.floats.iter();
        shapes
            .map(|(name, t)| (name.clone(), t.shape.clone()))
            .collect()
    }

    /// Parses the bytes of a safetensors file, with types as in [`Self::read`].
    ///
    /// # Errors
    /// Says what the bytes look like instead where they are no safetensors file: a pickle (`torch.save`) is refused,
    /// since loading one can run code. Also where a tensor is of another type.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        ensure!(!bytes.is_empty(), "the file is empty");
        let file = SafeTensors::deserialize(bytes).map_err(|error| {
            let (head, tail) = (&bytes[..bytes.len().min(END)], &bytes[bytes.len().saturating_sub(END)..]);
            if is_pickle(&[head, tail].concat()) {
                anyhow!(
                    "it is a pickle (torch.save), which can run code when loaded and is refused; convert it in PyTorch \
                     with safetensors.torch.save_file(state_dict, …)"
                )
            } else {
                anyhow!("it is not a whole safetensors file ({error})")
            }
        })?;
        let mut out = Self::default();
        if let Ok((_, header)) = SafeTensors::read_metadata(bytes)
            && let Some(metadata) = header.metadata()
        {
            out.metadata = metadata.clone().into_iter().collect();
        }
        for (name, view) in file.tensors() {
            let data = view.data();
            let f32s: Vec<f32> = match view.dtype() {
                Dtype::F32 => words(data).map(f32::from_le_bytes).collect(),
                Dtype::F64 => words(data).map(|w| f64::from_le_bytes(w) as f32).collect(),
                Dtype::F16 => words(data)
                    .map(|w| half::f16::from_le_bytes(w).to_f32())
                    .collect(),
                Dtype::BF16 => words(data)
                    .map(|w| half::bf16::from_le_bytes(w).to_f32())
                    .collect(),
                Dtype::I64 if view.shape().iter().product::<usize>() == 1 => {
                    let count = words(data).map(i64::from_le_bytes).next().unwrap_or(0);
                    out.counts.insert(name, count);
                    continue;
                }
                other => {
                    bail!("tensor {name} has the type {other:?}; f32, f16, bf16 or f64 is needed")
                }
            };
            out.floats.insert(name, Tensor::new(view.shape(), f32s));
        }
        Ok(out)
    }
}

/// Little-endian words of `N` bytes.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Whether the file `path` is a pickle, as `torch.save` makes them.
///
/// # Errors
/// Where it cannot be read.
pub fn is_pickle_file(path: &Path) -> std::io::Result<bool> {
    let file = open_regular(path)?;
    let length = file.metadata()?.len();
    Ok(is_pickle(&ends(&file, length)?))
}

/// The first and the last bytes of a file.
fn ends(mut file: &File, length: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(END as u64).read_to_end(&mut bytes)?;
    file.seek(SeekFrom::Start(length.saturating_sub(END as u64)))?;
    file.take(END as u64).read_to_end(&mut bytes)?;
    file.rewind()?;
    Ok(bytes)
}

/// Reads what stands before the tensors of a file of `length` bytes into `bytes`, and no more; why it is no safetensors
/// file is the inner error.
fn read_header(
    file: &mut File,
    length: u64,
    bytes: &mut Vec<u8>,
) -> std::io::Result<std::result::Result<Metadata, String>> {
    file.take(8).read_to_end(bytes)?;
    let Some(&size) = bytes.first_chunk() else {
        return Ok(Err(format!("it has {} bytes", bytes.len())));
    };
    let size = u64::from_le_bytes(size);
    if size > length - 8 {
        return Ok(Err("its header would be longer than the file".into()));
    }
    if size > MAX_HEADER {
        return Ok(Err(format!("its header would have {} MiB", size >> 20)));
    }
    file.take(size).read_to_end(bytes)?;
    let header: Metadata = match serde_json::from_slice(&bytes[8..]) {
        Ok(header) => header,
        Err(error) => return Ok(Err(format!("its header cannot be read: {error}"))),
    };
    let end = (header.data_len() as u64).saturating_add(8 + size);
    Ok(match end == length {
        true => Ok(header),
        false => Err(format!("it has {length} bytes, and should have {end}")),
    })
}

/// Whether the ends of a file are those of a pickle, as `torch.save` makes them: a zip with `data.pkl` in it, or,
/// before PyTorch 1.6, the bare pickle. One byte would not do: a header's length may well begin like a pickle.
fn is_pickle(ends: &[u8]) -> bool {
    if ends.starts_with(b"PK\x03\x04") {
        return ends.windows(8).any(|part| part == b"data.pkl");
    }
    let [0x80, protocol @ 0..=5, opcode, rest @ ..] = ends else {
        return false;
    };
    // The upper bytes of a header's length, and its brace.
    let safetensors = rest.starts_with(&[0, 0, 0, 0, 0, b'{']);
    // FRAME; else what the pickles of dictionaries, lists, classes, numbers and strings begin with.
    let begins = match protocol {
        4 | 5 => *opcode == 0x95,
        _ => b"}])(cXTUKMJN\x88\x89\x8a".contains(opcode),
    };
    begins && !safetensors
}

/// What is said of the pickle `path`.
fn refused_pickle(path: &Path) -> String {
    format!(
        "{} is a pickle (torch.save), which can run code when loaded and is refused; convert it with: {}",
        shown(path),
        conversion(path, &path.with_extension("safetensors"))
    )
}

/// The line that converts `from`, which `torch.save` wrote, to the safetensors file `to`: all tensors in it, nested
/// dictionaries with their names in front.
pub fn conversion(from: &Path, to: &Path) -> String {
    format!(
        "python3 -c \"import sys, torch; from safetensors.torch import save_file; \
         flat = lambda d, p='': {{n: t for k, v in d.items() for n, t in \
         (flat(v, f'{{p}}{{k}}.') if isinstance(v, dict) else {{f'{{p}}{{k}}': v}}).items()}}; \
         save_file({{n: t.detach().clone().contiguous() for n, t in \
         flat(torch.load(sys.argv[1], map_location='cpu', weights_only=True)).items() \
         if torch.is_tensor(t)}}, sys.argv[2])\" {} {}",
        quoted(from),
        quoted(to)
    )
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = shown(path);
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    match !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn bytes_are_those_of_the_library() {
        let mut file = TensorFile::default();
        let tensor = |n: usize| Tensor::new(&[n, 2], (0..2 * n).map(|i| i as f32).collect());
        file.floats.insert("z.weight".to_string(), tensor(3));
        file.floats.insert("a \"b\"".to_string(), tensor(0));
        file.floats
            .insert("Scalar".to_string(), Tensor::scalar(0.5));
        file.counts.insert("m.count".to_string(), -7);
        let count = (-7i64).to_le_bytes();
        let floats = file.floats.iter().map(|(name, tensor)| {
            let bytes = bytemuck::cast_slice(&tensor.data);
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).unwrap();
            (name.clone(), view)
        });
        let mut views: Vec<_> = floats.collect();
        let view = TensorView::new(Dtype::I64, Vec::new(), &count).unwrap();
        views.push(("m.count".to_string(), view));
        let theirs = safetensors::serialize(views, None).unwrap();
        assert_eq!(file.to_bytes().unwrap(), theirs);
        let mut written = Vec::new();
        file.write_to(&mut written).unwrap();
        assert_eq!(written, theirs);

        file.metadata.insert("format".to_string(), "1".to_string());
        let back = TensorFile::from_bytes(&file.to_bytes().unwrap()).unwrap();
        assert_eq!(back.floats, file.floats);
        assert_eq!(back.counts, file.counts);
        assert_eq!(back.metadata, file.metadata);

        file.floats.get_mut("z.weight").unwrap().data.pop();
        assert!(file.to_bytes().is_err());
    }

    #[test]
    fn one_byte_makes_no_pickle() {
        let mut file = TensorFile::default();
        for index in 0..40 {
            let tensor = Tensor::new(&[1], vec![0.5]);
            file.floats.insert(format!("main.{index}.weight"), tensor);
        }
        let whole = file.to_bytes().unwrap();
        for (at, byte) in (0..8).flat_map(|at| (0..=255u8).map(move |byte| (at, byte))) {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            if let Err(error) = TensorFile::from_bytes(&damaged) {
                assert!(
                    !error.to_string().contains("pickle"),
                    "{at} {byte}: {error}"
                );
            }
        }
        // Whatever the length of the header is, and whatever stands for its brace.
        for length in 0..=0xffffu16 {
            let [low, high] = length.to_le_bytes();
            assert!(!is_pickle(&[low, high, 0, 0, 0, 0, 0, 0, b'{']));
            assert!(!is_pickle(&[0x80, low, high, 0, 0, 0, 0, 0, b'{']));
        }
        // A zip of something else.
        assert!(!is_pickle(b"PK\x03\x04\x14\0\0\0\x08\0images/1.jpg"));
    }

    #[test]
    fn pickles_of_every_protocol_are_known() {
        for pickle in [
            &b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pklFB"[..],
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
            b"\x80\x02ccollections\nOrderedDict\nq\0)Rq\x01.",
            b"\x80\x03}q\0.",
            b"\x80\x04\x95\x0c\0\0\0\0\0\0\0}\x94.",
            b"\x80\x05\x95\x0c\0\0\0\0\0\0\0}\x94.",
        ] {
            assert!(is_pickle(pickle), "{pickle:?}");
        }
    }

    #[test]
    fn a_path_is_quoted_where_a_shell_would_split_it() {
        assert_eq!(quoted(Path::new("a/b-1.pth")), "a/b-1.pth");
        assert_eq!(quoted(Path::new("my net's.pth")), "'my net'\\''s.pth'");
        assert_eq!(quoted(Path::new("-x")), "'-x'");
    }
}
