//! HDF5, as Keras writes weights (`.weights.h5`): every array by its path, such as `block1/layers/conv2d/vars/0`.

use hdf5_reader::Hdf5File;
use hdf5_reader::group::Group;
use kiln_core::{Context, Error, Result};

/// Groups lie in each other at most so deep.
const DEPTH: usize = 32;

/// An array of numbers.
pub(crate) struct Array {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// The place of its little-endian `f32` in the bytes of [`read`].
    pub(crate) start: usize,
}

/// The arrays of `f32` in a file, and their bytes one after another, which are no more than the file has: compressed ones are refused.
///
/// # Errors
/// If the file is damaged, or has other arrays.
pub(crate) fn read(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Array>)> {
    let damaged = || "damaged HDF5";
    let file = Hdf5File::from_bytes(bytes).context(damaged)?;
    let end = file.superblock().base_address.saturating_add(file.superblock().eof_address);
    if end > bytes.len() as u64 {
        return Err(Error::new("it is cut off; copy or download the file again"));
    }
    let mut found = (Vec::new(), Vec::new());
    collect(&file.root_group().context(damaged)?, "", 0, bytes.len(), &mut found)?;
    Ok(found)
}

fn collect(group: &Group, above: &str, depth: usize, most: usize, found: &mut (Vec<u8>, Vec<Array>)) -> Result<()> {
    let damaged = || format!("damaged HDF5 in `{above}`");
    if depth > DEPTH {
        return Err(Error::new(format!("HDF5: groups lie in each other more than {DEPTH} deep")));
    }
    let path = |name: &str| if above.is_empty() { name.to_string() } else { format!("{above}/{name}") };
    let (groups, datasets) = group.members().context(damaged)?;
    for dataset in datasets {
        let (bytes, arrays) = &mut *found;
        let name = path(dataset.name());
        let size = dataset.raw_byte_len().context(damaged)?;
        if size > most.saturating_sub(bytes.len()) {
            return Err(Error::new(format!("tensor `{name}` holds more than the file: compressed HDF5 is not read")));
        }
        let shape = dataset.shape().iter().map(|&side| usize::try_from(side)).collect::<std::result::Result<_, _>>();
        let array = dataset.read_array::<f32>().context(|| format!("tensor `{name}`"))?;
        arrays.push(Array { name, shape: shape.context(damaged)?, start: bytes.len() });
        bytes.extend(array.iter().flat_map(|value| value.to_le_bytes()));
    }
    for inner in groups {
        collect(&inner, &path(inner.name()), depth + 1, most, found)?;
    }
    Ok(())
}
