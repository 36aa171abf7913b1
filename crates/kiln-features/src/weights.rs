//! Reader of weights files.
//!
//! Four formats, told apart by their first bytes: safetensors; PyTorch's zip (since 1.6), where
//! `data.pkl` describes the tensors and `data/KEY` holds the numbers; PyTorch's older file of four
//! pickles, a list of keys and the numbers one after another; and HDF5 as Keras writes it. The file is read
//! once and each tensor is a view of its bytes, so that reading takes no more memory than the file has; of HDF5 it is a view of
//! what was read of it, which takes as much again.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;

use kiln_core::{Context, Error, Result, hex, read_file};
use safetensors::tensor::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use zip::{CompressionMethod, ZipArchive};

use crate::element::Element;
use crate::hdf5;
use crate::pickle::{Tensor, Unpickled, Value, unpickle};

/// A tensor's place in the file.
#[derive(Debug)]
struct View {
    element: Element,
    /// The bytes of its storage.
    storage: Range<usize>,
    /// The first element within the storage.
    offset: usize,
    shape: Vec<usize>,
    /// Elements between neighbours along each axis.
    strides: Vec<usize>,
}

impl View {
    /// Fails unless every element lies in the storage and none is there twice for long.
    fn check(self) -> Result<Self> {
        let len = self.storage.len() / self.element.bytes();
        let count = self.shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
        let last = self.shape.iter().zip(&self.strides).try_fold(self.offset, |at, (&size, &stride)| {
            size.saturating_sub(1).checked_mul(stride).and_then(|step| at.checked_add(step))
        });
        let inside = count == Some(0) || last.is_some_and(|last| last < len);
        // More numbers than are stored would let a small file ask for any amount of memory, and networks
        // have at most four axes.
        if !inside || count.is_none_or(|n| n > len) || self.strides.len() != self.shape.len() || self.shape.len() > 8 {
            return Err(Error::new(format!(
                "shape {:?} with strides {:?} does not fit the {len} numbers stored for it",
                self.shape, self.strides
            )));
        }
        Ok(self)
    }

    /// The elements in row-major order.
    fn values(&self, bytes: &[u8]) -> Vec<f32> {
        let storage = bytes.get(self.storage.clone()).unwrap_or_default();
        let (size, count) = (self.element.bytes(), self.shape.iter().product::<usize>());
        if count == 0 {
            return Vec::new();
        }
        if self.strides == row_major(&self.shape) {
            let from = storage.get(self.offset * size..).unwrap_or_default();
            return from.chunks_exact(size).take(count).map(|b| self.element.read(b)).collect();
        }
        let place = |mut index: usize| {
            let mut at = self.offset;
            for (&len, &stride) in self.shape.iter().zip(&self.strides).rev() {
                at += index % len * stride;
                index /= len;
            }
            at * size
        };
        (0..count).map(|i| self.element.read(storage.get(place(i)..).unwrap_or_default())).collect()
    }
}

/// The strides of a tensor without gaps. A shape too large to count has been or will be refused.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides: Vec<usize> =
        shape.iter().rev().scan(1usize, |step, &s| Some(std::mem::replace(step, step.wrapping_mul(s)))).collect();
    strides.reverse();
    strides
}

/// A file of named tensors: safetensors, a state dict that `torch.save` wrote in either format, or Keras's HDF5.
///
/// Nothing in the file is executed: a pickle that needs more than tensors is refused.
#[derive(Debug)]
pub struct WeightsFile {
    place: String,
    bytes: Vec<u8>,
    sha256: String,
    tensors: BTreeMap<String, View>,
}

impl WeightsFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is damaged or cut off, is of another format, or holds more than tensors.
    pub fn open(path: &Path) -> Result<Self> {
        // As large as networks are: nothing of it is decompressed.
        let bytes = read_file(path, u64::MAX)?;
        Self::from_bytes(&path.display().to_string(), bytes)
    }

    /// Reads a trainer's checkpoint: a dict of tensors and of dicts of tensors, which get names such as `g_ema.input`. What
    /// else is in it is left out, and not executed.
    ///
    /// # Errors
    /// As [`WeightsFile::open`].
    pub fn open_checkpoint(path: &Path) -> Result<Self> {
        Self::read(&path.display().to_string(), read_file(path, u64::MAX)?, parts)
    }

    /// The same of a file in memory; `place` is what errors call it.
    ///
    /// # Errors
    /// As [`WeightsFile::open`].
    pub fn from_bytes(place: &str, bytes: Vec<u8>) -> Result<Self> {
        Self::read(place, bytes, whole)
    }

    fn read(place: &str, bytes: Vec<u8>, entries: Entries) -> Result<Self> {
        let sha256 = hex(&Sha256::digest(&bytes));
        let (bytes, views) = match bytes.as_slice() {
            [0x89, b'H', b'D', b'F', ..] => match read_hdf5(&bytes) {
                Ok((read, views)) => (read, Ok(views)),
                Err(error) => (bytes, Err(error)),
            },
            _ => {
                let views = Self::views(&bytes, entries);
                (bytes, views)
            }
        };
        let checked = |(name, view): (String, View)| {
            let view = view.check().context(|| format!("tensor `{name}`"))?;
            Ok((name, view))
        };
        let tensors = views.and_then(|v| v.into_iter().map(checked).collect::<Result<_>>()).context(|| place)?;
        Ok(Self { place: place.to_string(), bytes, sha256, tensors })
    }

    /// What is in a file whose tensors lie in its bytes as they are.
    fn views(bytes: &[u8], entries: Entries) -> Result<Views> {
        match bytes {
            [b'P', b'K', ..] => read_zip(bytes, entries),
            [0x80, ..] => read_legacy(bytes, entries),
            [_, _, _, _, _, _, _, _, b'{', ..] => read_safetensors(bytes),
            _ => Err(Error::new("neither safetensors, nor written by torch.save, nor HDF5")),
        }
    }

    /// The SHA-256 of the file in hexadecimal: which weights exactly. Published files often have its
    /// beginning in their names.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Name and shape of every tensor, in the order of names.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, view)| (name.as_str(), view.shape.as_slice()))
    }

    /// The values of a tensor in row-major order; every number type is converted to `f32`.
    ///
    /// # Errors
    /// If there is no such tensor, or its shape is not `shape`.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let place = &self.place;
        match self.tensors.get(name) {
            None => Err(Error::new(format!("{place} has no tensor `{name}`; is it another network's file?"))),
            Some(view) if view.shape != shape => {
                Err(Error::new(format!("{place}: tensor `{name}` has shape {:?}, needed is {shape:?}", view.shape)))
            }
            Some(view) => Ok(view.values(&self.bytes)),
        }
    }
}

type Views = Vec<(String, View)>;

/// Which tensors of a pickle are the file's.
type Entries = for<'u, 'a> fn(&'u Unpickled<'a>) -> Result<Vec<(String, &'u Tensor<'a>)>>;

/// Those of a checkpoint's parts.
fn parts<'u, 'a>(pickled: &'u Unpickled<'a>) -> Result<Vec<(String, &'u Tensor<'a>)>> {
    pickled.parts()
}

/// A state dict and nothing else.
fn whole<'u, 'a>(pickled: &'u Unpickled<'a>) -> Result<Vec<(String, &'u Tensor<'a>)>> {
    Ok(pickled.tensors()?.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect())
}

/// The numbers of an HDF5 file, and views of them.
fn read_hdf5(bytes: &[u8]) -> Result<(Vec<u8>, Views)> {
    let (read, arrays) = hdf5::read(bytes)?;
    let view = |array: hdf5::Array| {
        let len = array.shape.iter().product::<usize>() * Element::F32.bytes();
        let strides = row_major(&array.shape);
        let view = View {
            element: Element::F32,
            storage: array.start..array.start + len,
            offset: 0,
            shape: array.shape,
            strides,
        };
        (array.name, view)
    };
    let views = arrays.into_iter().map(view).collect();
    Ok((read, views))
}

fn read_safetensors(bytes: &[u8]) -> Result<Views> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).context(|| "damaged safetensors")?;
    let data = 8 + header;
    let view = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let element = match info.dtype {
            Dtype::F64 => Element::F64,
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            Dtype::I64 => Element::I64,
            Dtype::I32 => Element::I32,
            Dtype::I16 => Element::I16,
            Dtype::I8 => Element::I8,
            Dtype::U8 => Element::U8,
            Dtype::BOOL => Element::Bool,
            other => {
                return Err(Error::new(format!("tensor `{name}` has numbers of type {other:?}, which is not known")));
            }
        };
        let storage = data + info.data_offsets.0..data + info.data_offsets.1;
        let (shape, strides) = (info.shape.clone(), row_major(&info.shape));
        Ok((name, View { element, storage, offset: 0, shape, strides }))
    };
    metadata.tensors().into_iter().map(view).collect()
}

/// The view of an unpickled tensor whose storage occupies `stored`.
fn view(tensor: &Tensor<'_>, stored: Range<usize>) -> Result<View> {
    let element = tensor.storage.element;
    let len = tensor.storage.len.checked_mul(element.bytes()).filter(|len| *len <= stored.len());
    let len = len.ok_or_else(|| Error::new("it is cut off; copy or download the file again"))?;
    let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
    Ok(View { element, storage: stored.start..stored.start + len, offset: tensor.offset, shape, strides })
}

/// PyTorch's zip: records below one folder, stored without compression.
fn read_zip(bytes: &[u8], entries: Entries) -> Result<Views> {
    let damaged = || "a damaged zip of torch.save";
    let mut archive = ZipArchive::new(Cursor::new(bytes)).context(damaged)?;
    if archive.has_overlapping_entries().context(damaged)? {
        return Err(Error::new("its records share bytes, which torch.save never does"));
    }
    let mut records = BTreeMap::new();
    for i in 0..archive.len() {
        let mut record = archive.by_index(i).context(damaged)?;
        let name = record.name().context(damaged)?.to_string();
        if record.compression() != CompressionMethod::Stored {
            return Err(Error::new(format!("its record {name} is compressed, which torch.save never does")));
        }
        let (start, len) = (record.data_start(), record.size());
        // Reading to the end checks the record's CRC.
        std::io::copy(&mut record, &mut std::io::sink()).context(|| format!("damaged record {name}"))?;
        let range = start.and_then(|start| usize::try_from(start).ok()).zip(usize::try_from(len).ok());
        let range =
            range.and_then(|(start, len)| Some(start..start.checked_add(len)?)).filter(|r| r.end <= bytes.len());
        records.insert(name, range.ok_or_else(|| Error::new("its records lie outside the file"))?);
    }
    let root = records.keys().find_map(|name| name.strip_suffix("data.pkl")).map(str::to_string);
    let root = root.ok_or_else(|| Error::new("a zip without data.pkl: not written by torch.save"))?;
    let record = |name: &str| {
        let found = records.get(&format!("{root}{name}")).cloned();
        found.ok_or_else(|| Error::new(format!("record {name} is missing; copy or download the file again")))
    };
    if let Ok(order) = record("byteorder")
        && bytes[order.clone()] != *b"little"
    {
        return Err(Error::new("its numbers are big-endian; save it on a little-endian machine"));
    }
    let pickled = unpickle(&bytes[record("data.pkl")?])?;
    let entry = |(name, tensor): (String, &Tensor<'_>)| {
        let stored = record(&format!("data/{}", tensor.storage.key))?;
        let view = view(tensor, stored).context(|| format!("tensor `{name}`"))?;
        Ok((name, view))
    };
    entries(&pickled)?.into_iter().map(entry).collect()
}

/// PyTorch's format before 1.6: pickles of a magic number, a version, the machine's byte order, the
/// state dict and a list of storage keys; then for each key a 64-bit length and the numbers.
fn read_legacy(bytes: &[u8], entries: Entries) -> Result<Views> {
    const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
    const VERSION: i128 = 1001;
    let mut at = 0;
    let mut next = || {
        let read = unpickle(&bytes[at..])?;
        at += read.end;
        Ok::<_, Error>(read)
    };
    if next()?.int() != Some(MAGIC) {
        return Err(Error::new("a pickle, but not one of torch.save"));
    }
    let version = next()?.int();
    if version != Some(VERSION) {
        return Err(Error::new(format!("version {version:?} of torch.save's format is not known")));
    }
    if next()?.field("little_endian") != Some(Value::Bool(true)) {
        return Err(Error::new("its numbers are big-endian; save it on a little-endian machine"));
    }
    let (pickled, keys) = (next()?, next()?);
    let tensors = entries(&pickled)?;
    let elements: BTreeMap<&str, Element> = pickled.storages().map(|storage| (storage.key, storage.element)).collect();
    let mut stored = BTreeMap::new();
    let mut rest = Cursor::new(bytes);
    rest.set_position(at as u64);
    for key in keys.texts()? {
        let cut = || Error::new("it is cut off; copy or download the file again");
        let mut len = [0; 8];
        rest.read_exact(&mut len).map_err(|_| cut())?;
        let element = elements.get(key).ok_or_else(|| Error::new(format!("no tensor uses its storage {key}")))?;
        let len = usize::try_from(u64::from_le_bytes(len)).ok().and_then(|n| n.checked_mul(element.bytes()));
        let start = rest.position() as usize;
        let end = len.and_then(|len| start.checked_add(len)).filter(|end| *end <= bytes.len()).ok_or_else(cut)?;
        rest.set_position(end as u64);
        stored.insert(key, start..end);
    }
    let entry = |(name, tensor): (String, &Tensor<'_>)| {
        let range = stored.get(tensor.storage.key).cloned();
        let range = range.ok_or_else(|| Error::new(format!("tensor `{name}` has no numbers in the file")))?;
        let view = view(tensor, range).context(|| format!("tensor `{name}`"))?;
        Ok((name, view))
    };
    tensors.into_iter().map(entry).collect()
}
