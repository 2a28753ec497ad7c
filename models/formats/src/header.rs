//! The JSON header of a safetensors file: checked in full before any tensor is read, encoded in one fixed order.
//!
//! The `safetensors` crate accepts duplicate names and unlimited headers, and writes metadata in random order; so the
//! header is handled here, with the crate's types, and compared with the crate in the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// Longest header read or written, in bytes.
pub(crate) const MAX_HEADER: usize = 16 << 20;
/// Most tensors in one file.
pub(crate) const MAX_TENSORS: usize = 1 << 16;
/// Most dimensions of one tensor.
pub(crate) const MAX_RANK: usize = 8;
/// Longest tensor name, in bytes.
pub(crate) const MAX_NAME: usize = 256;

const METADATA: &str = "__metadata__";

/// A checked header: unique names, and tensors in the order of their bytes, which cover the data exactly.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: Vec<(String, TensorInfo)>,
}

impl Header {
    /// Parses and checks a header over `data_len` bytes of data; the error says what was found and expected.
    pub(crate) fn parse(json: &[u8], data_len: u64) -> Result<Self, String> {
        if json.first() != Some(&b'{') {
            return Err("header does not start with '{', so this is not a safetensors file".into());
        }
        let mut header: Self = serde_json::from_slice(json).map_err(|e| format!("header is invalid: {e}"))?;
        header.tensors.sort_by_key(|(_, info)| info.data_offsets);
        let mut end = 0;
        for (name, info) in &header.tensors {
            let size = byte_size(info).map_err(|problem| format!("tensor {name:?} {problem}"))?;
            let (start, stop) = info.data_offsets;
            if start != end {
                return Err(format!(
                    "tensor {name:?} starts at data byte {start}, expected {end}: no holes or overlaps"
                ));
            }
            if stop.checked_sub(start) != Some(size) {
                let (dtype, shape) = (info.dtype, &info.shape);
                return Err(format!(
                    "tensor {name:?} spans data bytes {start} to {stop}, but {dtype} {shape:?} takes {size} bytes"
                ));
            }
            end = stop;
        }
        if end as u64 != data_len {
            return Err(format!("holds {data_len} bytes of data, but its tensors take {end}: truncated or foreign"));
        }
        Ok(header)
    }

    /// The header's bytes, padded with spaces to a multiple of 8.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).expect("strings and numbers serialise");
        json.resize(json.len().next_multiple_of(8), b' ');
        json
    }
}

/// Bytes that a tensor takes, or what is wrong with its shape.
fn byte_size(info: &TensorInfo) -> Result<usize, String> {
    if info.shape.len() > MAX_RANK {
        return Err(format!("has {} dimensions, at most {MAX_RANK} are allowed", info.shape.len()));
    }
    let values = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let bits = values.and_then(|n| n.checked_mul(info.dtype.bitsize()));
    let bits = bits.ok_or_else(|| format!("has shape {:?}, whose size overflows", info.shape))?;
    if bits % 8 != 0 {
        return Err(format!("({} {:?}) does not end at a byte", info.dtype, info.shape));
    }
    Ok(bits / 8)
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(METADATA, &self.metadata)?;
        for (name, info) in &self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensor names to tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut names = BTreeSet::new();
        let mut header = Header { metadata: BTreeMap::new(), tensors: Vec::new() };
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("name {name:?} appears twice")));
            }
            if name == METADATA {
                header.metadata = map.next_value::<Metadata>()?.0;
                continue;
            }
            if name.len() > MAX_NAME {
                let length = name.len();
                return Err(A::Error::custom(format!("a name has {length} bytes, at most {MAX_NAME} are allowed")));
            }
            if header.tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("has more than {MAX_TENSORS} tensors")));
            }
            let info = map.next_value().map_err(|e| A::Error::custom(format!("tensor {name:?}: {e}")))?;
            header.tensors.push((name, info));
        }
        Ok(header)
    }
}

/// Strings by key, each key once.
#[derive(serde::Serialize)]
pub(crate) struct Metadata(pub(crate) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from strings to strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if strings.insert(key.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("metadata key {key:?} appears twice")));
                    }
                }
                Ok(Metadata(strings))
            }
        }
        deserializer.deserialize_map(Strings)
    }
}

#[cfg(test)]
mod tests;
